package dnssvc

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Keeper holds resolvers' sockets beyond the life of this process, for the next one: what a sandbox asks meanwhile waits in them. Its methods
// may be called from any goroutine, and do not fail: a socket that is not kept ends with the process, as all do without a Keeper.
type Keeper interface {
	// Take returns the sockets that were kept for a sandbox by an earlier process, each once; the caller closes them.
	Take(id string) []*os.File
	// Keep keeps one more socket for a sandbox.
	Keep(id string, socket syscall.Conn)
	// Drop forgets all sockets of a sandbox. It may still hold them for a moment when it has returned.
	Drop(id string)
}

// adopt takes over the sockets that were kept for a sandbox and are in its namespace. Where one is not, all are dropped, and the others kept
// anew: they have one name with the Keeper.
func (s *sockets) adopt(id string, keeper Keeper) {
	strange := false
	for _, f := range keeper.Take(id) {
		strange = s.take(f) != nil || strange
		_ = f.Close() // what was taken over is a duplicate
	}
	if !strange {
		return
	}
	keeper.Drop(id)
	if s.udp != nil {
		keeper.Keep(id, s.udp)
	}
	if s.tcp != nil {
		keeper.Keep(id, s.tcp)
	}
}

// take takes one socket over.
func (s *sockets) take(f *os.File) error {
	if err := s.mine(f); err != nil {
		return err
	}
	if c, err := net.FilePacketConn(f); err == nil {
		udp, ok := c.(*net.UDPConn)
		if !ok || s.udp != nil || !isResolver(c.LocalAddr()) {
			_ = c.Close()
			return fmt.Errorf("socket %s is no resolver's", c.LocalAddr())
		}
		s.udp = udp
		return nil
	}
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok || s.tcp != nil || !isResolver(l.Addr()) {
		_ = l.Close()
		return fmt.Errorf("listener %s is no resolver's", l.Addr())
	}
	s.tcp = tcp
	return nil
}

// mine tells whether a socket is in the namespace: a sandbox that was started again has another one.
func (s *sockets) mine(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var in namespace
	ctlErr := raw.Control(func(fd uintptr) { in, err = namespaceOfSocket(int(fd)) })
	if ctlErr != nil {
		return ctlErr
	}
	if err == nil && in != s.in {
		err = fmt.Errorf("socket %s is in another network namespace", f.Name())
	}
	return err
}

func namespaceOfSocket(fd int) (namespace, error) {
	ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		return namespace{}, fmt.Errorf("find the network namespace of a socket: %w", err)
	}
	defer func() { _ = unix.Close(ns) }()
	var st unix.Stat_t
	if err := unix.Fstat(ns, &st); err != nil {
		return namespace{}, fmt.Errorf("find the network namespace of a socket: %w", err)
	}
	return namespace{uint64(st.Dev), st.Ino}, nil
}

func isResolver(a net.Addr) bool {
	p, err := netip.ParseAddrPort(a.String())
	return err == nil && p == netip.AddrPortFrom(netip.MustParseAddr(resolverAddr), resolverPort)
}
