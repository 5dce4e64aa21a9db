// Package server runs real store servers for tests: etcd, Consul or ZooKeeper, one or several processes, each with its own data directory
// and ports, on loopback or wherever the caller starts them, with data on a real disk and fsync on. Binaries that Go modules make are built
// once, from pinned versions, and cached outside the tree; ZooKeeper is Debian's.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Kind is a back end.
type Kind string

// The kinds, which are the schemes of their URLs.
const (
	Etcd      Kind = "etcd"
	Consul    Kind = "consul"
	ZooKeeper Kind = "zk"
)

// Kinds are all of them.
var Kinds = []Kind{Etcd, Consul, ZooKeeper}

// Options of a cluster. What is left out means: etcd, one member, 127.0.0.1, free ports, processes started and reached from this process's
// own network namespace.
type Options struct {
	Kind   Kind
	Size   int
	Dir    string                                                               // data, configuration and logs of all members
	Host   string                                                               // address that all members listen on
	Hosts  []string                                                             // instead of Host, one address for each
	Port   int                                                                  // the first member's, for clients; the others' follow in tens
	Secure bool                                                                 // TLS with client certificates, and authentication
	Consul map[string]any                                                       // what to add to Consul's configuration
	Start  func(*Member, *exec.Cmd) error                                       // starts a member's process (in another network namespace, for one)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error) // reaches the members as a client
}

// Cluster is one or more servers.
type Cluster struct {
	Kind    Kind
	Members []*Member
	opts    Options
	driver  driver
}

// Member is one server process.
type Member struct {
	Name     string
	Endpoint string // HOST:PORT for clients
	Dir      string // its data
	ports    []string
	cluster  *Cluster
	cmd      *exec.Cmd
	log      *os.File
}

// driver is what differs between the kinds.
type driver interface {
	// prepare makes sure that the program is there.
	prepare(ctx context.Context) error
	// ports is how many addresses a member needs; the first is for clients.
	ports() int
	// command is a member's process; it writes the configuration that this needs.
	command(m *Member) (*exec.Cmd, error)
	// wait waits until the cluster takes writes.
	wait(ctx context.Context, c *Cluster) error
	// leader is the index of the member that leads.
	leader(ctx context.Context, c *Cluster) (int, error)
}

// Start starts a cluster and waits until it takes writes.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Kind == "" {
		o.Kind = Etcd
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Start == nil {
		o.Start = func(_ *Member, cmd *exec.Cmd) error { return cmd.Start() }
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	c := &Cluster{Kind: o.Kind, opts: o}
	switch o.Kind {
	case Etcd:
		c.driver = &etcd{}
	case Consul:
		c.driver = &consul{}
	case ZooKeeper:
		c.driver = &zookeeper{}
	default:
		return nil, fmt.Errorf("no such store: %s", o.Kind)
	}
	if err := c.driver.prepare(ctx); err != nil {
		return nil, err
	}
	if err := c.lay(); err != nil {
		return nil, err
	}
	if o.Secure {
		if err := makeIdentities(o.Dir, c.hosts()); err != nil {
			return nil, err
		}
	}
	for _, m := range c.Members {
		if err := m.open(); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	if err := c.Wait(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// lay gives each member its name, place and addresses.
func (c *Cluster) lay() error {
	for i := range max(c.opts.Size, 1) {
		host := c.opts.Host
		if len(c.opts.Hosts) > 0 {
			host = c.opts.Hosts[i]
		}
		m := &Member{Name: fmt.Sprintf("m%d", i), cluster: c}
		m.Dir = filepath.Join(c.opts.Dir, m.Name)
		for p := range c.driver.ports() {
			a, err := c.address(host, i*10+p)
			if err != nil {
				return err
			}
			m.ports = append(m.ports, a)
		}
		m.Endpoint = m.ports[0]
		c.Members = append(c.Members, m)
	}
	return nil
}

// address is a free one, or with a port that one.
func (c *Cluster) address(host string, offset int) (string, error) {
	if c.opts.Port != 0 {
		return net.JoinHostPort(host, fmt.Sprint(c.opts.Port+offset)), nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (c *Cluster) hosts() []string {
	var out []string
	for _, m := range c.Members {
		h, _, _ := net.SplitHostPort(m.Endpoint)
		out = append(out, h)
	}
	return out
}

// Endpoints are all members', for clients.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, m := range c.Members {
		out = append(out, m.Endpoint)
	}
	return out
}

// URL is what weftd's --cluster-store takes.
func (c *Cluster) URL(prefix string) string {
	return string(c.Kind) + "://" + strings.Join(c.Endpoints(), ",") + "/" + prefix
}

// StoreOpts are the --cluster-store-opt that a client of a secure cluster needs.
func (c *Cluster) StoreOpts() map[string]string {
	if !c.opts.Secure {
		return nil
	}
	return c.identityOpts()
}

// Wait waits until the cluster takes writes.
func (c *Cluster) Wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return c.driver.wait(ctx, c)
}

// Leader is the member that leads.
func (c *Cluster) Leader(ctx context.Context) (*Member, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	i, err := c.driver.leader(ctx, c)
	if err != nil {
		return nil, err
	}
	return c.Members[i], nil
}

// Stop kills all members.
func (c *Cluster) Stop() error {
	var errs []error
	for _, m := range c.Members {
		errs = append(errs, m.Kill())
		if m.log != nil {
			errs = append(errs, m.log.Close())
			m.log = nil
		}
	}
	return errors.Join(errs...)
}

// open starts the member the first time.
func (m *Member) open() error {
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return err
	}
	var err error
	if m.log, err = os.OpenFile(m.Dir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return err
	}
	return m.Start()
}

// Start starts the member, again after Kill.
func (m *Member) Start() error {
	cmd, err := m.cluster.driver.command(m)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = m.log, m.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.cmd = cmd
	return m.cluster.opts.Start(m, cmd)
}

// Kill ends the member with SIGKILL.
func (m *Member) Kill() error {
	if m.cmd == nil || m.cmd.Process == nil {
		return nil
	}
	err := m.cmd.Process.Kill()
	_ = m.cmd.Wait() // killed: its status says so
	m.cmd = nil
	return err
}

// Lose takes all that the member, which is down, had on its disk.
func (m *Member) Lose() error { return os.RemoveAll(m.Dir) }

// Pause stops the member's process, Resume lets it go on.
func (m *Member) Pause() error {
	if err := m.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for end := time.Now().Add(pauseWait); ; time.Sleep(time.Millisecond) {
		if stopped(m.cmd.Process.Pid) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s %d goes on though it was told to stop", m.cluster.Kind, m.cmd.Process.Pid)
		}
	}
}

// Resume lets a paused member go on.
func (m *Member) Resume() error { return m.cmd.Process.Signal(syscall.SIGCONT) }

// pauseWait is how long a busy machine may take to stop a process: a signal only asks for it.
const pauseWait = 5 * time.Second

// stopped tells whether no thread of a process runs (proc(5), state T).
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, f := range threads {
		raw, rerr := os.ReadFile(f)
		_, after, found := strings.Cut(string(raw), ") ")
		if rerr != nil || !found || !strings.HasPrefix(after, "T") {
			return false
		}
	}
	return err == nil && len(threads) > 0
}

// token tells clusters apart that find each other on one machine.
func (c *Cluster) token() string { return filepath.Base(c.opts.Dir) }
