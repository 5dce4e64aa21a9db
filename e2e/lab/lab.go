// Package lab is a cluster on one machine: hosts that are network namespaces, a network between them, and a weftd on each. The demo and
// the tests of whole hosts stand on it. It is at the end of the flow: it runs the programs as a user would, and knows nothing of what is
// inside of them.
//
//	host 1 ── eth0 ┐
//	host 2 ── eth0 ┼ br0 (the underlay's namespace) ── eth0 ── outside
//	host 3 ── eth0 ┘
//
// The hosts' default route leads to the node "outside", which stands for the rest of the world: it has no route back but to the hosts
// themselves, and sends nothing on.
//
// All that a lab makes is under its directory or bound beside it by a prefix of its own, so that a lab that was killed can be found and
// swept away by the next (Sweep).
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"weft/identity"
)

// Config of a lab.
type Config struct {
	Dir      string // the lab's alone; New makes it and Close removes it. Short, since sockets are in it
	NetnsDir string // where the namespaces are bound; "": under Dir
	Prefix   string // of the namespaces' names in NetnsDir; needed where that is not the lab's alone
	Weftd    string // the agent's program
	Weft     string // the command's program
	Store    Store  // nil: Embedded
	Log      *slog.Logger
}

// complete fills in what may be left out.
func (c Config) complete() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Store == nil {
		c.Store = Embedded{}
	}
	if c.NetnsDir == "" {
		c.NetnsDir, c.Prefix = filepath.Join(c.Dir, "netns"), ""
	}
	return c
}

// Store says where a lab's cluster keeps its records.
type Store interface {
	// Args are weftd's options for it on a host.
	Args(h *Host) []string
}

// Embedded is the etcd inside the first host's agent, which serves the others.
type Embedded struct{}

const embeddedPort = 2379

// Args makes the first host serve; the others are told of it when they join.
func (Embedded) Args(h *Host) []string {
	if h.number != 1 {
		return nil
	}
	return []string{"--embedded-listen", netip.AddrPortFrom(hostAddr(1), embeddedPort).String()}
}

// Addresses of the underlay, all from blocks that are for documentation: 192.0.2.1 is outside, hosts are at .11 and up, other nodes below, and from .150 on
// where there are more of them.
var (
	underlayNet  = netip.MustParsePrefix("192.0.2.0/24")
	outsideAddr  = netip.MustParseAddr("192.0.2.1")
	firstHost    = 10
	moreNodes    = 140
	outsideWorld = netip.MustParseAddr("198.51.100.1")
)

func hostAddr(n int) netip.Addr {
	a := underlayNet.Addr().As4()
	a[3] = byte(firstHost + n)
	return netip.AddrFrom4(a)
}

func nodeAddr(n int) netip.Addr {
	a := outsideAddr.As4()
	if a[3] += byte(n); int(a[3]) > firstHost {
		a[3] = byte(moreNodes + n)
	}
	return netip.AddrFrom4(a)
}

// Lab is a running lab.
type Lab struct {
	cfg     Config
	lock    *os.File
	br      *Node // the bridge's namespace
	outside *Node

	mu        sync.Mutex // guards what follows
	hosts     []*Host
	nodes     int
	authority *identity.Authority // of the first host: it has been there before the agents
}

// New makes the underlay and the outside. What an earlier lab left in the same place is swept away first.
func New(ctx context.Context, cfg Config) (_ *Lab, err error) {
	cfg = cfg.complete()
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg, lock: lock}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := remainsOf(cfg).clear(ctx); err != nil {
		return nil, fmt.Errorf("sweep away what an earlier lab left: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	if l.br, err = l.makeNode("underlay", netip.Addr{}); err != nil {
		return nil, err
	}
	if err := l.br.makeBridge(); err != nil {
		return nil, err
	}
	if l.outside, err = l.makeNode("outside", outsideAddr); err != nil {
		return nil, err
	}
	if err := l.plug(l.outside, "outside"); err != nil {
		return nil, err
	}
	return l, l.outside.addLoopback(outsideWorld)
}

// lockDir makes a lab's directory this process's as long as the file is open. The file is beside the directory, which comes and goes.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the lab's directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || err == nil && !same(f) { // its owner has just removed it
		err = fmt.Errorf("%s: %w", dir, ErrBusy)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the lab's directory: %w", err), f.Close())
	}
	return f, nil
}

// same tells whether an open file is still the one of its name.
func same(f *os.File) bool {
	open, err := f.Stat()
	named, err2 := os.Stat(f.Name())
	return err == nil && err2 == nil && os.SameFile(open, named)
}

// ErrBusy is returned where another process has a lab in the same place.
var ErrBusy = errors.New("in use by another process")

// Outside is the node that stands for the rest of the world; its address there is 198.51.100.1.
func (l *Lab) Outside() *Node { return l.outside }

// OutsideAddr is an address that the hosts reach by their default route only.
func (l *Lab) OutsideAddr() netip.Addr { return outsideWorld }

// Hosts are the hosts in the order in which they were added.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Host(nil), l.hosts...)
}

// AddNode plugs a namespace without an agent into the underlay, for a store or whatever else the hosts are to reach.
func (l *Lab) AddNode(name string) (*Node, error) {
	l.mu.Lock()
	l.nodes++
	a := nodeAddr(l.nodes)
	l.mu.Unlock()
	n, err := l.makeNode(name, a)
	if err != nil {
		return nil, err
	}
	return n, l.plug(n, name)
}

// Leave lets go of the lab and leaves everything running; Sweep ends it.
func (l *Lab) Leave() error {
	for _, h := range l.Hosts() {
		h.closeClient()
	}
	return l.lock.Close()
}

// Close ends all processes of the lab and removes everything that it made. It may be called more than once.
func (l *Lab) Close() error {
	for _, h := range l.Hosts() {
		h.closeClient()
	}
	err := remainsOf(l.cfg).clear(context.Background())
	for _, h := range l.Hosts() {
		h.reap()
		h.unmanage()
	}
	_ = os.Remove(l.cfg.Dir + ".lock")
	return errors.Join(err, ignoreClosed(l.lock.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// WeftPath is the command's program.
func (l *Lab) WeftPath() string { return l.cfg.Weft }
