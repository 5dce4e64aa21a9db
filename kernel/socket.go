package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Sizes of one socket. The default buffers overflow on dumps and batches.
const (
	socketBuffer = 4 << 20
	batchMax     = 128             // messages of one sendmsg
	replyWait    = 5 * time.Second // until an answer is given up: RTNL may be held by others for long
	dumpTries    = 10
)

// bufferSize holds the largest datagram of a dump.
const bufferSize = 64 << 10

// buffers are those of sockets that have been closed: a thousand namespaces are read with a socket or two for each.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// socket is a raw netlink socket: batches with one acknowledgement, and dumps that are whole or an error. After any doubt about what is
// still to come from it (an overflow, an answer that did not come) it is opened anew.
type socket struct {
	ns       *os.File // conn's
	protocol int
	fd       int // -1: to be opened
	seq      uint32
	buf      *[bufferSize]byte  // while it is open
	opened   func(fd int) error // called with each new one
}

// message is one request: rtMsg, or nfMsg.
type message interface {
	// encode returns the message with this sequence number; ack asks for an acknowledgement.
	encode(seq uint32, ack bool) []byte
}

// dial opens a socket in the namespace of file.
func dial(ns *os.File, protocol int) (*socket, error) {
	s := newSocket(ns, protocol)
	return s, s.open()
}

func newSocket(ns *os.File, protocol int) *socket {
	return &socket{ns: ns, protocol: protocol, fd: -1, opened: func(int) error { return nil }}
}

func (s *socket) open() error {
	if s.fd >= 0 {
		return nil
	}
	err := inside(s.ns, func() (err error) {
		s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, s.protocol)
		return err
	})
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	s.buf = buffers.Get().(*[bufferSize]byte)
	tv := unix.NsecToTimeval(int64(replyWait))
	err = errors.Join(
		unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer),
		unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer),
		unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
	)
	if err == nil {
		err = s.opened(s.fd)
	}
	if err != nil {
		s.close()
		return fmt.Errorf("set a netlink socket up: %w", err)
	}
	return nil
}

func (s *socket) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
		buffers.Put(s.buf)
		s.buf = nil
	}
}

// batch sends messages, many in one sendmsg, and returns each one's error. Only the last of a sendmsg asks for an acknowledgement; errors
// of the others come unasked. echo, if not nil, gets the kernel's own messages that come between.
func (s *socket) batch(msgs []message, echo func(typ uint16, body []byte)) []error {
	errs := make([]error, len(msgs))
	for from := 0; from < len(msgs); from += batchMax {
		to := min(from+batchMax, len(msgs))
		if err := s.send(msgs[from:to], to-from-1, errs[from:to], echo); err != nil {
			for i := from; i < len(msgs); i++ {
				errs[i] = err
			}
			return errs
		}
	}
	return errs
}

// send sends messages in one go and waits for the answer to the one at index last, which asks for it.
func (s *socket) send(msgs []message, last int, errs []error, echo func(uint16, []byte)) error {
	if err := s.open(); err != nil {
		return err
	}
	first := s.seq + 1
	var out []byte
	for i, m := range msgs {
		s.seq++
		out = append(out, m.encode(s.seq, i == last)...)
	}
	err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err != nil {
		s.close()
		return fmt.Errorf("send to the kernel: %w", err)
	}
	for done := false; !done; {
		n, err := s.receive()
		if err != nil {
			return fmt.Errorf("hear from the kernel: %w", err)
		}
		for h, body := range messages(s.buf[:n]) {
			at := int(h.Seq - first)
			if h.Seq < first || at >= len(msgs) {
				continue
			}
			if h.Type == unix.NLMSG_ERROR {
				if code := status(h, body); code != 0 {
					errs[at] = code
				}
				// nfnetlink answers a batch's begin alone where all of it is refused.
				done = done || at == last || s.protocol == unix.NETLINK_NETFILTER && at == 0
			} else if echo != nil {
				echo(h.Type, body)
			}
		}
	}
	return nil
}

// receive fills buf with one datagram. After an error the socket is closed.
func (s *socket) receive() (int, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			s.close()
		}
		return n, err
	}
}

// dump returns the bodies of a dump's messages. One that was interrupted by a change, or that overflowed, begins again: it must never be
// taken for the whole.
func (s *socket) dump(ctx context.Context, typ int, body []byte) ([][]byte, error) {
	var err error
	for range dumpTries {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var out [][]byte
		if out, err = s.dumpOnce(typ, body); err == nil {
			return out, nil
		}
		if !errors.Is(err, errInterrupted) && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return nil, fmt.Errorf("read from the kernel: %w", err)
}

var errInterrupted = errors.New("something changed meanwhile")

func (s *socket) dumpOnce(typ int, body []byte) ([][]byte, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	s.seq++
	q := header(typ, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, s.seq, body)
	if err := unix.Sendto(s.fd, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.close()
		return nil, err
	}
	var d dumped
	for !d.done {
		n, err := s.receive()
		if err != nil {
			return nil, err
		}
		d.take(s.seq, append([]byte(nil), s.buf[:n]...))
	}
	return d.bodies, d.err
}

// dumped is what has come of a dump.
type dumped struct {
	bodies [][]byte
	done   bool
	err    error
}

// take adds one datagram's messages. What belongs to an earlier request is left out.
func (d *dumped) take(seq uint32, datagram []byte) {
	for h, body := range messages(datagram) {
		if h.Seq != seq {
			continue
		}
		if h.Flags&unix.NLM_F_DUMP_INTR != 0 {
			d.err = errInterrupted
		}
		switch h.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR: // both carry how it ended
			d.done = true
			if code := status(h, body); code != 0 {
				d.err = code
			}
		default:
			d.bodies = append(d.bodies, body)
		}
	}
}

// status is what a message of type NLMSG_ERROR or NLMSG_DONE says, 0 if all went well.
func status(h unix.NlMsghdr, body []byte) unix.Errno {
	if h.Type != unix.NLMSG_ERROR && h.Type != unix.NLMSG_DONE || len(body) < 4 {
		return 0
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
}

// header puts a message's header before its body.
func header(typ, flags int, seq uint32, body []byte) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body)+3)
	binary.NativeEndian.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(body)))
	binary.NativeEndian.PutUint16(b[4:], uint16(typ))
	binary.NativeEndian.PutUint16(b[6:], uint16(flags))
	binary.NativeEndian.PutUint32(b[8:], seq)
	b = append(b, body...)
	return append(b, make([]byte, -len(b)&3)...)
}

// rtMsg is a message of rtnetlink.
type rtMsg struct{ *nl.NetlinkRequest }

func (m rtMsg) encode(seq uint32, ack bool) []byte {
	m.Seq = seq
	m.Flags |= unix.NLM_F_REQUEST
	m.Flags &^= unix.NLM_F_ACK
	if ack {
		m.Flags |= unix.NLM_F_ACK
	}
	return m.Serialize()
}

// messages walks the messages of one datagram, as far as they are whole.
func messages(b []byte) iter.Seq2[unix.NlMsghdr, []byte] {
	return func(yield func(unix.NlMsghdr, []byte) bool) {
		for len(b) >= unix.NLMSG_HDRLEN {
			h := unix.NlMsghdr{
				Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq: binary.NativeEndian.Uint32(b[8:]), Pid: binary.NativeEndian.Uint32(b[12:]),
			}
			if h.Len < unix.NLMSG_HDRLEN || uint64(h.Len) > uint64(len(b)) || !yield(h, b[unix.NLMSG_HDRLEN:h.Len]) {
				return
			}
			b = b[min(uint64(len(b)), (uint64(h.Len)+3)&^3):]
		}
	}
}

// attributes walks the attributes of a message, as far as they are whole: their types without the flags, and their values.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
			if n < unix.SizeofRtAttr || n > len(b) || !yield(typ&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min(len(b), (n+3)&^3):]
		}
	}
}
