// Package bridge renders local networks into kernel state, and the host's side of every network: forwarding, masquerading, isolation and
// published ports. It is pure: the same records give the same state in every life of an agent.
//
// A local network is a Linux bridge in the host's namespace, there as long as the network is, with ports or without:
//
//	sandbox eth0 ── ep… ┐
//	sandbox eth0 ── ep… ┴ br-… (the gateways) ── the host's routing ── what else the host has
//
// An overlay network has a namespace of its own, and comes into the host with its uplink. What both need of the host is in RenderHost: its two
// tables are shared by all networks, whose Render adds elements of their own to them.
package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/kernel"
	"weft/port"
	"weft/store/record"
)

// Network is a local network with this host's endpoints.
type Network struct {
	Record *record.Network
	Ports  []port.Port
	Talks  []Talk // what may pass between sandboxes all the same, where the network is not open
}

// Talk is a service of one sandbox that another may use: its link leads there.
type Talk struct {
	From, To netip.Addr
	Proto    string // tcp or udp
	Port     uint16
}

// Render returns all that the kernel holds for a network, but for the host's tables.
func Render(n Network) kernel.State {
	r := renderer{n: n.Record, out: kernel.State{}}
	r.bridge()
	for _, p := range n.Ports {
		r.port(p)
	}
	if !n.Record.Open() {
		for _, t := range n.Talks {
			r.talk(t)
		}
	}
	return r.out
}

// RenderPort returns the part of Render's result that one port needs.
func RenderPort(n Network, p port.Port) kernel.State {
	r := renderer{n: n.Record, out: kernel.State{}}
	r.port(p)
	return r.out
}

// renderer collects the state of one network.
type renderer struct {
	n   *record.Network
	out kernel.State
}

func (r renderer) add(kind kernel.Kind, link, dst string, spec kernel.Spec) {
	r.out.Add(kernel.Object{Key: kernel.Key{Kind: kind, NS: kernel.HostNS, Link: link, Dst: dst}, Spec: spec})
}

func (r renderer) element(set string, typ kernel.SetType, words ...any) {
	r.elementOf(portTable, set, typ, words...)
}

func (r renderer) elementOf(table, set string, typ kernel.SetType, words ...any) {
	r.add(kernel.KindElement, table+" "+set, strings.TrimSpace(fmt.Sprintln(words...)), kernel.Element{Type: typ})
}

func (r renderer) bridge() {
	name := r.n.Bridge()
	r.add(kernel.KindBridge, name, "", kernel.Bridge{MAC: port.MAC("bridge", string(r.n.ID)), MTU: r.n.MTU, Owner: string(r.n.ID)})
	settings := map[string]string{"disable_ipv6": "1"}
	if dual(r.n) { // addresses are used at once, and no router is believed
		settings = map[string]string{"disable_ipv6": "0", "accept_dad": "0", "accept_ra": "0"}
	}
	for k, v := range settings {
		r.add(kernel.KindConf, name, "ipv6/conf/"+k, kernel.Conf{Value: v})
	}
	for _, p := range r.n.Pools {
		if p.Gateway.IsValid() {
			r.add(kernel.KindAddr, name, netip.PrefixFrom(p.Gateway, p.Subnet.Bits()).String(), kernel.Addr{})
		}
	}
}

// port is one endpoint: its pair and what is in the sandbox, its entries on the bridge, and what it may say.
func (r renderer) port(p port.Port) {
	ep, name, mac := p.Endpoint, port.Name(p.Endpoint.ID), string(p.Endpoint.MAC)
	// Hairpin: with bridge-nf-call-iptables, what a sandbox sends to a port of its own is sent back before it has left the bridge.
	port.Render(r.out, r.n, port.Place{NS: kernel.HostNS, At: kernel.Port{Master: r.n.Bridge(), Hairpin: true}}, p)
	r.add(kernel.KindFDB, name, mac, kernel.FDB{})
	for _, a := range ep.Addrs {
		if _, ok := r.n.PoolOf(a); !ok {
			continue
		}
		r.add(kernel.KindNeigh, r.n.Bridge(), a.String(), kernel.Neigh{MAC: mac})
		if a.Is4() {
			r.element(portSet, kernel.SetPort, name, mac, a)
			continue
		}
		r.element(portSet6, kernel.SetPort6, name, mac, a)
		if l, ok := port.LinkLocal(p.Endpoint.MAC); ok {
			r.element(portSet6, kernel.SetPort6, name, mac, l)
		}
	}
	r.element(guardSet, kernel.SetLink, name)
	if !r.n.Open() {
		r.element(closedSet, kernel.SetLink, name)
	}
}

// Guards tells the element by which a port of a bridge is one whose packets are looked at. Without it the port may say anything: it goes last.
func Guards(k kernel.Key) bool {
	return k.Kind == kernel.KindElement && k.Link == portTable+" "+guardSet
}

func (r renderer) talk(t Talk) {
	set, typ := talkSet, kernel.SetTalk
	if t.From.Is6() {
		set, typ = talkSet6, kernel.SetTalk6
	}
	if t.From.Is4() != t.To.Is4() {
		return
	}
	for _, table := range []string{portTable, hostTable} {
		r.elementOf(table, set, typ, t.From, t.To, t.Proto, t.Port)
	}
}

// dual tells whether a network carries IPv6.
func dual(n *record.Network) bool {
	return slices.ContainsFunc(n.Pools, func(p record.Pool) bool { return p.Subnet.Addr().Is6() })
}
