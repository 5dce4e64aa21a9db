package dnssvc

import (
	"net/netip"
	"slices"
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
	ranks    [ranks][]group
	pointers []pointer
	blind    bool // the endpoints of one of the sandbox's networks are not known: nobody can say that a name does not exist
	ours     bool // and the name ends in that network's: nobody else can have it
	owned    bool // somebody in these networks has the name or the address, whether it can be answered with or not: it is asked nowhere else

	network int // the one that is looked through, in the order of the sandbox's
}

// group is what a name means in one network: endpoints, or the virtual address of an alias.
type group struct {
	network int
	eps     []*record.Endpoint
	vips    []*record.VIP
}

// pointer is the name of an address.
type pointer struct {
	ep   *record.Endpoint // nil: of a virtual address
	name string
}

// lookup finds a folded name in the networks of a sandbox.
func lookup(p *record.Snapshot, in []Network, name string) *found {
	f := &found{}
	addr, reverse := parseReverse(name)
	for i, n := range in {
		f.network = i
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
		f.labels(net, name, rankOf)
		if qualified {
			f.links(net, n.Links, short, byOther)
			f.labels(net, short, rankQualified)
		}
	}
	return f
}

// labels finds those that have a name in a network. An alias with a virtual address is that address: its members are the clients' matter.
func (f *found) labels(net *record.Net, name string, rankOf func(*record.Endpoint, string) rank) {
	v, _ := net.VIP(name)
	for _, ep := range net.ByLabel(name) {
		f.owned = true
		if v != nil && ep.HasAlias(name) && !isOwnLabel(ep, name) {
			continue
		}
		f.add(rankOf(ep, name), ep)
	}
	if v != nil {
		f.owned = true
		f.addVIP(rankOf(&record.Endpoint{}, name), v)
	}
}

// rankQualified is rankOf a name that was asked for with its network's.
func rankQualified(ep *record.Endpoint, name string) rank {
	if rankOf(ep, name) == byName {
		return byNameNetwork
	}
	return byOther
}

// links finds the targets of the links of that name. A target that is not there (yet) leaves the name to others in the sandbox's networks.
func (f *found) links(net *record.Net, links []record.Link, name string, r rank) {
	for _, l := range links {
		alias := l.Alias
		if alias == "" {
			alias = l.Target
		}
		if record.Fold(alias) != name {
			continue
		}
		f.owned = true
		target := record.Fold(l.Target)
		eps := linkTargets(net, target)
		if v, _ := net.VIP(target); v != nil && (len(eps) == 0 || !isOwnLabel(eps[0], target)) {
			f.addVIP(r, v)
			continue
		}
		for _, ep := range eps {
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
	if g := f.group(r); !slices.Contains(g.eps, ep) {
		g.eps = append(g.eps, ep)
	}
}

func (f *found) addVIP(r rank, v *record.VIP) {
	if g := f.group(r); !slices.Contains(g.vips, v) {
		g.vips = append(g.vips, v)
	}
}

// group is what a rank has of the network that is looked through.
func (f *found) group(r rank) *group {
	if n := len(f.ranks[r]); n == 0 || f.ranks[r][n-1].network != f.network {
		f.ranks[r] = append(f.ranks[r], group{network: f.network})
	}
	return &f.ranks[r][len(f.ranks[r])-1]
}

func (f *found) point(net *record.Net, network string, addr netip.Addr) {
	f.owned = f.owned || net.Taken(addr)
	if v, ok := net.VIPByAddr(addr); ok && network != "" {
		f.pointers = append(f.pointers, pointer{nil, v.Alias + "." + network})
		return
	}
	if ep, ok := net.ByAddr(addr); ok && answers(ep) && network != "" {
		f.pointers = append(f.pointers, pointer{ep, ep.Name + "." + network})
	}
}

// answers tells whether the record itself lets an endpoint be answered with.
func answers(ep *record.Endpoint) bool { return ep.Running && len(ep.Addrs) > 0 }

// isOwnLabel tells a label that is no alias from one that is.
func isOwnLabel(ep *record.Endpoint, name string) bool { return rankOf(ep, name) != byAlias }

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
