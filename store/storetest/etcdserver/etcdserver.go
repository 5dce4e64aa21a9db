// Package etcdserver runs real etcd servers for tests: one or several processes, on loopback or wherever the caller starts them, with data
// on a real disk and fsync on. The binary is built once from the module that go.mod pins, and cached outside the tree.
package etcdserver

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

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const module = "go.etcd.io/etcd/server/v3"

// Build returns the path of the etcd binary, which it makes if it is not cached ($WEFT_TEST_CACHE, or the user's cache directory).
func Build(ctx context.Context) (string, error) {
	dir := os.Getenv("WEFT_TEST_CACHE")
	if dir == "" {
		c, err := os.UserCacheDir()
		if err != nil {
			c = "/var/cache"
		}
		dir = filepath.Join(c, "weft-test")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the version of etcd: %w", err)
	}
	bin := filepath.Join(dir, "etcd-"+strings.TrimSpace(string(out)))
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin+".new", module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build etcd: %w\n%s", err, text)
	}
	return bin, os.Rename(bin+".new", bin)
}

// Cluster is one or more servers.
type Cluster struct {
	Members []*Member
	token   string
}

// Member is one server process.
type Member struct {
	Name     string
	Endpoint string // HOST:PORT for clients
	args     []string
	bin      string
	start    func(*exec.Cmd) error
	cmd      *exec.Cmd
	log      *os.File
}

// Options of a cluster. Start, if set, starts the processes (in another network namespace, for one); Host is the address they listen on,
// 127.0.0.1 if empty; with Port set, that one is the first member's, for clients.
type Options struct {
	Size  int
	Dir   string
	Host  string
	Port  int
	Start func(*exec.Cmd) error
	Ready func(context.Context, *Cluster) error // nil: asks as a client in this process's namespace
}

// Start starts a cluster and waits until it answers.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	bin, err := Build(ctx)
	if err != nil {
		return nil, err
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	c := &Cluster{token: filepath.Base(o.Dir)}
	var peers []string
	type ports struct{ client, peer string }
	var ps []ports
	for i := range max(o.Size, 1) {
		p := ports{}
		if p.client, err = o.addr(o.Port + i*10); err != nil {
			return nil, err
		}
		if p.peer, err = o.addr(o.Port + i*10 + 1); err != nil {
			return nil, err
		}
		ps = append(ps, p)
		peers = append(peers, fmt.Sprintf("m%d=http://%s", i, p.peer))
	}
	for i, p := range ps {
		name := fmt.Sprintf("m%d", i)
		c.Members = append(c.Members, &Member{
			Name: name, Endpoint: p.client, bin: bin, start: o.Start,
			args: []string{
				"--name", name, "--data-dir", filepath.Join(o.Dir, name), "--listen-client-urls", "http://" + p.client, "--advertise-client-urls", "http://" + p.client,
				"--listen-peer-urls", "http://" + p.peer, "--initial-advertise-peer-urls", "http://" + p.peer, "--initial-cluster", strings.Join(peers, ","),
				"--initial-cluster-token", c.token, "--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "warn",
			},
		})
	}
	for _, m := range c.Members {
		if m.log, err = os.OpenFile(filepath.Join(o.Dir, m.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err == nil {
			err = m.Start()
		}
		if err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	ready := o.Ready
	if ready == nil {
		ready = func(ctx context.Context, c *Cluster) error { return c.Wait(ctx) }
	}
	if err := ready(ctx, c); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// addr is a free address, or with a port that one.
func (o Options) addr(port int) (string, error) {
	if o.Port != 0 {
		return net.JoinHostPort(o.Host, fmt.Sprint(port)), nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(o.Host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Endpoints are all members', for clients.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, m := range c.Members {
		out = append(out, m.Endpoint)
	}
	return out
}

// Client returns a plain client of the cluster.
func (c *Cluster) Client() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
}

// Wait waits until the cluster takes writes.
func (c *Cluster) Wait(ctx context.Context) error {
	cli, err := c.Client()
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, time.Second)
		_, err := cli.Put(try, "ready", "")
		done()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("etcd is not ready: %w", err)
		}
	}
}

// Compact forgets all history.
func (c *Cluster) Compact(ctx context.Context) error {
	cli, err := c.Client()
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	r, err := cli.Get(ctx, "ready")
	if err != nil {
		return err
	}
	_, err = cli.Compact(ctx, r.Header.Revision)
	if err != nil && strings.Contains(err.Error(), "compacted") {
		return nil // another test was there first
	}
	return err
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

// Start starts the member, again after Kill.
func (m *Member) Start() error {
	m.cmd = exec.Command(m.bin, m.args...)
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if m.start != nil {
		return m.start(m.cmd)
	}
	return m.cmd.Start()
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
			return fmt.Errorf("etcd %d goes on though it was told to stop", m.cmd.Process.Pid)
		}
	}
}

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

func (m *Member) Resume() error { return m.cmd.Process.Signal(syscall.SIGCONT) }
