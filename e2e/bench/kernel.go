package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"weft/ipam"
	"weft/kernel"
	"weft/overlay"
	"weft/port"
	"weft/store/record"
)

// site is one network in the kernel of a host without an agent.
type site struct {
	yard *yard
	k    *kernel.Kernel
	set  overlay.Settings
	net  overlay.Network
}

var sitePool = record.Pool{Subnet: netip.MustParsePrefix("10.77.0.0/16"), Gateway: netip.MustParseAddr("10.77.0.1")}

func siteAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(1 + i/250), byte(1 + i%250)})
}

// newSite prepares a network; nothing of it is in the kernel yet.
func (b *bench) newSite(name string) (*site, error) {
	s := &site{yard: b.newYard(name)}
	host, err := s.yard.add("host")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.yard.dir, "weft")
	if s.k, err = kernel.Open(kernel.Config{Log: slog.New(slog.DiscardHandler), HostNS: host, NetnsDir: dir}); err != nil {
		return nil, err
	}
	s.set = overlay.Settings{Self: "self", VTEP: netip.MustParseAddr("192.0.2.201"), VXLANPort: 4789, NetnsDir: dir}
	s.net = overlay.Network{
		Record: &record.Network{
			ID: record.NetworkID(fmt.Sprintf("%064x", 0xbe7c)), Name: name, VNI: 7777, MTU: 1450, State: record.Active, Pools: []record.Pool{sitePool},
		},
		Hosts: func(record.HostID) (netip.Addr, bool) { return netip.MustParseAddr("192.0.2.202"), true },
	}
	return s, nil
}

// build makes all of the network in the kernel: with its first port, and with endpoints of another host.
func (s *site) build(ctx context.Context, first port.Port, remote []*record.Endpoint) error {
	n := s.net
	n.Ports, n.Endpoints = []port.Port{first}, remote
	return s.apply(ctx, kernel.Diff(overlay.Render(s.set, n), nil))
}

// port is the i-th endpoint, in a new sandbox that it is not attached to yet.
func (s *site) port(i int) (port.Port, error) {
	ns, err := s.yard.add(fmt.Sprintf("sandbox%d", i))
	return port.Port{Endpoint: s.endpoint(i, "self"), Netns: ns, IfName: "eth0", Default: true}, err
}

func (s *site) endpoint(i int, on record.HostID) *record.Endpoint {
	a := siteAddr(i)
	return &record.Endpoint{
		ID: record.EndpointID(fmt.Sprintf("%012x%052x", i, 0)), Network: s.net.Record.ID, Host: on, Name: fmt.Sprintf("c%d", i),
		Addrs: []netip.Addr{a}, MAC: record.MAC(ipam.MAC(a)), Running: true,
	}
}

func (s *site) apply(ctx context.Context, ops []kernel.Op) error {
	return errors.Join(s.k.Apply(ctx, ops)...)
}

func (s *site) close() error { return errors.Join(s.k.Close(), s.yard.clear()) }

// measureKernel compares what an agent does in the kernel for one attach with one raw message that makes the pair and one raw batch that
// sets it up, on the same bridge. The raw one is spared what weft does beside: entries and rules against spoofing, and, in its first form,
// the opening of a socket in the sandbox.
func (b *bench) measureKernel(ctx context.Context) (err error) {
	s, err := b.newSite("kernel")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	first, err := s.port(0)
	if err != nil {
		return err
	}
	if err := s.build(ctx, first, nil); err != nil {
		return err
	}
	var strict, whole pairs
	for i := range b.n(80, 9) {
		w, f, opening, err := s.attachPair(ctx, i)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // caches are cold
		}
		strict.add(w, f)
		whole.add(w, f+opening)
	}
	b.report.pair("attach, kernel part", "ms", "one raw netlink message + batch, sockets already open", strict, ratioAtMost(2))
	b.report.pair("attach, kernel part", "ms", "the same, and opening the socket in the sandbox", whole)
	return nil
}

// attachPair attaches two sandboxes, one each way, and returns both times, and the one that opening the raw socket took.
func (s *site) attachPair(ctx context.Context, i int) (weft, raw, opening float64, err error) {
	ours, err := s.port(1 + 2*i)
	if err != nil {
		return 0, 0, 0, err
	}
	theirs, err := s.port(2 + 2*i)
	if err != nil {
		return 0, 0, 0, err
	}
	w, err := s.openPort(theirs, 5000+i)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	weft, raw, err = inTurns(i, func() error {
		return s.apply(ctx, kernel.Missing(overlay.RenderPort(s.set, s.net, ours), nil))
	}, w.attach)
	return weft, raw, w.opening, err
}

// rawWay is a raw attach that is ready to go: its sockets are open.
type rawWay struct {
	port      rawPort
	near, far *rawSocket
	opening   float64 // what opening the far socket took, in ms
}

func (s *site) openPort(p port.Port, index int) (_ *rawWay, err error) {
	ns := overlay.NetnsPath(s.set, s.net.Record.ID)
	master, err := linkIndex(ns, "br0")
	if err != nil {
		return nil, err
	}
	w := &rawWay{port: rawPort{
		name: fmt.Sprintf("raw%d", index), index: index, master: master,
		addr: netip.PrefixFrom(p.Endpoint.Addrs[0], sitePool.Subnet.Bits()), gateway: sitePool.Gateway,
	}}
	if w.near, err = openRaw(ns); err != nil {
		return nil, err
	}
	at := time.Now()
	w.far, err = openRaw(p.Netns)
	w.opening = ms(time.Since(at))
	if err != nil {
		return nil, errors.Join(err, w.near.close())
	}
	if w.port.file, err = os.Open(p.Netns); err != nil {
		return nil, errors.Join(err, w.near.close(), w.far.close())
	}
	return w, nil
}

func (w *rawWay) attach() error {
	if err := w.near.send(w.port.pair()); err != nil {
		return err
	}
	return w.far.send(w.port.configure()...)
}

func (w *rawWay) close() error {
	return errors.Join(w.near.close(), w.far.close(), w.port.file.Close())
}
