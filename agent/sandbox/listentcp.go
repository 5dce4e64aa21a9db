package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// tcpPort accepts connections and joins each with one to the target.
type tcpPort struct {
	l      *net.TCPListener
	slots  chan struct{}
	bounds bounds
	target atomic.Pointer[netip.AddrPort]
	ctx    context.Context // ends with the port
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newTCPPort(l *net.TCPListener, slots chan struct{}, b bounds) *tcpPort {
	p := &tcpPort{l: l, slots: slots, bounds: b}
	p.target.Store(&netip.AddrPort{})
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p
}

func (p *tcpPort) aim(target netip.AddrPort) { p.target.Store(&target) }

func (p *tcpPort) stop() {
	p.cancel()
	_ = p.l.Close()
	p.wg.Wait()
}

func (p *tcpPort) accept() {
	for {
		c, err := p.l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many files are open, or the client has gone
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(acceptPause):
				continue
			}
		}
		select {
		case p.slots <- struct{}{}:
			p.wg.Go(func() {
				defer func() { <-p.slots }()
				p.join(c)
			})
		case <-p.ctx.Done():
			reset(c)
			return
		}
	}
}

// join serves one client. A target that cannot be reached is told to it as the kernel would tell: by a reset.
func (p *tcpPort) join(client *net.TCPConn) {
	target := *p.target.Load()
	if !target.IsValid() {
		reset(client)
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.bounds.dial)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", target.String())
	if err != nil {
		reset(client)
		return
	}
	server := c.(*net.TCPConn)
	both := func() {
		_ = client.Close()
		_ = server.Close()
	}
	defer both()
	defer context.AfterFunc(p.ctx, both)()
	var wg sync.WaitGroup
	wg.Go(func() { p.pass(server, client) })
	p.pass(client, server)
	wg.Wait()
}

// pass brings one direction to its end, and tells the other side so. The bytes do not leave the kernel (splice). After that the way back
// has to go on, or ends.
func (p *tcpPort) pass(to, from *net.TCPConn) {
	for {
		n, err := io.Copy(to, from)
		if n > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			_ = from.SetReadDeadline(time.Now().Add(p.bounds.halfClose))
			continue
		}
		if err != nil {
			reset(to)
			reset(from)
			return
		}
		_ = to.CloseWrite()
		_ = to.SetReadDeadline(time.Now().Add(p.bounds.halfClose))
		return
	}
}

// reset ends a connection without a word of farewell.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
