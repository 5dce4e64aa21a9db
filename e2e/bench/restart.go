package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	weftv1 "weft/proto/weft/v1"
)

// How traffic is watched while agents come and go.
const (
	probePort    = 5301
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

// probes makes the sandboxes and the paths: through the overlay, over a bridge of the host, and from outside to published ports. What it returns is
// to be ended also after an error.
func (b *bench) probes(ctx context.Context) (all []*probe, boxes []*box, stop func(), err error) {
	echoes := &echoes{}
	w, err := b.ways(ctx)
	for _, x := range []*box{w.published, w.beside, w.near, w.far} {
		if x != nil {
			boxes = append(boxes, x)
		}
	}
	if err != nil {
		return nil, boxes, echoes.stop, err
	}
	caller, err := b.lab.AddNode(b.name("caller"))
	if err != nil {
		return nil, boxes, echoes.stop, err
	}
	for _, x := range []*box{w.far, w.published} {
		if err := echoes.start(x.netns); err != nil {
			return nil, boxes, echoes.stop, err
		}
	}
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, probePort) }
	all = []*probe{
		{name: "UDP, overlay", from: w.near.netns, network: "udp", to: at(w.farAddr)},
		{name: "TCP, overlay", from: w.near.netns, network: "tcp", to: at(w.farAddr)},
		{name: "UDP, bridge", from: w.beside.netns, network: "udp", to: at(w.publishedAddr)},
		{name: "TCP, bridge", from: w.beside.netns, network: "tcp", to: at(w.publishedAddr)},
		{name: "UDP, published port", from: caller.Path, network: "udp", to: at(b.hosts[0].Addr)},
		{name: "TCP, new, published port", from: caller.Path, network: "tcp", to: at(b.hosts[0].Addr), fresh: true},
	}
	for _, p := range all {
		if err := p.passes(ctx); err != nil {
			return nil, boxes, echoes.stop, err
		}
	}
	return all, boxes, echoes.stop, nil
}

// ways are the sandboxes that probes go between: two of an overlay network on two hosts, and two of a network of one host, of which one has
// published ports.
type ways struct {
	near, far, published, beside *box
	farAddr, publishedAddr       netip.Addr
}

// ways returns what it has made also with an error.
func (b *bench) ways(ctx context.Context) (w ways, err error) {
	over, overID, err1 := b.network(ctx, "")
	home, homeID, err2 := b.hostNetwork(ctx, false)
	if err := errors.Join(err1, err2); err != nil {
		return w, err
	}
	ports := []*weftv1.PortSpec{
		{Protocol: "tcp", HostFirst: probePort, HostLast: probePort, First: probePort, Last: probePort},
		{Protocol: "udp", HostFirst: probePort, HostLast: probePort, First: probePort, Last: probePort},
	}
	if w.published, err = b.portBox(ctx, home, ports...); err != nil {
		return w, err
	}
	if w.beside, err = b.portBox(ctx, home); err != nil {
		return w, err
	}
	if w.near, err = b.boxIn(ctx, b.hosts[0], over); err != nil {
		return w, err
	}
	if w.far, err = b.boxIn(ctx, b.hosts[1], over); err != nil {
		return w, err
	}
	if w.farAddr, err = w.far.addr(ctx, overID); err != nil {
		return w, err
	}
	w.publishedAddr, err = w.published.addr(ctx, homeID)
	return w, err
}

// boxIn is a sandbox that is in one more network; it is returned also where it could not be brought there.
func (b *bench) boxIn(ctx context.Context, h *host, network string) (*box, error) {
	x, err := b.box(ctx, h)
	if err != nil {
		return nil, err
	}
	return x, x.connect(ctx, network)
}
