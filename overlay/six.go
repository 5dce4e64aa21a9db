package overlay

import (
	"net/netip"

	"weft/kernel"
	"weft/port"
	"weft/store/record"
)

// The uplink's ends in IPv6: next hops with permanent neighbours, that no interface needs to have.
var (
	uplinkInner6 = netip.MustParseAddr("fe80::77:2")
	uplinkOuter6 = netip.MustParseAddr("fe80::77:1")
)

const portSet6 = "ports6"

// dual tells whether a network carries IPv6.
func dual(n *record.Network) bool {
	for _, p := range n.Pools {
		if p.Subnet.Addr().Is6() {
			return true
		}
	}
	return false
}

// sysctls6 are those of a network's namespace. Where it carries IPv6 the bridge and the uplink have it, and no port: what stands at a port is in
// a sandbox. Addresses are used at once, and no router is believed.
func (r *renderer) sysctls6() map[string]string {
	if !dual(r.n.Record) {
		return map[string]string{"net/ipv6/conf/all/disable_ipv6": "1"}
	}
	return map[string]string{
		"net/ipv6/conf/all/disable_ipv6": "0", "net/ipv6/conf/default/disable_ipv6": "1", "net/ipv6/conf/all/forwarding": "1",
		"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/default/accept_ra": "0",
	}
}

// carries6 turns IPv6 on on a link.
func (r *renderer) carries6(ns, link string) {
	for name, value := range map[string]string{"disable_ipv6": "0", "accept_dad": "0", "accept_ra": "0"} {
		r.add(kernel.KindConf, ns, link, "ipv6/conf/"+name, kernel.Conf{Value: value})
	}
}

// uplink6 leads out of the network into the host in IPv6. The host need not have IPv6 itself for the sandboxes to talk with each other.
func (r *renderer) uplink6(outer, inMAC, outMAC string) {
	r.carries6(r.ns, uplinkName)
	r.carries6(kernel.HostNS, outer)
	r.add(kernel.KindNeigh, r.ns, uplinkName, uplinkOuter6.String(), kernel.Neigh{MAC: outMAC})
	r.add(kernel.KindRoute, r.ns, uplinkName, "::/0", kernel.Route{Via: uplinkOuter6})
	r.add(kernel.KindNeigh, kernel.HostNS, outer, uplinkInner6.String(), kernel.Neigh{MAC: inMAC})
}

// rules6 let a sandbox send IPv6 from its own addresses and hardware address only, the link-local one that follows from that among them (RFC
// 4291, appendix A), advertise itself alone as a neighbour, and be no router: neither advertisements (134) nor redirects (137).
func rules6() []kernel.Rule {
	at := "@" + portSet6
	six := kernel.Match{Field: kernel.EtherType, Value: "ip6"}
	return []kernel.Rule{
		{If: []kernel.Match{six, {Field: kernel.ICMP6Type, Value: "134"}}, Verdict: kernel.Drop},
		{If: []kernel.Match{six, {Field: kernel.ICMP6Type, Value: "137"}}, Verdict: kernel.Drop},
		{If: []kernel.Match{six, {Field: kernel.ICMP6Type, Value: "136"}, {Field: kernel.NDTarget, Not: true, Value: at}}, Verdict: kernel.Drop},
		{If: []kernel.Match{six, {Field: kernel.SourcePort6, Value: at}}, Verdict: kernel.Accept},
	}
}

// senders6 are the IPv6 addresses that a port may send from.
func senders6(ep *record.Endpoint) []netip.Addr {
	var out []netip.Addr
	for _, a := range ep.Addrs {
		if a.Is6() {
			out = append(out, a)
		}
	}
	if ll, ok := port.LinkLocal(ep.MAC); ok && len(out) > 0 {
		out = append(out, ll)
	}
	return out
}
