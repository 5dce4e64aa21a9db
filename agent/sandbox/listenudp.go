package sandbox

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// udpPort passes datagrams on, with a socket to the target for each client, by which the answers find their way back. An answer comes from
// the address that the client has sent to.
type udpPort struct {
	c      *net.UDPConn
	raw    syscall.RawConn
	is4    bool
	bounds bounds
	wg     sync.WaitGroup

	mu       sync.Mutex // guards what follows; nothing that waits is done with it
	target   netip.AddrPort
	sessions map[udpClient]*udpSession
	closed   bool
}

// udpClient is who sends, and to which of this host's addresses.
type udpClient struct {
	from netip.AddrPort
	to   netip.Addr
}

type udpSession struct {
	c      *net.UDPConn
	raw    syscall.RawConn
	source []byte    // the control message that makes answers come from the right address
	last   time.Time // guarded by the port's mutex
}

// datagrams are shared by all that wait: nobody needs one before there is something to read.
var datagrams = sync.Pool{New: func() any { return new([65536]byte) }}

func newUDPPort(c *net.UDPConn, is4 bool, b bounds) (*udpPort, error) {
	p := &udpPort{c: c, is4: is4, bounds: b, sessions: map[udpClient]*udpSession{}}
	var err error
	if is4 {
		err = ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst, true)
	} else {
		err = ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst, true)
	}
	if err == nil {
		p.raw, err = c.SyscallConn()
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	p.wg.Go(p.receive)
	return p, nil
}

// aim turns new clients, and those of another target, to this one.
func (p *udpPort) aim(target netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if target == p.target {
		return
	}
	p.target = target
	p.dropLocked()
}

func (p *udpPort) dropLocked() {
	for k, s := range p.sessions {
		_ = s.c.Close()
		delete(p.sessions, k)
	}
}

func (p *udpPort) stop() {
	p.mu.Lock()
	p.closed = true
	p.dropLocked()
	p.mu.Unlock()
	_ = p.c.Close()
	p.wg.Wait()
}

// receive takes what clients send.
func (p *udpPort) receive() {
	oob := make([]byte, 128)
	for awaitDatagram(p.raw) {
		buf := datagrams.Get().(*[65536]byte)
		n, oobn, _, from, err := p.c.ReadMsgUDPAddrPort(buf[:], oob)
		if err == nil {
			if s := p.session(udpClient{from, p.destination(oob[:oobn])}); s != nil {
				_, _ = s.c.Write(buf[:n]) // what cannot be sent is lost, as with any datagram
			}
		}
		datagrams.Put(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (p *udpPort) destination(oob []byte) netip.Addr {
	var ip net.IP
	if p.is4 {
		var m ipv4.ControlMessage
		if m.Parse(oob) == nil {
			ip = m.Dst
		}
	} else {
		var m ipv6.ControlMessage
		if m.Parse(oob) == nil {
			ip = m.Dst
		}
	}
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// session returns the client's, or a new one; nil where there can be none.
func (p *udpPort) session(k udpClient) *udpSession {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if s, ok := p.sessions[k]; ok {
		s.last = now
		_ = s.c.SetReadDeadline(now.Add(p.bounds.udpIdle))
		return s
	}
	if p.closed || !p.target.IsValid() {
		return nil
	}
	if len(p.sessions) >= p.bounds.sessions {
		p.evictLocked()
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p.target)) // waits for nothing
	if err != nil {
		return nil
	}
	s := &udpSession{c: c, last: now}
	if s.raw, err = c.SyscallConn(); err != nil {
		_ = c.Close()
		return nil
	}
	if p.is4 {
		s.source = (&ipv4.ControlMessage{Src: k.to.AsSlice()}).Marshal()
	} else {
		s.source = (&ipv6.ControlMessage{Src: k.to.AsSlice()}).Marshal()
	}
	_ = c.SetReadDeadline(now.Add(p.bounds.udpIdle))
	p.sessions[k] = s
	p.wg.Go(func() { p.answer(k, s) })
	return s
}

// evictLocked makes room: the client goes that was silent the longest.
func (p *udpPort) evictLocked() {
	var oldest udpClient
	var since time.Time
	for k, s := range p.sessions {
		if since.IsZero() || s.last.Before(since) {
			oldest, since = k, s.last
		}
	}
	_ = p.sessions[oldest].c.Close()
	delete(p.sessions, oldest)
}

// answer passes the target's datagrams back, until the session has been silent for long, or is closed.
func (p *udpPort) answer(k udpClient, s *udpSession) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = s.c.Close()
		if p.sessions[k] == s {
			delete(p.sessions, k)
		}
	}()
	for awaitDatagram(s.raw) {
		buf := datagrams.Get().(*[65536]byte)
		n, err := s.c.Read(buf[:])
		if err == nil {
			_, _, err = p.c.WriteMsgUDPAddrPort(buf[:n], s.source, k.from)
			_ = s.c.SetReadDeadline(time.Now().Add(p.bounds.udpIdle))
		}
		datagrams.Put(buf)
		var end net.Error
		if errors.Is(err, net.ErrClosed) || errors.As(err, &end) && end.Timeout() {
			return
		} // else the target's port is closed now, or the client's: either may come back
	}
}

// awaitDatagram waits until there is something to read, so that nobody holds a buffer meanwhile; false where there never will be. Errors that
// others cause (a port that is closed) are nothing to read.
func awaitDatagram(c syscall.RawConn) bool {
	return c.Read(func(fd uintptr) bool {
		for {
			_, _, err := unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if err == nil || errors.Is(err, unix.EAGAIN) {
				return err == nil
			}
		}
	}) == nil
}
