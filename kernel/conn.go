package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Sizes of one namespace's socket. The default buffers overflow on dumps and batches.
const (
	socketBuffer = 4 << 20
	batchMax     = 128             // messages of one sendmsg
	replyWait    = 5 * time.Second // until an answer is given up: RTNL may be held by others for long
	dumpTries    = 5
)

// conn speaks rtnetlink in one namespace. It is used by one goroutine at a time.
type conn struct {
	fd    int
	ns    *os.File // of the namespace, for IFLA_NET_NS_FD; keeps it alive
	seq   uint32
	index map[string]int32 // of links, by name
	nft   *nftables.Conn   // opened when it is needed first
	buf   []byte
}

// dial opens a socket in the namespace of file, which conn takes over.
func dial(file *os.File) (*conn, error) {
	c := &conn{fd: -1, ns: file, index: map[string]int32{}, buf: make([]byte, 64<<10)}
	err := inside(file, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open a netlink socket: %w", err)
		}
		c.fd = fd
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if err != nil {
		c.close()
		return nil, err
	}
	for opt, v := range map[int]int{unix.SO_RCVBUFFORCE: socketBuffer, unix.SO_SNDBUFFORCE: socketBuffer} {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, opt, v); err != nil {
			c.close()
			return nil, fmt.Errorf("size a netlink socket: %w", err)
		}
	}
	tv := unix.NsecToTimeval(int64(replyWait))
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		c.close()
		return nil, fmt.Errorf("bound a netlink socket: %w", err)
	}
	return c, nil
}

func (c *conn) close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		c.fd = -1
	}
	if c.nft != nil {
		_ = c.nft.CloseLasting()
		c.nft = nil
	}
	_ = c.ns.Close()
}

// batch sends messages, many in one sendmsg, and returns each one's error. Only the last of a sendmsg asks for an acknowledgement; errors
// of the others come unasked. echo, if not nil, gets the kernel's own messages that come between.
func (c *conn) batch(reqs []*nl.NetlinkRequest, echo func(typ uint16, body []byte)) []error {
	errs := make([]error, len(reqs))
	for from := 0; from < len(reqs); from += batchMax {
		to := min(from+batchMax, len(reqs))
		if err := c.send(reqs[from:to], errs[from:to], echo); err != nil {
			for i := from; i < len(reqs); i++ {
				errs[i] = err
			}
			return errs
		}
	}
	return errs
}

func (c *conn) send(reqs []*nl.NetlinkRequest, errs []error, echo func(uint16, []byte)) error {
	first := c.seq + 1
	var out []byte
	for i, q := range reqs {
		c.seq++
		q.Seq = c.seq
		q.Flags |= unix.NLM_F_REQUEST
		q.Flags &^= unix.NLM_F_ACK
		if i == len(reqs)-1 {
			q.Flags |= unix.NLM_F_ACK
		}
		out = append(out, q.Serialize()...)
	}
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to the kernel: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("hear from the kernel: %w", err)
		}
		done := false
		each(c.buf[:n], func(h unix.NlMsghdr, body []byte) {
			at := int(h.Seq - first)
			if h.Seq < first || at >= len(reqs) {
				return // an answer that came after its wait
			}
			if h.Type != unix.NLMSG_ERROR {
				if echo != nil {
					echo(h.Type, body)
				}
				return
			}
			if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
				errs[at] = unix.Errno(-code)
			}
			done = done || h.Seq == c.seq
		})
		if done {
			return nil
		}
	}
}

// one sends one message.
func (c *conn) one(q *nl.NetlinkRequest) error { return c.batch([]*nl.NetlinkRequest{q}, nil)[0] }

// dump returns the bodies of a dump's messages. One that was interrupted by a change, or that overflowed, begins again: it must never be
// taken for the whole.
func (c *conn) dump(ctx context.Context, typ int, body nl.NetlinkRequestData) ([][]byte, error) {
	var err error
	for range dumpTries {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var out [][]byte
		if out, err = c.dumpOnce(typ, body); err == nil {
			return out, nil
		}
		if !errors.Is(err, errInterrupted) && !errors.Is(err, unix.ENOBUFS) {
			break
		}
	}
	return nil, fmt.Errorf("read from the kernel: %w", err)
}

var errInterrupted = errors.New("something changed meanwhile")

func (c *conn) dumpOnce(typ int, body nl.NetlinkRequestData) ([][]byte, error) {
	q := nl.NewNetlinkRequest(typ, unix.NLM_F_DUMP)
	c.seq++
	q.Seq = c.seq
	q.AddData(body)
	if err := unix.Sendto(c.fd, q.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var out [][]byte
	var result error
	for done := false; !done; {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		each(c.buf[:n], func(h unix.NlMsghdr, body []byte) {
			if h.Seq != q.Seq {
				return
			}
			if h.Flags&unix.NLM_F_DUMP_INTR != 0 {
				result = errInterrupted
			}
			switch h.Type {
			case unix.NLMSG_DONE:
				done = true
			case unix.NLMSG_ERROR:
				done = true
				if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
					result = unix.Errno(-code)
				}
			default:
				out = append(out, append([]byte(nil), body...))
			}
		})
	}
	return out, result
}

// each walks the messages of one datagram.
func each(b []byte, f func(unix.NlMsghdr, []byte)) {
	for len(b) >= unix.NLMSG_HDRLEN {
		h := unix.NlMsghdr{
			Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq: binary.NativeEndian.Uint32(b[8:]),
		}
		if int(h.Len) < unix.NLMSG_HDRLEN || int(h.Len) > len(b) {
			return
		}
		f(h, b[unix.NLMSG_HDRLEN:h.Len])
		b = b[min(len(b), int(h.Len+3)&^3):]
	}
}

// link returns the index of a link of this namespace.
func (c *conn) link(name string) (int32, error) {
	if i, ok := c.index[name]; ok {
		return i, nil
	}
	q := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	q.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	q.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	var index int32
	err := c.batch([]*nl.NetlinkRequest{q}, func(typ uint16, body []byte) {
		if typ == unix.RTM_NEWLINK && len(body) >= unix.SizeofIfInfomsg {
			index = int32(binary.NativeEndian.Uint32(body[4:]))
		}
	})[0]
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	c.index[name] = index
	return index, nil
}
