// Package port renders what one endpoint is on its own host, whatever the driver of its network: the pair whose far end is the sandbox's
// interface, and the sandbox's addresses and routes. overlay and bridge say where the near end is, and add what their bridges need. It is pure.
package port

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"weft/kernel"
	"weft/store/record"
)

// Port is an endpoint of this host.
type Port struct {
	Endpoint *record.Endpoint
	Netns    string // the sandbox's namespace
	IfName   string // eth0, …
	Default  bool   // the sandbox's IPv4 default route leads through this network
	Default6 bool   // its IPv6 default route does
}

// Place is where a port's near end is.
type Place struct {
	NS string // the network's namespace, or kernel.HostNS
	At kernel.Port
}

// Name is the name of an endpoint's near end.
func Name(id record.EndpointID) string { return "ep" + record.ShortID(id) }

// MAC is a hardware address of weft's own, the same on every host for the same words.
func MAC(words ...string) string {
	sum := sha256.Sum256(fmt.Append(nil, words))
	return fmt.Sprintf("06:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4])
}

// Render adds to a state the pair of a port, and its addresses and routes in the sandbox. Addresses that are in no pool of the network are
// left out.
func Render(out kernel.State, n *record.Network, at Place, p Port) {
	r := renderer{out: out, n: n, p: p}
	r.add(kernel.KindVeth, at.NS, Name(p.Endpoint.ID), "", kernel.Veth{
		MAC: MAC("port", string(p.Endpoint.ID)), MTU: n.MTU, At: at.At, Peer: kernel.Peer{NS: p.Netns, Name: p.IfName, MAC: string(p.Endpoint.MAC)},
	})
	for _, a := range p.Endpoint.Addrs {
		if pool, ok := n.PoolOf(a); ok {
			r.address(a, pool)
		}
	}
}

type renderer struct {
	out kernel.State
	n   *record.Network
	p   Port
}

func (r renderer) add(kind kernel.Kind, ns, link, dst string, spec kernel.Spec) {
	r.out.Add(kernel.Object{Key: kernel.Key{Kind: kind, NS: ns, Link: link, Dst: dst}, Spec: spec})
}

// address gives the sandbox an address, and the ways out that its pool's gateway offers: to the network's other pools, and everywhere else if
// that is this network's to offer.
func (r renderer) address(a netip.Addr, pool record.Pool) {
	ns, link := r.p.Netns, r.p.IfName
	r.add(kernel.KindAddr, ns, link, netip.PrefixFrom(a, pool.Subnet.Bits()).String(), kernel.Addr{})
	if !pool.Gateway.IsValid() {
		return
	}
	if r.p.Default && a.Is4() {
		r.add(kernel.KindRoute, ns, link, "0.0.0.0/0", kernel.Route{Via: pool.Gateway})
	}
	if r.p.Default6 && a.Is6() {
		r.add(kernel.KindRoute, ns, link, "::/0", kernel.Route{Via: pool.Gateway})
	}
	for _, other := range r.n.Pools {
		if other.Subnet != pool.Subnet && other.Subnet.Addr().Is4() == a.Is4() {
			r.add(kernel.KindRoute, ns, link, other.Subnet.String(), kernel.Route{Via: pool.Gateway})
		}
	}
}
