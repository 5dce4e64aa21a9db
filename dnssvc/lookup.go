package dnssvc

import (
	"net/netip"
	"strings"

	"weft/store/record"
)

// rank is how a name means an endpoint; where several endpoints have one name, the lowest rank that has a usable one is answered with.
type rank int

const (
	byLink rank = iota // of the asker itself
	byName
	byNameNetwork // NAME.NETWORK
	bySandbox     // the 12 digits
	byHostname
	byAlias
	byOther // any of the others with .NETWORK, as Docker has it too
	ranks
)

// found is what a picture has for one name, seen from one sandbox. Whether an endpoint is usable is asked for each answer anew: that
// depends on more than the picture.
type found struct {
	ranks    [ranks][]*record.Endpoint
	pointers []pointer
	blind    bool // the endpoints of one of the sandbox's networks are not known: nobody can say that a name does not exist
	ours     bool // and the name ends in that network's: nobody else can have it
}

// pointer is the name of an address.
type pointer struct {
	ep   *record.Endpoint
	name string
}

// lookup finds a folded name in the networks of a sandbox.
func lookup(p *record.Snapshot, in []Network, name string) *found {
	f := &found{}
	addr, reverse := parseReverse(name)
	for _, n := range in {
		var title string // unknown: no name ends in it
		if network, ok := p.Network(n.ID); ok {
			title = network.Name
		}
		short, qualified := strings.CutSuffix(name, "."+record.Fold(title))
		net, ok := p.Net(n.ID)
		if !ok {
			f.blind, f.ours = true, f.ours || qualified
			continue
		}
		if reverse {
			f.point(net, title, addr)
			continue
		}
		f.links(net, n.Links, name, byLink)
		for _, ep := range net.ByLabel(name) {
			f.add(rankOf(ep, name), ep)
		}
		if qualified {
			f.qualified(net, n.Links, short)
		}
	}
	return f
}

// qualified finds a name that was asked for with its network's.
func (f *found) qualified(net *record.Net, links []record.Link, name string) {
	f.links(net, links, name, byOther)
	for _, ep := range net.ByLabel(name) {
		r := byOther
		if rankOf(ep, name) == byName {
			r = byNameNetwork
		}
		f.add(r, ep)
	}
}

// links finds the targets of the links of that name. A target that is not there (yet) leaves the name to others.
func (f *found) links(net *record.Net, links []record.Link, name string, r rank) {
	for _, l := range links {
		alias := l.Alias
		if alias == "" {
			alias = l.Target
		}
		if record.Fold(alias) != name {
			continue
		}
		for _, ep := range linkTargets(net, record.Fold(l.Target)) {
			f.add(r, ep)
		}
	}
}

// linkTargets returns the endpoints that a link's target means: of a name only those of the lowest rank.
func linkTargets(net *record.Net, target string) []*record.Endpoint {
	label := target
	if len(target) == 64 { // a full ID
		label = record.ShortID(target)
	}
	best, out := ranks, []*record.Endpoint(nil)
	for _, ep := range net.ByLabel(label) {
		r := rankOf(ep, label)
		if !answers(ep) || label != target && string(ep.Sandbox) != target || r > best {
			continue
		}
		if r < best {
			best, out = r, nil
		}
		out = append(out, ep)
	}
	return out
}

func (f *found) add(r rank, ep *record.Endpoint) {
	if !answers(ep) {
		return
	}
	for _, have := range f.ranks[r] {
		if have == ep {
			return
		}
	}
	f.ranks[r] = append(f.ranks[r], ep)
}

func (f *found) point(net *record.Net, network string, addr netip.Addr) {
	if ep, ok := net.ByAddr(addr); ok && answers(ep) && network != "" {
		f.pointers = append(f.pointers, pointer{ep, ep.Name + "." + network})
	}
}

// answers tells whether the record itself lets an endpoint be answered with.
func answers(ep *record.Endpoint) bool { return ep.Running && len(ep.Addrs) > 0 }

// rankOf tells which of an endpoint's labels a folded name is.
func rankOf(ep *record.Endpoint, name string) rank {
	switch name {
	case record.Fold(ep.Name):
		return byName
	case record.ShortID(ep.Sandbox):
		return bySandbox
	case record.Fold(ep.Hostname):
		return byHostname
	}
	return byAlias
}

const (
	reverse4 = ".in-addr.arpa"
	reverse6 = ".ip6.arpa"
)

// parseReverse returns the address that a name of in-addr.arpa or ip6.arpa stands for.
func parseReverse(name string) (netip.Addr, bool) {
	if digits, ok := strings.CutSuffix(name, reverse4); ok {
		parts := strings.Split(digits, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	digits, ok := strings.CutSuffix(name, reverse6)
	if !ok || len(digits) != 63 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := 62; i >= 0; i -= 2 {
		if i < 62 && digits[i+1] != '.' {
			return netip.Addr{}, false
		}
		if i < 62 && (62-i)%8 == 0 {
			text.WriteByte(':')
		}
		text.WriteByte(digits[i])
	}
	a, err := netip.ParseAddr(text.String())
	return a, err == nil && !a.Is4In6()
}
