package record

import (
	"net/netip"
	"slices"
	"strings"

	"weft/store"
)

// partition is the check of one network's endpoints.
type partition struct {
	*checker
	id     NetworkID
	of     *Network // nil where it is gone or cannot be read
	net    *Net
	bad    map[store.Key]error
	claims map[string]store.Entry // addr/… and name/…
}

func (c *checker) checkPartition(name string, s store.Snapshot) {
	id, ok := strings.CutPrefix(name, netPrefix)
	if !ok || id == "" {
		for _, e := range s.Entries {
			c.say(e, RuleForeign, doForeign, "weft knows no such partition")
		}
		return
	}
	view := Empty().Apply(name, store.Batch{Rev: s.Rev, Puts: s.Entries})
	p := &partition{checker: c, id: NetworkID(id), bad: view.Corrupt(), claims: map[string]store.Entry{}}
	p.net, _ = view.Net(p.id)
	p.of, ok = c.meta.Network(p.id)
	gone := !ok && c.meta.Corrupt()[NetworkKey(p.id)] == nil
	for _, e := range s.Entries {
		p.claims[e.Key.Name] = e
	}
	for _, e := range s.Entries {
		if gone {
			c.say(e, RuleNoNetwork, doDelete, "network %s is gone", ShortID(p.id))
			continue
		}
		p.check(e)
	}
}

func (p *partition) check(e store.Entry) {
	if err := p.bad[e.Key]; err != nil {
		p.say(e, RuleReadable, doRestore, "%v", err)
		return
	}
	dir, name, deep := strings.Cut(e.Key.Name, "/")
	switch {
	case dir == "ep" && deep:
		p.endpoint(e, EndpointID(name))
	case dir == "kept" && deep:
		p.kept(e, name)
	case dir == "addr" && deep:
		a, err := netip.ParseAddr(name)
		p.owned(e, err == nil && a.String() == name && p.hasAddr(EndpointID(e.Value), a), "endpoint", string(e.Value))
	case dir == "name" && deep:
		ep, ok := p.net.Endpoint(EndpointID(e.Value))
		p.owned(e, p.unread(EndpointID(e.Value)) || ok && Fold(ep.Name) == name, "endpoint", string(e.Value))
	case dir == "mac" && deep:
		ep, ok := p.net.Endpoint(EndpointID(e.Value))
		p.owned(e, p.unread(EndpointID(e.Value)) || ok && ep.StaticMAC && string(ep.MAC) == name, "endpoint", string(e.Value))
	case dir == "vip" && deep:
		p.vip(e, name)
	default:
		p.say(e, RuleForeign, doForeign, "weft knows no such key")
	}
}

// unread tells an endpoint whose record is there and cannot be read: that is said once, and not of each of its claims.
func (p *partition) unread(id EndpointID) bool { return p.bad[EndpointKey(p.id, id)] != nil }

// hasAddr tells whether an owner has an address: an endpoint, or what is kept for one.
func (p *partition) hasAddr(owner EndpointID, a netip.Addr) bool {
	if p.unread(owner) {
		return true
	}
	if alias, ok := VIPOf(owner); ok {
		v, _ := p.net.VIP(alias)
		return p.bad[VIPKey(p.id, alias)] != nil || v != nil && slices.Contains(v.Addrs, a)
	}
	if ep, ok := p.net.Endpoint(owner); ok {
		for _, x := range ep.Addrs {
			if x == a {
				return true
			}
		}
		return false
	}
	for k := range p.net.AllKept() {
		if k.ID == owner && k.Has(a) {
			return true
		}
	}
	for k := range p.bad { // what is kept and cannot be read may have it
		if _, kept := KeptName(k); kept {
			return true
		}
	}
	return false
}

func (p *partition) endpoint(e store.Entry, id EndpointID) {
	ep, _ := p.net.Endpoint(id)
	if ep.ID != id || ep.Network != p.id {
		p.say(e, RuleReadable, doRestore, "it is the record of endpoint %s in network %s", ShortID(ep.ID), ShortID(ep.Network))
		return
	}
	p.checkClaims(e, ep.Name, ep.Addrs, id)
	if ep.StaticMAC {
		p.claimedHere(e, MACKey(p.id, ep.MAC), string(id), "hardware address "+string(ep.MAC))
	}
	for _, alias := range ep.VIPAliases {
		if v, _ := p.net.VIP(alias); v == nil && p.bad[VIPKey(p.id, alias)] == nil {
			p.say(e, RuleUnclaimed, "disconnect the sandbox from the network, and connect it again", "its alias %s has no virtual address", alias)
		}
	}
	h, known := p.meta.Host(ep.Host)
	fence, _ := p.meta.Fence(ep.Host)
	switch {
	case !known && p.meta.Corrupt()[HostKey(ep.Host)] == nil:
		p.say(e, RuleNoHost, "delete it with its claims, if that host will not come back", "endpoint %s is of host %s, which has no record", ep.Name, ShortID(ep.Host))
	case fence != nil && fence.Incarnation >= ep.Incarnation:
		p.say(e, RuleFenced, doPublish, "endpoint %s is of incarnation %d of host %s, and all up to %d were cleared", ep.Name, ep.Incarnation, ShortID(ep.Host), fence.Incarnation)
	case known && ep.Incarnation > h.Incarnation:
		p.say(e, RuleFenced, doPublish, "endpoint %s is of incarnation %d of host %s, which is in its %d", ep.Name, ep.Incarnation, ShortID(ep.Host), h.Incarnation)
	}
}

// checkClaims checks that an endpoint's name and addresses are its own, and in the network.
func (p *partition) checkClaims(e store.Entry, name string, addrs []netip.Addr, id EndpointID) {
	p.claimedHere(e, EndpointNameKey(p.id, name), string(id), "name "+name)
	p.addresses(e, addrs, id)
}

func (p *partition) addresses(e store.Entry, addrs []netip.Addr, id EndpointID) {
	for _, a := range addrs {
		p.claimedHere(e, AddrKey(p.id, a), string(id), "address "+a.String())
		if p.of == nil {
			continue
		}
		pool, ok := p.of.PoolOf(a)
		switch {
		case !ok:
			p.say(e, RuleOutside, "disconnect the sandbox from the network, and connect it again", "address %s is in no pool of network %s", a, p.of.Name)
		case a == pool.Gateway:
			p.say(e, RuleOutside, "disconnect the sandbox from the network, and connect it again", "address %s is the gateway of network %s", a, p.of.Name)
		}
	}
}

func (p *partition) claimedHere(e store.Entry, claim store.Key, owner, what string) {
	have, ok := p.claims[claim.Name]
	switch {
	case !ok:
		p.say(e, RuleUnclaimed, "write "+claim.String()+" with the value "+owner+", or restart the sandbox", "its %s is not claimed: another may be given it", what)
	case string(have.Value) != owner:
		p.say(e, RuleUnclaimed, "remove one of the two sandboxes", "its %s is claimed for %s: two have it", what, ShortID(string(have.Value)))
	}
}

func (p *partition) kept(e store.Entry, name string) {
	k, _ := p.net.Kept(name)
	if Fold(k.Name) != name || k.Network != p.id {
		p.say(e, RuleReadable, doRestore, "it is kept for %s in network %s", k.Name, ShortID(k.Network))
		return
	}
	p.addresses(e, k.Addrs, k.ID)
}

// vip checks the virtual address of an alias: it has a member, and its addresses are its own.
func (p *partition) vip(e store.Entry, name string) {
	v, _ := p.net.VIP(name)
	if Fold(v.Alias) != name || v.Network != p.id {
		p.say(e, RuleReadable, doRestore, "it is the virtual address of %s in network %s", v.Alias, ShortID(v.Network))
		return
	}
	p.addresses(e, v.Addrs, VIPOwner(name))
	unread := false
	for k := range p.bad {
		unread = unread || strings.HasPrefix(k.Name, "ep/")
	}
	if len(p.net.Members(name)) == 0 && !unread {
		p.say(e, RuleOrphan, doDelete+", with the claims of its addresses", "no endpoint has the alias %s", v.Alias)
	}
}
