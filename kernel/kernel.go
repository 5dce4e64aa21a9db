package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Kernel is the real Executor. Its methods may be called from several goroutines; each namespace's socket serves one at a time.
type Kernel struct {
	cfg Config

	mu    sync.Mutex // guards conns
	conns map[string]*slot
}

// slot is a namespace's socket with its turn: held across I/O, by the one that uses the socket.
type slot struct {
	turn sync.Mutex
	c    *conn // nil: closed
}

// Config of a Kernel.
type Config struct {
	Log      *slog.Logger
	HostNS   string // the namespace that counts as the host's; "": the process's own
	NetnsDir string // where weft's own namespaces are bound
}

var _ Executor = (*Kernel)(nil)

// Open prepares the directory of namespaces and the host's socket.
func Open(cfg Config) (*Kernel, error) {
	if err := shareDir(cfg.NetnsDir); err != nil {
		return nil, err
	}
	k := &Kernel{cfg: cfg, conns: map[string]*slot{}}
	return k, k.with(HostNS, func(*conn) error { return nil })
}

// Close closes all sockets.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.conns {
		s.turn.Lock()
		if s.c != nil {
			s.c.close()
			s.c = nil
		}
		s.turn.Unlock()
	}
	k.conns = map[string]*slot{}
	return nil
}

// with runs f with a namespace's socket.
func (k *Kernel) with(ns string, f func(*conn) error) error {
	k.mu.Lock()
	s := k.conns[ns]
	if s == nil {
		s = &slot{}
		k.conns[ns] = s
	}
	k.mu.Unlock()
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.c == nil {
		c, err := k.open(ns)
		if err != nil {
			k.drop(ns, s)
			return err
		}
		s.c = c
	}
	return f(s.c)
}

func (k *Kernel) open(ns string) (*conn, error) {
	path := ns
	if ns == HostNS {
		if path = k.cfg.HostNS; path == "" {
			path = "/proc/self/ns/net"
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return dial(f)
}

func (k *Kernel) drop(ns string, s *slot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conns[ns] == s {
		delete(k.conns, ns)
	}
}

// forget closes a namespace's socket, which would keep the namespace alive.
func (k *Kernel) forget(ns string) {
	k.mu.Lock()
	s := k.conns[ns]
	delete(k.conns, ns)
	k.mu.Unlock()
	if s == nil {
		return
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.c != nil {
		s.c.close()
		s.c = nil
	}
}

// fd returns a descriptor of a namespace, for IFLA_NET_NS_FD; it is valid as long as the namespace's socket is open.
func (k *Kernel) fd(ns string) (uintptr, error) {
	var fd uintptr
	err := k.with(ns, func(c *conn) error {
		fd = c.ns.Fd()
		return nil
	})
	return fd, err
}

// Namespaces lists weft's own.
func (k *Kernel) Namespaces(context.Context) ([]string, error) { return ownNamespaces(k.cfg.NetnsDir) }

// own tells whether a namespace is weft's own, and not the host's or a sandbox's.
func (k *Kernel) own(ns string) bool {
	return strings.HasPrefix(ns, k.cfg.NetnsDir+"/"+netnsPrefix)
}

// Check returns what this process lacks to change networks: one line that names it.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("weftd must run as root: it makes network namespaces and interfaces (start it with sudo, or as a service)")
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return fmt.Errorf("read this process's capabilities: %w", err)
	}
	for bit, name := range map[int]string{unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN"} {
		if d[bit/32].Effective&(1<<(bit%32)) == 0 {
			return fmt.Errorf("weftd lacks the capability %s: give it to the service or container that it runs in", name)
		}
	}
	return nil
}
