package probe

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"weft/kernel"
)

// Way is where a network's tunnel is on this host.
type Way struct {
	Network string // its ID
	Netns   string // file of its namespace
	Bridge  string // what the tunnel is a port of
	Tunnel  string // the VXLAN device
	VNI     uint32
	MTU     int
	MAC     string // of the tunnel's end here
}

// socket sends and receives probes on one way. Frames come to the function that it was opened with, one at a time.
type socket interface {
	send(frame []byte) error
	close()
}

// packetSocket is a socket of packet(7): bound to the bridge, which gives the host what is for it, and sending by the tunnel.
type packetSocket struct {
	file   *os.File
	raw    syscall.RawConn
	fd     int
	tunnel int // index
	done   sync.WaitGroup
}

// openPacket opens a way's socket. gone is called once where it has died: its bridge is not there any more.
func openPacket(w Way, receive func(frame []byte), gone func()) (socket, error) {
	var s *packetSocket
	err := kernel.Within(w.Netns, func() (err error) {
		s, err = dialPacket(w, w.Bridge, EtherType)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a socket for probes in %s: %w", w.Netns, err)
	}
	s.done.Go(func() {
		s.read(receive)
		gone()
	})
	return s, nil
}

// dialPacket opens a socket in the thread's namespace that hears one protocol on a link, and sends by the way's tunnel. With protocol 0 it hears nothing yet.
func dialPacket(w Way, link string, protocol uint16) (*packetSocket, error) {
	tunnel, err := net.InterfaceByName(w.Tunnel)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", w.Tunnel, err)
	}
	ear, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", link, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if protocol != 0 {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: ear.Index})
	}
	s := &packetSocket{file: os.NewFile(uintptr(fd), "probes"), fd: fd, tunnel: tunnel.Index}
	if err == nil {
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// send sends by the tunnel. Where that has gone, another in its place included, the socket is of no use any more and dies.
func (s *packetSocket) send(frame []byte) error {
	var err error
	werr := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), frame, 0, &unix.SockaddrLinklayer{Protocol: htons(EtherType), Ifindex: s.tunnel})
		return !errors.Is(err, unix.EAGAIN)
	})
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		_ = s.file.Close()
		return fmt.Errorf("%w: %w", ErrNoWay, err)
	}
	return errors.Join(werr, err)
}

// read hands over frames until the socket dies.
func (s *packetSocket) read(receive func([]byte)) {
	b := make([]byte, frameSize)
	for {
		var n int
		var err error
		if rerr := s.raw.Read(func(fd uintptr) bool {
			n, _, err = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(err, unix.EAGAIN)
		}); rerr != nil {
			return
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ENETDOWN: the bridge went
			return
		default:
			receive(b[:n])
		}
	}
}

// close returns when nothing more is handed over.
func (s *packetSocket) close() {
	_ = s.file.Close()
	s.done.Wait()
}
