package registry_test

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// link is the way from one host to the servers, which can be cut.
type link struct {
	mu    sync.Mutex // guards what follows
	cut   bool
	conns map[net.Conn]bool
}

func (l *link) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	if cut {
		wait(ctx, 200*time.Millisecond)
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.ErrDeadlineExceeded}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = map[net.Conn]bool{}
	}
	out := &linkConn{Conn: c, of: l}
	l.conns[out] = true
	return out, nil
}

// set cuts the link, with the connections that go over it, or mends it.
func (l *link) set(cut bool) {
	l.mu.Lock()
	l.cut = cut
	var conns []net.Conn
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		if cut {
			_ = c.Close()
		}
	}
}

type linkConn struct {
	net.Conn
	of *link
}

func (c *linkConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// Write fails on a cut link also where the connection has just been made.
func (c *linkConn) Write(b []byte) (int, error) {
	c.of.mu.Lock()
	cut := c.of.cut
	c.of.mu.Unlock()
	if cut {
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(b)
}
