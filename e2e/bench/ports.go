package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/e2e/lab"
	weftv1 "weft/proto/weft/v1"
)

// measurePorts measures published ports: to publish one where none is and where a thousand are, and the path through one, and out of a
// sandbox, beside the same rules made by hand on a node of the same network.
func (b *bench) measurePorts(ctx context.Context) (err error) {
	if err := b.thousandPorts(ctx); err != nil {
		return err
	}
	y := b.newYard("ports")
	defer func() { err = errors.Join(err, y.clear()) }()
	caller, err := b.lab.AddNode("caller")
	if err != nil {
		return err
	}
	hand, err := b.handRouter(y)
	if err != nil {
		return err
	}
	x, addr, err := b.webBox(ctx)
	if err != nil {
		return err
	}
	in := []way{
		{name: "weft's published port", from: caller.Path, to: x.netns, addr: b.hosts[0].Addr, listen: addr},
		{name: "a rule made by hand", from: caller.Path, to: hand.sandbox, addr: hand.node.Addr, listen: hand.addr},
	}
	out := []way{
		{name: "out of weft's sandbox", from: x.netns, to: caller.Path, addr: caller.Addr},
		{name: "out by a rule made by hand", from: hand.sandbox, to: caller.Path, addr: caller.Addr},
	}
	for _, w := range append(in, out...) { // the first packet finds out who is where
		if err := until(ctx, func() error { return w.connected(func(int, int) error { return nil }) }); err != nil {
			return err
		}
	}
	const peer = "the same rules made by hand, and no others"
	for _, d := range []struct {
		name string
		ways []way
	}{{"TCP through a published port", in}, {"TCP out of a sandbox, masqueraded", out}} {
		streams, pings, err := b.inTurnsAlong(ctx, d.ways)
		if err != nil {
			return err
		}
		b.report.pair(d.name+", one stream", "Gbit/s", peer, pairs{streams[0], streams[1]}, ratioAtLeast(0.95))
		b.report.pair("… request and response, 1 byte", "/s", peer, pairs{pings[0], pings[1]})
	}
	return remove(ctx, x)
}

// Ports of the host that this part publishes.
const (
	basePort  = 21000
	onePort   = 29999
	perBox    = 100
	manyPorts = 1000
)

// portBox starts a sandbox with published ports.
func (b *bench) portBox(ctx context.Context, network string, ports ...*weftv1.PortSpec) (*box, error) {
	h := b.hosts[0]
	x := &box{host: h, name: b.name("box")}
	req := &weftv1.CreateSandboxRequest{
		Name: x.name, Command: []string{"sleep", "3600"}, Detached: true, Ports: ports, Attachments: []*weftv1.Attachment{{Network: network}},
	}
	if _, err := h.boxes.CreateSandbox(ctx, req); err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", x.name, err)
	}
	if _, err := h.boxes.StartSandbox(ctx, &weftv1.StartSandboxRequest{Ref: x.name}); err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", x.name, err)
	}
	s, err := h.boxes.InspectSandbox(ctx, &weftv1.InspectSandboxRequest{Ref: x.name})
	if err != nil {
		return nil, fmt.Errorf("look at sandbox %s: %w", x.name, err)
	}
	x.netns, x.pid = s.Sandbox.NetnsPath, int(s.Sandbox.Pid)
	return x, nil
}

func tcpPorts(host, inner, n uint32) []*weftv1.PortSpec {
	return []*weftv1.PortSpec{{Protocol: "tcp", HostFirst: host, HostLast: host + n - 1, First: inner, Last: inner + n - 1}}
}

// hostNetwork makes a network of one host, and returns its name and ID.
func (b *bench) hostNetwork(ctx context.Context, internal bool) (name, id string, err error) {
	name = b.name("ports")
	r, err := b.hosts[0].nets.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Name: name, Driver: "bridge", Internal: internal})
	if err != nil {
		return "", "", fmt.Errorf("create a network of one host: %w", err)
	}
	return name, r.Id, nil
}

// webBox is a sandbox whose one port is published.
func (b *bench) webBox(ctx context.Context) (*box, netip.Addr, error) {
	name, id, err := b.hostNetwork(ctx, false)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	x, err := b.portBox(ctx, name, tcpPorts(flowPort, flowPort, 1)...)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	addr, err := x.addr(ctx, id)
	return x, addr, err
}

// thousandPorts publishes a port beside none and beside 999: a sandbox of an internal network, whose port waits for a way in, connects to
// another network.
func (b *bench) thousandPorts(ctx context.Context) error {
	home, _, err := b.hostNetwork(ctx, true)
	if err != nil {
		return err
	}
	network, _, err := b.hostNetwork(ctx, false)
	if err != nil {
		return err
	}
	first, err := b.onePorts(ctx, home, network)
	if err != nil {
		return err
	}
	many := manyPorts
	if b.cfg.Quick {
		many = perBox
	}
	var crowd []*box
	for at := 0; at < many-1; at += perBox {
		x, err := b.portBox(ctx, network, tcpPorts(uint32(basePort+at), 1000, uint32(min(perBox, many-1-at)))...)
		if err != nil {
			return err
		}
		crowd = append(crowd, x)
	}
	last, err := b.onePorts(ctx, home, network)
	if err != nil {
		return err
	}
	b.report.pair("publish a port beside 999 others", "ms", "beside none", pairs{last, first}, ratioAtMost(1.2))
	return remove(ctx, crowd...)
}

// onePorts is how long an attach takes that publishes one port.
func (b *bench) onePorts(ctx context.Context, home, network string) (sample, error) {
	x, err := b.portBox(ctx, home, tcpPorts(onePort, flowPort, 1)...)
	if err != nil {
		return nil, err
	}
	var out sample
	for i := range b.n(41, 2) {
		took, err := timed(func() error { return x.connect(ctx, network) })
		if err != nil {
			return nil, err
		}
		if i > 0 { // the first one pays for what is made then
			out = append(out, took)
		}
		if err := errors.Join(x.disconnect(ctx, network), alone(ctx, []*box{x}), settle(ctx, quietTime/6)); err != nil {
			return nil, err
		}
	}
	return out, remove(ctx, x)
}

// handRouter is a node that does by hand what weft's host does: a bridge with a sandbox, a translation to it, and one out of it.
type handRouter struct {
	node    *lab.Node
	sandbox string
	addr    netip.Addr
}

var handPool = netip.MustParsePrefix("10.96.0.0/24")

func (b *bench) handRouter(y *yard) (r handRouter, err error) {
	if r.node, err = b.lab.AddNode("byhand"); err != nil {
		return r, err
	}
	if r.sandbox, err = y.add("behind"); err != nil {
		return r, err
	}
	gateway := handPool.Addr().Next()
	r.addr = gateway.Next()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "hand0", TxQLen: -1}}
	err = in(r.node.Path, func() error {
		return errors.Join(netlink.LinkAdd(bridge), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	})
	if err != nil {
		return r, fmt.Errorf("make a bridge by hand: %w", err)
	}
	err = errors.Join(
		setUp(r.node.Path, "hand0", netip.PrefixFrom(gateway, handPool.Bits())),
		makePair(r.node.Path, "port0", r.sandbox, "eth0", 1500, bridge.Index, hardware(r.addr)),
		setUp(r.sandbox, "eth0", netip.PrefixFrom(r.addr, handPool.Bits())),
		in(r.sandbox, func() error { return netlink.RouteAdd(&netlink.Route{Gw: net.IP(gateway.AsSlice())}) }),
		in(r.node.Path, func() error { return handRules(r.addr) }),
	)
	if err != nil {
		return r, fmt.Errorf("route by hand: %w", err)
	}
	return r, nil
}

// handRules are: tcp dport 5201 fib daddr type local dnat to ADDR; ip saddr ADDR oifname != hand0 masquerade.
func handRules(to netip.Addr) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "byhand"})
	pre := c.AddChain(&nftables.Chain{Name: "pre", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	post := c.AddChain(&nftables.Chain{Name: "post", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	name := make([]byte, 16)
	copy(name, "hand0")
	c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(flowPort)},
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Immediate{Register: 1, Data: to.AsSlice()}, &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}})
	c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: to.AsSlice()},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name},
		&expr.Masq{},
	}})
	return c.Flush()
}
