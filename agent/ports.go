package agent

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"weft/agent/sandbox"
	"weft/bridge"
	"weft/kernel"
	"weft/store/record"
)

// OptHostBinding is the address of the host that the published ports of a network are at, unless -p says another.
const OptHostBinding = "com.docker.network.bridge.host_binding_ipv4"

// published are the host's rules for the ports of its sandboxes: they lead into the network that the default route of their address family leads
// into. Network tells what is known of one. It is pure.
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
	for _, b := range s.Published {
		id, a := wayIn(s, b.HostAddr.Is4())
		if n, ok := network(id); ok && a.IsValid() {
			out = append(out, bridge.Published{Network: n.ID, Binding: b, Target: a})
		}
	}
	return out
}

// wayIn is where a sandbox is reached from the host by an address family: through the network of its default route.
func wayIn(s *record.Sandbox, is4 bool) (record.NetworkID, netip.Addr) {
	id := defaultNetwork6(s)
	if is4 {
		id = defaultNetwork(s)
	}
	at, _ := s.Attachment(id)
	for _, a := range at.Addrs {
		if a.Is4() == is4 {
			return id, a
		}
	}
	return "", netip.Addr{}
}

// portNetwork is the network whose options say where ports are; "" where the sandbox has no way out, and no ports.
func portNetwork(s *record.Sandbox) record.NetworkID {
	return cmp.Or(defaultNetwork(s), defaultNetwork6(s))
}

// forwards are what the sandbox's supervisor is told: it has a way also from one address family to the other.
func forwards(s *record.Sandbox, bs []record.PortBinding) []sandbox.Forward {
	out := make([]sandbox.Forward, 0, len(bs))
	for _, b := range bs {
		f := sandbox.Forward{Proto: b.Proto, Host: netip.AddrPortFrom(b.HostAddr, b.HostPort)}
		_, a := wayIn(s, b.HostAddr.Is4())
		if !a.IsValid() {
			_, a = wayIn(s, !b.HostAddr.Is4())
		}
		if a.IsValid() {
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

// endedFlows are the ports that a sandbox had and has no longer: their clients are to be forgotten, or they would go on to who has its address next.
func endedFlows(had []record.PortBinding, now []bridge.Published) []kernel.UDPForward {
	var out []kernel.UDPForward
	for _, b := range had {
		if b.Proto == "udp" && !slices.ContainsFunc(now, func(p bridge.Published) bool { return bound(p.Binding) == bound(b) }) {
			out = append(out, kernel.UDPForward{Host: netip.AddrPortFrom(b.HostAddr, b.HostPort)})
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
