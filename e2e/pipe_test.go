package e2e

import (
	"io"
	"net"
	"sync"
)

type conn = net.Conn

// pipe passes connections on to where dial leads.
type pipe struct {
	dial func() (conn, error)
	wg   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	open   []conn
	closed bool
}

func newPipe(dial func() (conn, error)) *pipe { return &pipe{dial: dial} }

// serve ends when the listener is closed, after close when all connections have ended.
func (p *pipe) serve(l net.Listener) {
	defer p.wg.Wait()
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := p.dial()
		if err != nil || !p.keep(in, out) {
			_ = in.Close()
			continue
		}
		for _, d := range [][2]conn{{in, out}, {out, in}} {
			p.wg.Go(func() {
				_, _ = io.Copy(d[0], d[1]) // until one side has ended
				_, _ = in.Close(), out.Close()
			})
		}
	}
}

func (p *pipe) keep(cs ...conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, cs...)
	return !p.closed
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.open {
		_ = c.Close()
	}
}
