// Package port renders what one endpoint is on its own host, whatever the driver of its network: the pair whose far end is the sandbox's
// interface, and the sandbox's addresses and routes. overlay and bridge say where the near end is, and add what their bridges need. It is pure.
package port

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"weft/kernel"
	"weft/store/record"
)

// Port is an endpoint of this host.
type Port struct {
	Endpoint *record.Endpoint
	Netns    string            // the sandbox's namespace
	IfName   string            // eth0, …
	Default  bool              // the sandbox's IPv4 default route leads through this network
	Default6 bool              // its IPv6 default route does
	BySource bool              // what comes from its addresses leaves by it: the sandbox has other networks too
	Settings map[string]string // more of the interface: kernel.Conf's Key.Dst, and the value
}

// Priority of the rules by source: before the main table's (32766), and after those that users and other programs make without saying
// where.
const rulePriority = 32000

// Table is the routing table in the sandbox that leads what comes from an endpoint's addresses: one of 16 million, by chance.
func Table(id record.EndpointID) uint32 {
	sum := sha256.Sum256([]byte("table " + id))
	return kernel.FirstTable | uint32(sum[0])<<16 | uint32(sum[1])<<8 | uint32(sum[2])
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

// LinkLocal is the IPv6 address that the kernel gives an interface of a hardware address by itself (RFC 4291, appendix A: EUI-64).
func LinkLocal(mac record.MAC) (netip.Addr, bool) {
	hw, err := net.ParseMAC(string(mac))
	if err != nil || len(hw) != 6 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: hw[0] ^ 2, 9: hw[1], 10: hw[2], 11: 0xff, 12: 0xfe, 13: hw[3], 14: hw[4], 15: hw[5]}), true
}

// Render adds to a state the pair of a port, and its addresses and routes in the sandbox. Addresses that are in no pool of the network are
// left out.
func Render(out kernel.State, n *record.Network, at Place, p Port) {
	r := renderer{out: out, n: n, p: p}
	r.add(kernel.KindVeth, at.NS, Name(p.Endpoint.ID), "", kernel.Veth{
		MAC: MAC("port", string(p.Endpoint.ID)), MTU: n.MTU, At: at.At, Peer: kernel.Peer{NS: p.Netns, Name: p.IfName, MAC: string(p.Endpoint.MAC)},
	})
	six := false
	for _, a := range p.Endpoint.Addrs {
		if pool, ok := n.PoolOf(a); ok {
			r.address(a, pool)
			six = six || a.Is6()
		}
	}
	r.settings(six)
}

type renderer struct {
	out kernel.State
	n   *record.Network
	p   Port
}

func (r renderer) add(kind kernel.Kind, ns, link, dst string, spec kernel.Spec) {
	r.out.Add(kernel.Object{Key: kernel.Key{Kind: kind, NS: ns, Link: link, Dst: dst}, Spec: spec})
}

// settings are those of the interface. An address is used at once, without asking whether another has it, and nobody on the network is
// believed that they are a router. Where the network has no IPv6 nothing is set, since its ports' rules let none through: turning it off takes
// ten times as long as the rest of an attach.
func (r renderer) settings(six bool) {
	set := map[string]string{}
	if six {
		set = map[string]string{"ipv6/conf/disable_ipv6": "0", "ipv6/conf/accept_dad": "0", "ipv6/conf/accept_ra": "0", "ipv6/conf/accept_redirects": "0"}
	}
	maps.Copy(set, r.p.Settings)
	for name, value := range set {
		r.add(kernel.KindConf, r.p.Netns, r.p.IfName, name, kernel.Conf{Value: value})
	}
}

// address gives the sandbox an address, and the ways out that its pool's gateway offers: to the network's other pools, and everywhere else if
// that is this network's to offer.
func (r renderer) address(a netip.Addr, pool record.Pool) {
	ns, link := r.p.Netns, r.p.IfName
	r.add(kernel.KindAddr, ns, link, netip.PrefixFrom(a, pool.Subnet.Bits()).String(), kernel.Addr{})
	if !pool.Gateway.IsValid() {
		return
	}
	if r.p.BySource {
		r.bySource(a, pool)
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

// bySource makes what comes from an address leave by its own network, wherever it goes: a reply to a published port's client, above all.
func (r renderer) bySource(a netip.Addr, pool record.Pool) {
	table := Table(r.p.Endpoint.ID)
	r.out.Add(kernel.SourceRule(r.p.Netns, a, table, rulePriority))
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if a.Is6() {
		everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	r.add(kernel.KindRoute, r.p.Netns, r.p.IfName, kernel.RouteDst(pool.Subnet, table), kernel.Route{})
	r.add(kernel.KindRoute, r.p.Netns, r.p.IfName, kernel.RouteDst(everywhere, table), kernel.Route{Via: pool.Gateway})
}
