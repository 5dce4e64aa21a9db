package dnssvc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// receiveBuffer is how many bytes of questions may wait in the kernel: a burst that comes while the agent is busy must not be lost.
const receiveBuffer = 1 << 20

// namespace tells network namespaces apart, also where one file stood for several in turn.
type namespace struct{ dev, ino uint64 }

func namespaceOf(path string) (namespace, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return namespace{}, fmt.Errorf("look at network namespace %s: %w", path, err)
	}
	return namespace{uint64(st.Dev), st.Ino}, nil
}

// sockets are what one sandbox asks through.
type sockets struct {
	in  namespace
	udp *net.UDPConn
	tcp *net.TCPListener
}

// wake ends the reads that wait, and lets none begin.
func (s *sockets) wake() {
	past := time.Unix(1, 0)
	_ = s.udp.SetReadDeadline(past) // no error is possible: both are open
	_ = s.udp.SetWriteDeadline(time.Now().Add(connWrite))
	_ = s.tcp.SetDeadline(past)
}

func (s *sockets) close() {
	if s.udp != nil {
		_ = s.udp.Close()
	}
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
}

// listen returns the sockets of a sandbox's resolver in a network namespace: those that the Keeper has, and new ones for what it has not.
// A socket belongs for ever to the namespace of the thread that made it.
func listen(ctx context.Context, id, path string, keeper Keeper) (*sockets, error) {
	in, err := namespaceOf(path)
	if err != nil {
		return nil, err
	}
	s := &sockets{in: in}
	if keeper != nil {
		s.adopt(id, keeper)
	}
	hadUDP, hadTCP := s.udp != nil, s.tcp != nil
	if err := s.openMissing(ctx, path, keeper != nil); err != nil {
		s.close()
		return nil, fmt.Errorf("open %s:%d in network namespace %s: %w", resolverAddr, resolverPort, path, err)
	}
	if keeper != nil && !hadUDP {
		keeper.Keep(id, s.udp)
	}
	if keeper != nil && !hadTCP {
		keeper.Keep(id, s.tcp)
	}
	return s, nil
}

// lettingGo is how long a Keeper may take to let a socket go that it was told to drop: until then the address is in use.
const (
	lettingGo = 2 * time.Second
	lookAgain = 5 * time.Millisecond
)

// openMissing opens the sockets that are not there yet.
func (s *sockets) openMissing(ctx context.Context, path string, wait bool) error {
	if s.udp != nil && s.tcp != nil {
		return nil
	}
	for end := time.Now().Add(lettingGo); ; time.Sleep(lookAgain) {
		err := within(path, func() error { return s.open(ctx) })
		if !errors.Is(err, unix.EADDRINUSE) || !wait || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
	}
}

func (s *sockets) open(ctx context.Context) error {
	addr := fmt.Sprintf("%s:%d", resolverAddr, resolverPort)
	lc := net.ListenConfig{Control: widen}
	lc.SetMultipathTCP(false)
	if s.udp == nil {
		udp, err := lc.ListenPacket(ctx, "udp4", addr)
		if err != nil {
			return err
		}
		s.udp = udp.(*net.UDPConn)
	}
	if s.tcp == nil {
		tcp, err := lc.Listen(ctx, "tcp4", addr)
		if err != nil {
			return err
		}
		s.tcp = tcp.(*net.TCPListener)
	}
	return nil
}

// widen makes room for waiting questions; without the right to it the system's size must do.
func widen(network, _ string, c syscall.RawConn) error {
	if network != "udp4" {
		return nil
	}
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	})
}

// within runs f on a thread that is in a namespace. The thread goes back to its own one after that; where it cannot, it is not used again.
func within(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := func() (bool, error) {
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return true, err
			}
			defer func() { _ = home.Close() }()
			there, err := os.Open(path)
			if err != nil {
				return true, err
			}
			defer func() { _ = there.Close() }()
			if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
				return true, fmt.Errorf("enter it: %w", err)
			}
			err = f()
			return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil, err
		}()
		if back {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
