package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	weftv1 "weft/proto/weft/v1"
)

// measurePath compares weft's path between sandboxes on a and b with a VXLAN and a bridge made by hand on the same two hosts, and with a
// veth pair and nothing else.
func (b *bench) measurePath(ctx context.Context) (err error) {
	y := b.newYard("path")
	defer func() { err = errors.Join(err, y.clear()) }()
	weft, boxes, err := b.weftWay(ctx)
	if err != nil {
		return err
	}
	tunnel, err := b.tunnelWay(y)
	if err != nil {
		return err
	}
	bare, err := bareWay(y)
	if err != nil {
		return err
	}
	streams, pings, err := b.inTurnsAlong(ctx, []way{weft, tunnel, bare})
	if err != nil {
		return err
	}
	const hand, plain = "VXLAN and bridge made by hand on the same hosts", "a bare veth pair, MTU 1500"
	b.report.pair("TCP, one stream", "Gbit/s", hand, pairs{streams[0], streams[1]}, ratioAtLeast(0.95))
	b.report.pair("TCP, one stream", "Gbit/s", plain, pairs{streams[0], streams[2]})
	b.report.pair("TCP request and response, 1 byte", "/s", hand, pairs{pings[0], pings[1]})
	b.report.pair("TCP request and response, 1 byte", "/s", plain, pairs{pings[0], pings[2]})
	return remove(ctx, boxes...)
}

// inTurnsAlong measures a stream, and requests with responses, along each of some ways, in turns: Gbit/s and a second, by way.
func (b *bench) inTurnsAlong(ctx context.Context, ways []way) (streams, pings []sample, err error) {
	length := 300 * time.Millisecond // many short turns: what disturbs one, disturbs few
	if b.cfg.Quick {
		length = 100 * time.Millisecond
	}
	streams, pings = make([]sample, len(ways)), make([]sample, len(ways))
	for i := range b.n(31, 1) {
		for j := range ways {
			k := (i + j) % len(ways)
			if err := context.Cause(ctx); err != nil {
				return nil, nil, err
			}
			gbit, err := ways[k].stream(length)
			if err != nil {
				return nil, nil, err
			}
			rate, err := ways[k].pingPong(length / 2)
			if err != nil {
				return nil, nil, err
			}
			streams[k], pings[k] = append(streams[k], gbit), append(pings[k], rate)
		}
	}
	return streams, pings, nil
}

// weftWay is a network of weft's with a sandbox on each host.
func (b *bench) weftWay(ctx context.Context) (way, []*box, error) {
	network, id, err := b.network(ctx, "")
	if err != nil {
		return way{}, nil, err
	}
	from, err := b.box(ctx, b.hosts[0])
	if err != nil {
		return way{}, nil, err
	}
	to, err := b.box(ctx, b.hosts[1])
	if err != nil {
		return way{}, nil, err
	}
	if err := errors.Join(from.connect(ctx, network), to.connect(ctx, network)); err != nil {
		return way{}, nil, err
	}
	addr, err := to.addr(ctx, id)
	if err != nil {
		return way{}, nil, err
	}
	w := way{name: "weft", from: from.netns, to: to.netns, addr: addr}
	err = until(ctx, func() error { return w.connected(func(int, int) error { return nil }) })
	return w, []*box{from, to}, err
}

// addr is the sandbox's address in a network.
func (x *box) addr(ctx context.Context, network string) (netip.Addr, error) {
	s, err := x.host.boxes.InspectSandbox(ctx, &weftv1.InspectSandboxRequest{Ref: x.name})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look at sandbox %s: %w", x.name, err)
	}
	for _, e := range s.Sandbox.Endpoints {
		if e.Endpoint.GetNetworkId() == network && len(e.Endpoint.Addresses) > 0 {
			p, err := netip.ParsePrefix(e.Endpoint.Addresses[0])
			return p.Addr(), err
		}
	}
	return netip.Addr{}, fmt.Errorf("sandbox %s has no address in the network", x.name)
}

// Addresses of what is made by hand.
var (
	tunnelAddrs = [2]netip.Prefix{netip.MustParsePrefix("10.98.0.1/24"), netip.MustParsePrefix("10.98.0.2/24")}
	bareAddrs   = [2]netip.Prefix{netip.MustParsePrefix("10.99.0.1/24"), netip.MustParsePrefix("10.99.0.2/24")}
)

// bareWay is a veth pair between two namespaces.
func bareWay(y *yard) (way, error) {
	var ns [2]string
	for i, name := range []string{"bare0", "bare1"} {
		var err error
		if ns[i], err = y.add(name); err != nil {
			return way{}, err
		}
	}
	if err := makePair(ns[0], "eth0", ns[1], "eth0", 1500, 0, nil); err != nil {
		return way{}, err
	}
	for i := range ns {
		if err := setUp(ns[i], "eth0", bareAddrs[i]); err != nil {
			return way{}, err
		}
	}
	return way{name: "bare veth", from: ns[0], to: ns[1], addr: bareAddrs[1].Addr()}, nil
}

// makePair makes a veth pair in one message; near may be a port of a bridge.
func makePair(nearNS, near, farNS, far string, mtu, master int, mac net.HardwareAddr) error {
	err := withFile(farNS, func(fd int) error {
		return in(nearNS, func() error {
			v := &netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: near, MTU: mtu, MasterIndex: master, Flags: net.FlagUp, TxQLen: -1},
				PeerName:  far, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(fd), PeerHardwareAddr: mac,
			}
			return errors.Join(netlink.LinkAdd(v), netlink.LinkSetUp(v))
		})
	})
	if err != nil {
		return fmt.Errorf("make a veth pair by hand: %w", err)
	}
	return nil
}

// setUp gives a link of a namespace its address and brings it up.
func setUp(ns, name string, addr netip.Prefix) error {
	err := in(ns, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), 32)}}
		return errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
	})
	if err != nil {
		return fmt.Errorf("set up %s by hand: %w", name, err)
	}
	return nil
}
