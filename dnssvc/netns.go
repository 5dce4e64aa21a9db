package dnssvc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

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

func (s *sockets) close() { _ = errors.Join(s.udp.Close(), s.tcp.Close()) }

// listen opens the sockets of a resolver in a network namespace. A socket belongs for ever to the namespace of the thread that made it.
func listen(ctx context.Context, path string) (*sockets, error) {
	in, err := namespaceOf(path)
	if err != nil {
		return nil, err
	}
	s := &sockets{in: in}
	if err := within(path, func() error { return s.open(ctx) }); err != nil {
		return nil, fmt.Errorf("open %s:%d in network namespace %s: %w", resolverAddr, resolverPort, path, err)
	}
	return s, nil
}

func (s *sockets) open(ctx context.Context) error {
	addr := fmt.Sprintf("%s:%d", resolverAddr, resolverPort)
	lc := net.ListenConfig{Control: widen}
	lc.SetMultipathTCP(false)
	udp, err := lc.ListenPacket(ctx, "udp4", addr)
	if err != nil {
		return err
	}
	tcp, err := lc.Listen(ctx, "tcp4", addr)
	if err != nil {
		return errors.Join(err, udp.Close())
	}
	s.udp, s.tcp = udp.(*net.UDPConn), tcp.(*net.TCPListener)
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
