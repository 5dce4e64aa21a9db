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

// Kernel is the real Executor. Its methods may be called from several goroutines.
type Kernel struct {
	cfg  Config
	host string // the file of the host's namespace
	mine portIDs

	spaces   spaces
	settings settings

	mu     sync.Mutex // guards what follows and every slot's users and gone; never held across I/O
	slots  map[place]*slot
	closed bool
	confs  map[string]bool // settings of links that were put
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
	k := &Kernel{cfg: cfg, host: cfg.HostNS, slots: map[place]*slot{}}
	if k.host == "" {
		k.host = "/proc/thread-self/ns/net" // any thread's but one that is inside another namespace, which runs nothing else
	}
	k.settings.open(cfg.Log)
	if err := k.with(HostNS, func(*conn) error { return nil }); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// Close closes all sockets, those in use after their last use. Whoever comes later gets os.ErrClosed.
func (k *Kernel) Close() error {
	k.mu.Lock()
	k.closed = true
	idle := k.dropLocked(func(place) bool { return true })
	k.mu.Unlock()
	closeAll(idle)
	k.spaces.close()
	return k.settings.close()
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
