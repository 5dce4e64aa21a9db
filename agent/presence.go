package agent

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"weft/bridge"
	"weft/ipam"
	"weft/port"
	"weft/store/record"
)

// endpointOf is the record that an attachment of this host asks for: what the store should hold of it. It has no addresses where the
// sandbox does not run and did not ask for one; one that comes again keeps them.
func endpointOf(self record.HostID, incarnation uint64, s *record.Sandbox, a record.Attachment) *record.Endpoint {
	running := s.Up
	ep := &record.Endpoint{
		ID: a.Endpoint, Network: a.Network, Host: self, Incarnation: incarnation, Sandbox: s.ID, Name: s.Name, Hostname: s.Hostname,
		Aliases: a.Aliases, VIPAliases: a.VIPAliases, Links: a.Links, Static: a.IP.IsValid() || a.IP6.IsValid(), MAC: a.MAC, Running: running,
	}
	if ep.Addrs = askedFor(a); running || s.Status == record.SandboxRestarting {
		ep.Addrs = a.Addrs
	}
	ep.StaticMAC = a.MAC != ""
	if all := append(slices.Clone(a.Addrs), ep.Addrs...); ep.MAC == "" && len(all) > 0 {
		ep.MAC = record.MAC(ipam.MAC(all[0]))
	}
	return ep
}

// presence is what this host wants in one network, whatever the store has heard of it.
type presence struct {
	ports     []port.Port
	endpoints map[record.EndpointID]*record.Endpoint
	talks     []bridge.Talk // what its links lead to
}

// presences gathers, by network, the endpoints of the host's sandboxes that are up. It is pure.
func presences(self record.HostID, incarnation uint64, all map[record.SandboxID]*record.Sandbox, netns func(record.SandboxID) string) map[record.NetworkID]presence {
	out := map[record.NetworkID]presence{}
	for _, s := range all {
		roles := rolesOf(s)
		for _, a := range s.Attachments {
			if !s.Up || a.Endpoint == "" || len(a.Addrs) == 0 {
				continue
			}
			l, ok := out[a.Network]
			if !ok {
				l.endpoints = map[record.EndpointID]*record.Endpoint{}
			}
			ep := endpointOf(self, incarnation, s, a)
			is := roles[a.Network]
			set, _ := settings(a.DriverOpts[optSysctls]) // checked when it was asked for
			l.ports = append(l.ports, port.Port{
				Endpoint: ep, Netns: netns(s.ID), IfName: a.IfName, Default: is.ways[0], Default6: is.ways[1], BySource: is.bySource, Settings: set,
			})
			l.endpoints[ep.ID] = ep
			out[a.Network] = l
		}
	}
	for id, l := range out {
		l.talks = talks(all, id)
		out[id] = l
	}
	return out
}

// presentNow keeps what presences made of the sandboxes as they are: the loop asks with each pass, and most change nothing of them.
type presentNow struct {
	mu  sync.Mutex // guards what follows
	key presentKey
	out map[record.NetworkID]presence
}

type presentKey struct {
	self        record.HostID
	incarnation uint64
	version     uint64 // of the boxes
}

// of returns a map that is the caller's; what is in it is shared.
func (p *presentNow) of(self record.HostID, incarnation uint64, b *boxes, netns func(record.SandboxID) string) map[record.NetworkID]presence {
	all, version := b.at()
	key := presentKey{self, incarnation, version}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out == nil || p.key != key {
		p.key, p.out = key, presences(self, incarnation, all, netns)
	}
	return maps.Clone(p.out)
}

// role is what a network is to a sandbox.
type role struct {
	ways     [families]bool // the default route of the family leads through it
	bySource bool           // what comes from its addresses is routed by them: the sandbox has other networks too
}

// rolesOf tells what each network that a sandbox has addresses in is to it.
func rolesOf(s *record.Sandbox) map[record.NetworkID]role {
	out := map[record.NetworkID]role{}
	ways := [families]record.NetworkID{defaultNetwork(s), defaultNetwork6(s)}
	n := 0
	for _, a := range s.Attachments {
		if len(a.Addrs) > 0 {
			n++
		}
	}
	for _, a := range s.Attachments {
		if len(a.Addrs) > 0 {
			out[a.Network] = role{ways: [families]bool{a.Network == ways[0], a.Network == ways[1]}, bySource: n > 1 && !a.NoGateway}
		}
	}
	return out
}

// turned lists the networks that are something else to a sandbox after a change: first those that a default route enters, so that there
// is one at any moment.
func turned(before, after *record.Sandbox) []record.NetworkID {
	was, is := rolesOf(before), rolesOf(after)
	var out []record.NetworkID
	for id, r := range is {
		if was[id] != r {
			out = append(out, id)
		}
	}
	for id := range was {
		if _, stays := is[id]; !stays {
			out = append(out, id)
		}
	}
	entered := func(id record.NetworkID) int {
		n := 0
		for f := range families {
			if is[id].ways[f] && !was[id].ways[f] {
				n--
			}
		}
		return n
	}
	slices.SortFunc(out, func(a, b record.NetworkID) int { return cmp.Or(cmp.Compare(entered(a), entered(b)), cmp.Compare(a, b)) })
	return out
}

// defaultNetwork is the network that the sandbox's IPv4 default route leads into: the attachment of the highest priority, and of the lowest
// interface among equals. Published ports belong to it. defaultNetwork6 is the same for IPv6.
func defaultNetwork(s *record.Sandbox) record.NetworkID  { return defaultOf(s, 0) }
func defaultNetwork6(s *record.Sandbox) record.NetworkID { return defaultOf(s, 1) }

func defaultOf(s *record.Sandbox, f int) record.NetworkID {
	var best *record.Attachment
	for i := range s.Attachments {
		a := &s.Attachments[i]
		if a.NoGateway || !slices.ContainsFunc(a.Addrs, func(x netip.Addr) bool { return family(x) == f }) {
			continue
		}
		if best == nil || a.GwPriority > best.GwPriority {
			best = a
		}
	}
	if best == nil {
		return ""
	}
	return best.Network
}

// merged returns the endpoints of a network as this host sees them: the picture's, with its own as it wants them. What the picture still
// has of this host, and the host no longer wants, is left out: a release works here before the store has heard of it.
func merged(self record.HostID, net *record.Net, l presence) []*record.Endpoint {
	var out []*record.Endpoint
	if net != nil {
		for ep := range net.Endpoints() {
			if ep.Host != self {
				out = append(out, ep)
			}
		}
	}
	for _, p := range l.ports {
		out = append(out, p.Endpoint)
	}
	return out
}

// sameRecord tells whether the store's record says what the wanted one says.
func sameRecord(have, want *record.Endpoint) bool {
	return have.Host == want.Host && have.Incarnation == want.Incarnation && have.Sandbox == want.Sandbox && have.Name == want.Name &&
		have.Hostname == want.Hostname && have.Static == want.Static && have.MAC == want.MAC && have.StaticMAC == want.StaticMAC && have.Running == want.Running &&
		slices.Equal(have.Aliases, want.Aliases) && slices.Equal(have.VIPAliases, want.VIPAliases) && slices.Equal(have.Links, want.Links) && slices.Equal(have.Addrs, want.Addrs)
}
