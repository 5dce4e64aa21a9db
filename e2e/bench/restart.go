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

	weftv1 "weft/proto/weft/v1"
)

// How traffic is watched while agents come and go.
const (
	probeEvery   = 10 * time.Millisecond
	probePort    = 5301
	probeLate    = 900 * time.Millisecond // a connection whose first packet was lost takes a second
	probeLinger  = time.Second            // for the last answers
	restartPause = 150 * time.Millisecond
	joinEvery    = 5 // of so many restarts the agent joins before the next; the others come in the middle of its start
)

// measureRestart restarts the agent of one host over and over, by SIGKILL and by SIGTERM in turns, while packets go every 10 ms along every kind of path
// through that host. With another version's program, every second agent is that one: upgrades and downgrades.
func (b *bench) measureRestart(ctx context.Context) (err error) {
	probes, boxes, stop, err := b.probes(ctx)
	defer func() { stop(); err = errors.Join(err, remove(context.WithoutCancel(ctx), boxes...)) }()
	if err != nil {
		return err
	}
	watching, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, p := range probes {
		wg.Go(func() { p.run(watching) })
	}
	starts, err := b.restarts(ctx, b.hosts[0], b.n(100, 6))
	end()
	wg.Wait()
	for _, p := range probes {
		if err := p.judge(); err != nil {
			return err
		}
		if p.err != nil {
			b.say("  %s: %v", p.name, p.err)
		}
		b.report.single(fmt.Sprintf("%s: lost of %d", p.name, p.sent.Load()), "packets", sample{float64(p.sent.Load() - p.back.Load())}, atMost(0, "packets"))
	}
	b.report.single("an agent's start to its first answer", "ms", starts)
	return err
}

// restarts returns how long each start took.
func (b *bench) restarts(ctx context.Context, h *host, n int) (starts sample, err error) {
	defer func() { h.Weftd = "" }()
	for i := range n {
		if i%2 == 0 {
			err = h.Kill()
		} else {
			err = h.Stop(ctx)
		}
		if err != nil {
			return starts, err
		}
		if h.Weftd = ""; i%2 == 0 {
			h.Weftd = b.cfg.Other
		}
		took, err := timed(func() error { return h.Up(ctx) })
		if err != nil {
			return starts, err
		}
		starts = append(starts, took)
		if i%joinEvery == joinEvery-1 || i == n-1 {
			if err := h.Joined(ctx); err != nil {
				return starts, err
			}
		}
		if err := settle(ctx, restartPause); err != nil {
			return starts, err
		}
	}
	return starts, nil
}

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

// probes makes the sandboxes and the paths: through the overlay, over a bridge of the host, and from outside to published ports.
func (b *bench) probes(ctx context.Context) (all []*probe, boxes []*box, stop func(), err error) {
	echoes := &echoes{}
	stop = echoes.stop
	over, overID, err := b.network(ctx, "")
	if err != nil {
		return nil, nil, stop, err
	}
	home, homeID, err := b.hostNetwork(ctx, false)
	if err != nil {
		return nil, nil, stop, err
	}
	ports := []*weftv1.PortSpec{
		{Protocol: "tcp", HostFirst: probePort, HostLast: probePort, First: probePort, Last: probePort},
		{Protocol: "udp", HostFirst: probePort, HostLast: probePort, First: probePort, Last: probePort},
	}
	published, err := b.portBox(ctx, home, ports...)
	if err != nil {
		return nil, nil, stop, err
	}
	boxes = append(boxes, published)
	beside, err := b.portBox(ctx, home)
	if err != nil {
		return nil, boxes, stop, err
	}
	boxes = append(boxes, beside)
	near, err := b.box(ctx, b.hosts[0])
	if err == nil {
		boxes = append(boxes, near)
		err = near.connect(ctx, over)
	}
	if err != nil {
		return nil, boxes, stop, err
	}
	far, err := b.box(ctx, b.hosts[1])
	if err == nil {
		boxes = append(boxes, far)
		err = far.connect(ctx, over)
	}
	if err != nil {
		return nil, boxes, stop, err
	}
	farAddr, err1 := far.addr(ctx, overID)
	pubAddr, err2 := published.addr(ctx, homeID)
	caller, err3 := b.lab.AddNode(b.name("caller"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, boxes, stop, err
	}
	for _, x := range []*box{far, published} {
		if err := echoes.start(x.netns); err != nil {
			return nil, boxes, stop, err
		}
	}
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, probePort) }
	all = []*probe{
		{name: "UDP, overlay", from: near.netns, network: "udp", to: at(farAddr)},
		{name: "TCP, overlay", from: near.netns, network: "tcp", to: at(farAddr)},
		{name: "UDP, bridge", from: beside.netns, network: "udp", to: at(pubAddr)},
		{name: "TCP, bridge", from: beside.netns, network: "tcp", to: at(pubAddr)},
		{name: "UDP, published port", from: caller.Path, network: "udp", to: at(b.hosts[0].Addr)},
		{name: "TCP, new, published port", from: caller.Path, network: "tcp", to: at(b.hosts[0].Addr), fresh: true},
	}
	for _, p := range all { // the first packet finds out who is where
		if err := until(ctx, func() error {
			c, err := p.dial()
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			return exchangeOn(c, 1, 200*time.Millisecond)
		}); err != nil {
			return nil, boxes, stop, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return all, boxes, stop, nil
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
