package storetest

import (
	"context"
	"net"
	"sync"
	"time"
)

// meter counts what goes over the connections that it makes.
type meter struct {
	dial Dial

	mu     sync.Mutex
	dials  []time.Time
	writes int // a request is at least one
}

func (m *meter) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	m.mu.Lock()
	m.dials = append(m.dials, time.Now())
	m.mu.Unlock()
	c, err := m.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &meteredConn{Conn: c, m: m}, nil
}

// reset starts anew and returns what was counted.
func (m *meter) reset() (dials []time.Time, writes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dials, writes = m.dials, m.writes
	m.dials, m.writes = nil, 0
	return dials, writes
}

type meteredConn struct {
	net.Conn
	m *meter
}

func (c *meteredConn) Write(b []byte) (int, error) {
	c.m.mu.Lock()
	c.m.writes++
	c.m.mu.Unlock()
	return c.Conn.Write(b)
}

// late makes connections on which everything arrives so much later, as from a server that is far away or slow.
func late(dial Dial, by time.Duration) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		up, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		near, far := net.Pipe()
		c := &lateConn{Conn: near, up: up}
		c.wg.Go(func() { c.carry(far, up, by) })
		c.wg.Go(func() { c.carry(up, far, 0) })
		return c, nil
	}
}

// lateConn is the near end. Closing it waits for what carries its bytes.
type lateConn struct {
	net.Conn
	up net.Conn
	wg sync.WaitGroup
}

func (c *lateConn) Close() error {
	_, _ = c.Conn.Close(), c.up.Close()
	c.wg.Wait()
	return nil
}

func (c *lateConn) LocalAddr() net.Addr  { return c.up.LocalAddr() }
func (c *lateConn) RemoteAddr() net.Addr { return c.up.RemoteAddr() }

// parcel is what was read at one time.
type parcel struct {
	at   time.Time
	data []byte
}

// carry copies from one end to the other; what was read waits without holding up what comes after it.
func (c *lateConn) carry(to, from net.Conn, by time.Duration) {
	queue := make(chan parcel, 1024)
	c.wg.Go(func() {
		defer func() { _ = to.Close() }()
		for p := range queue {
			time.Sleep(time.Until(p.at.Add(by)))
			if _, err := to.Write(p.data); err != nil {
				_ = from.Close()
			}
		}
	})
	defer close(queue)
	for {
		buf := make([]byte, 32<<10)
		n, err := from.Read(buf)
		if n > 0 {
			queue <- parcel{time.Now(), buf[:n]}
		}
		if err != nil {
			return
		}
	}
}
