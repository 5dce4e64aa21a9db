package agent

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"weft/agent/sandbox"
	"weft/bridge"
	"weft/kernel"
	"weft/overlay"
	"weft/store/record"
)

// OptHostBinding is the address of the host that the published ports of a network are at, unless -p says another.
const OptHostBinding = "com.docker.network.bridge.host_binding_ipv4"

// published are the host's rules for the ports of its sandboxes: those of the network that the default route leads into. Network tells what is known
// of one. It is pure.
func published(all map[record.SandboxID]*record.Sandbox, network func(record.NetworkID) (*record.Network, bool)) []bridge.Published {
	var out []bridge.Published
	for _, id := range slices.Sorted(maps.Keys(all)) {
		out = append(out, publishedOf(all[id], network)...)
	}
	return out
}

func publishedOf(s *record.Sandbox, network func(record.NetworkID) (*record.Network, bool)) []bridge.Published {
	var out []bridge.Published
	if !s.Up || len(s.Published) == 0 {
		return nil
	}
	at, _ := s.Attachment(defaultNetwork(s))
	n, ok := network(at.Network)
	if !ok {
		return nil
	}
	for _, b := range s.Published {
		if a, ok := addrLike(at, b.HostAddr); ok {
			out = append(out, bridge.Published{Network: n.ID, Link: hostLink(n), Binding: b, Target: a})
		}
	}
	return out
}

// hostLink is what leads from the host into a network.
func hostLink(n *record.Network) string {
	if n.IsLocal() {
		return n.Bridge()
	}
	return overlay.UplinkName(n.ID)
}

// addrLike is an attachment's address of the same family as another's.
func addrLike(at record.Attachment, other netip.Addr) (netip.Addr, bool) {
	for _, a := range at.Addrs {
		if a.Is4() == other.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// forwards are what the sandbox's supervisor is told: it has a way also from one address family to the other.
func forwards(s *record.Sandbox, bs []record.PortBinding) []sandbox.Forward {
	at, _ := s.Attachment(defaultNetwork(s))
	out := make([]sandbox.Forward, 0, len(bs))
	for _, b := range bs {
		f := sandbox.Forward{Proto: b.Proto, Host: netip.AddrPortFrom(b.HostAddr, b.HostPort)}
		a, ok := addrLike(at, b.HostAddr)
		if !ok && len(at.Addrs) > 0 {
			a, ok = at.Addrs[0], true
		}
		if ok {
			f.Target = netip.AddrPortFrom(a, b.Port)
		}
		out = append(out, f)
	}
	return out
}

// udpFlows are the ports whose clients may be known to the kernel by an older way.
func udpFlows(ps []bridge.Published) []kernel.UDPForward {
	var out []kernel.UDPForward
	for _, p := range ps {
		if p.Binding.Proto == "udp" {
			out = append(out, kernel.UDPForward{
				Host:   netip.AddrPortFrom(p.Binding.HostAddr, p.Binding.HostPort),
				Target: netip.AddrPortFrom(p.Target, p.Binding.Port),
			})
		}
	}
	return out
}

// hostAddrs are where ports are that ask for no address, in a network: all addresses, or the one that the network's option names.
func hostAddrs(n *record.Network, six bool) []netip.Addr {
	if a, err := netip.ParseAddr(n.Options[OptHostBinding]); err == nil && !a.IsUnspecified() {
		return []netip.Addr{a}
	}
	if six {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	return []netip.Addr{netip.IPv4Unspecified()}
}

// sortBindings puts them in the order in which they are shown.
func sortBindings(bs []record.PortBinding) {
	slices.SortFunc(bs, func(a, b record.PortBinding) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Proto, b.Proto), a.HostAddr.Compare(b.HostAddr), cmp.Compare(a.HostPort, b.HostPort))
	})
}
