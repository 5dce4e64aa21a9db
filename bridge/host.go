package bridge

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"weft/kernel"
	"weft/port"
	"weft/store/record"
)

// Host is what the networks of a host need of it.
type Host struct {
	Locals    []Network
	Overlays  []*record.Network // those with a port here
	Pools     []netip.Prefix    // of all networks that are known, here or not
	VTEPs     []netip.Addr      // where tunnel packets may come from
	VXLANPort uint16
	Published []Published
}

// Published is a port of a sandbox that the host's addresses have.
type Published struct {
	Network record.NetworkID // that it is reached through
	Binding record.PortBinding
	Target  netip.Addr
}

// RenderHost returns what the host itself holds for its networks: forwarding, and two tables that masquerade what leaves, keep networks apart, let
// nothing in but what is published, hold sandboxes to their own addresses, and take tunnel packets from the cluster's VTEPs only. Empty where no
// network is here.
func RenderHost(h Host) kernel.State {
	r := hostRenderer{kernel.State{}}
	if len(h.Locals) == 0 && len(h.Overlays) == 0 {
		return r.out
	}
	r.add(kernel.KindSysctl, "net/ipv4/ip_forward", "", kernel.Sysctl{Value: "1"})
	r.add(kernel.KindTable, hostTable, "", hostRules())
	r.add(kernel.KindTable, portTable, "", portRules())
	for _, family := range []string{"ip", "ip6"} { // where Docker's chains would drop what these tables let pass
		r.add(kernel.KindGuest, family+" filter DOCKER-USER", kernel.GuestName, kernel.Guest{Mark: Passed})
	}
	var natted []netip.Prefix
	for _, n := range h.Overlays {
		if !n.Internal {
			r.link(port.UplinkName(n.ID))
			natted = append(natted, subnets(n)...)
		}
		r.forwarding(n)
	}
	for _, n := range h.Locals {
		r.local(n.Record)
		if !n.Record.Internal && n.Record.Masquerades() {
			natted = append(natted, subnets(n.Record)...)
		}
	}
	r.prefixes(natSet, natted)
	r.prefixes(poolSet, h.Pools)
	r.tunnels(h)
	for _, p := range h.Published {
		r.published(p)
	}
	return r.out
}

// tunnels are whose packets are taken for a tunnel's, and what nobody here may send to another host's.
func (r *hostRenderer) tunnels(h Host) {
	at := fmt.Sprintf("udp %d", h.VXLANPort)
	if len(h.Overlays) > 0 {
		r.element(tunnelSet, kernel.SetService, at, "")
	}
	if len(h.VTEPs) > 1 {
		r.element(peerSet, kernel.SetService, at, "")
	}
	for _, a := range h.VTEPs {
		r.addr(vtepSet, a)
	}
}

// Links are the names of the links by which the networks of a rendered host come into it, sorted.
func Links(s kernel.State) []string {
	var out []string
	for k := range s {
		if k.Kind == kernel.KindElement && k.Link == hostTable+" "+linkSet {
			out = append(out, k.Dst)
		}
	}
	slices.Sort(out)
	return out
}

// RenderPublished returns the part of RenderHost's result that published ports add to its table.
func RenderPublished(ps []Published) kernel.State {
	r := hostRenderer{kernel.State{}}
	for _, p := range ps {
		r.published(p)
	}
	return r.out
}

type hostRenderer struct{ out kernel.State }

func (r hostRenderer) add(kind kernel.Kind, link, dst string, spec kernel.Spec) {
	r.out.Add(kernel.Object{Key: kernel.Key{Kind: kind, NS: kernel.HostNS, Link: link, Dst: dst}, Spec: spec})
}

func (r hostRenderer) element(set string, typ kernel.SetType, dst, value string) {
	r.add(kernel.KindElement, hostTable+" "+set, dst, kernel.Element{Type: typ, Value: value})
}

// link is where a network that may leave the host comes into it.
func (r hostRenderer) link(name string) {
	r.element(linkSet, kernel.SetLink, name, "")
	r.element(sameSet, kernel.SetLinks, name+" "+name, "")
}

// forwarding lets the host route IPv6 where a network has it: a host that does no longer takes routes from others' advertisements, so that it is
// left alone otherwise.
func (r hostRenderer) forwarding(n *record.Network) {
	if dual(n) {
		r.add(kernel.KindSysctl, "net/ipv6/conf/all/forwarding", "", kernel.Sysctl{Value: "1"})
	}
}

func (r hostRenderer) local(n *record.Network) {
	name := n.Bridge()
	if n.Internal {
		r.element(linkSet, kernel.SetLink, name, "")
		r.element(internalSet, kernel.SetLink, name, "")
		r.element(sameSet, kernel.SetLinks, name+" "+name, "")
	} else {
		r.link(name)
	}
	if n.Open() {
		r.element(insideSet, kernel.SetLinks, name+" "+name, "")
	}
	for _, p := range n.Pools {
		switch {
		case p.Gateway.Is4():
			r.element(gateSet, kernel.SetLinkAddr, name+" "+p.Gateway.String(), "")
		case p.Gateway.Is6():
			r.element(gateSet+"6", kernel.SetLinkAddr6, name+" "+p.Gateway.String(), "")
		}
	}
	r.forwarding(n)
}

func (r hostRenderer) addr(set string, a netip.Addr) {
	switch a = a.Unmap(); {
	case a.Is4():
		r.element(set, kernel.SetAddr, a.String(), "")
	case a.Is6():
		r.element(set+"6", kernel.SetAddr6, a.String(), "")
	}
}

// prefixes fills the sets of both families.
func (r hostRenderer) prefixes(set string, ps []netip.Prefix) {
	for _, p := range outermost(ps) {
		if p.Addr().Is4() {
			r.element(set, kernel.SetPrefix, p.String(), "")
		} else {
			r.element(set+"6", kernel.SetPrefix6, p.String(), "")
		}
	}
}

// outermost leaves out prefixes that lie in others: a set of prefixes does not take them. Pools of the two scopes may lie so, where another host
// made its network later.
func outermost(ps []netip.Prefix) []netip.Prefix {
	ps = slices.SortedFunc(slices.Values(ps), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range ps {
		if p.IsValid() && (len(out) == 0 || !out[len(out)-1].Overlaps(p)) {
			out = append(out, p.Masked())
		}
	}
	return out
}

func subnets(n *record.Network) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range n.Pools {
		out = append(out, p.Subnet)
	}
	return out
}

// published is one element, however many there are. What is bound to a loopback address comes through the proxy alone, and so does what would have
// to change its address family.
func (r hostRenderer) published(p Published) {
	at, target := p.Binding.HostAddr.Unmap(), p.Target.Unmap()
	if !at.IsValid() || !target.IsValid() || at.IsLoopback() {
		return
	}
	if at.Is4() != target.Is4() {
		set := proxySet
		if at.Is6() {
			set += "6"
		}
		r.element(set, kernel.SetService, fmt.Sprintf("%s %d", p.Binding.Proto, p.Binding.HostPort), "")
		return
	}
	value := fmt.Sprintf("%s %d", target, p.Binding.Port)
	service := fmt.Sprintf("%s %d", p.Binding.Proto, p.Binding.HostPort)
	switch bound := at.String() + " " + service; {
	case at == netip.IPv4Unspecified():
		r.element(openMap, kernel.MapService, service, value)
	case at == netip.IPv6Unspecified():
		r.element(openMap+"6", kernel.MapService6, service, value)
	case at.Is4():
		r.element(boundMap, kernel.MapDestService, bound, value)
	default:
		r.element(boundMap+"6", kernel.MapDestService6, bound, value)
	}
}
