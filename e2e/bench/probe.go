package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// How probes are sent.
const (
	probeEvery  = 10 * time.Millisecond
	probeLate   = 900 * time.Millisecond // a connection whose first packet was lost takes a second
	probeLinger = time.Second            // for the last answers
)

// probe is traffic along one path: a packet, or a message on a connection, every 10 ms, and what came back of it.
type probe struct {
	name       string
	from       string // namespace
	network    string // tcp, udp
	to         netip.AddrPort
	fresh      bool // a connection for each message
	sent, back atomic.Int64
	err        error // the last one; read when it has ended
}

func (p *probe) judge() error {
	if p.sent.Load() == 0 || p.back.Load() == 0 {
		return fmt.Errorf("%s: nothing came back of %d packets: %w", p.name, p.sent.Load(), p.err)
	}
	return nil
}

func (p *probe) dial() (c net.Conn, err error) {
	err = in(p.from, func() (err error) {
		c, err = net.DialTimeout(p.network+"4", p.to.String(), 5*time.Second)
		return err
	})
	return c, err
}

// run sends until ctx ends, and then waits for the last answers.
func (p *probe) run(ctx context.Context) {
	switch {
	case p.fresh:
		p.connections(ctx)
	case p.network == "udp":
		p.datagrams(ctx)
	default:
		p.messages(ctx)
	}
}

func ticks(ctx context.Context, f func(n uint64)) {
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for n := uint64(1); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f(n)
		}
	}
}

func (p *probe) datagrams(ctx context.Context) {
	c, err := p.dial()
	if err != nil {
		p.err = err
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		seen, b := map[uint64]bool{}, make([]byte, 64)
		for {
			n, err := c.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil || n != 8 {
				continue // a refusal: the packet is lost
			}
			if k := binary.BigEndian.Uint64(b); !seen[k] {
				seen[k] = true
				p.back.Add(1)
			}
		}
	})
	ticks(ctx, func(n uint64) {
		p.sent.Add(1)
		if _, err := c.Write(binary.BigEndian.AppendUint64(nil, n)); err != nil {
			p.err = err
		}
	})
	time.Sleep(probeLinger)
	_ = c.Close()
	wg.Wait()
}

// messages go over one connection; when that breaks, it is lost, and the next message has a new one.
func (p *probe) messages(ctx context.Context) {
	var c net.Conn
	defer func() {
		if c != nil {
			_ = c.Close()
		}
	}()
	ticks(ctx, func(n uint64) {
		p.sent.Add(1)
		var err error
		if c == nil {
			c, err = p.dial()
		}
		if err == nil {
			err = exchangeOn(c, n, 5*time.Second)
		}
		if err == nil {
			p.back.Add(1)
			return
		}
		if p.err = err; c != nil {
			_ = c.Close()
			c = nil
		}
	})
}

func (p *probe) connections(ctx context.Context) {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards err
	ticks(ctx, func(n uint64) {
		p.sent.Add(1)
		wg.Go(func() {
			began := time.Now()
			c, err := p.dial()
			if err == nil {
				err = exchangeOn(c, n, 5*time.Second)
				if took := time.Since(began); err == nil && took > probeLate && repeated(c) {
					err = fmt.Errorf("it took %s, with a packet sent again", took)
				}
				_ = c.Close()
			}
			if err == nil {
				p.back.Add(1)
				return
			}
			mu.Lock()
			p.err = err
			mu.Unlock()
		})
	})
	wg.Wait()
}

// repeated tells whether the kernel had to send something again on a connection: else it was late for want of a processor.
func repeated(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	again := true
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			again = info.Total_retrans > 0
		}
	})
	return again
}

func exchangeOn(c net.Conn, n uint64, patience time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(binary.BigEndian.AppendUint64(nil, n)); err != nil {
		return err
	}
	var b [8]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint64(b[:]); got != n {
		return fmt.Errorf("%d came back for %d", got, n)
	}
	return nil
}

// passes waits until the path is open: the first packet finds out who is where.
func (p *probe) passes(ctx context.Context) error {
	err := until(ctx, func() error {
		c, err := p.dial()
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		return exchangeOn(c, 1, 200*time.Millisecond)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// echoes are servers in sandboxes that send back what they get.
type echoes struct {
	open []io.Closer
	wg   sync.WaitGroup
}

func (e *echoes) start(ns string) error {
	at := fmt.Sprintf(":%d", probePort)
	var u net.PacketConn
	var l net.Listener
	err := in(ns, func() (err error) {
		if u, err = net.ListenPacket("udp4", at); err != nil {
			return err
		}
		e.open = append(e.open, u)
		if l, err = net.Listen("tcp4", at); err == nil {
			e.open = append(e.open, l)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("listen in %s: %w", ns, err)
	}
	e.wg.Go(func() {
		b := make([]byte, 64)
		for {
			n, from, err := u.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = u.WriteTo(b[:n], from) // lost like any packet
			}
		}
	})
	e.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.wg.Go(func() { _, _ = io.Copy(c, c); _ = c.Close() })
		}
	})
	return nil
}

// stop ends the servers. Their callers have closed their connections before.
func (e *echoes) stop() {
	for _, c := range e.open {
		_ = c.Close()
	}
	e.wg.Wait()
}
