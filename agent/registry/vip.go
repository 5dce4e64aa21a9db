package registry

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"weft/ipam"
	"weft/store"
	"weft/store/record"
)

// OptAliasMode is the network's option that gives every alias in it a virtual address.
const OptAliasMode = "weft.alias_mode"

// Values of OptAliasMode.
const (
	AliasVIP = "vip" // an alias has one address, and connections to it are balanced over its members
	AliasDNS = "dns" // an alias has the addresses of its members; this is what happens without the option
)

// membership is what a change of one endpoint means for the virtual addresses of its network: of each alias that it gets or gives up, whether the
// endpoint is its first or last member. It is decided on one picture of the partition, and every change of an alias' members writes
// the alias' record, whose revision the transaction compares: so the decision is right or refused.
type membership struct {
	network *record.Network
	net     *record.Net
	id      record.EndpointID
	had     []string            // aliases with a virtual address before
	want    []string            // and after
	chosen  map[netip.Addr]bool // addresses that the same transaction claims
	random  func(n int) int
	created func() *record.VIP
	entries map[string]store.Entry // the whole partition, where it was read afresh
}

// membership returns what a change of an endpoint to ep is decided on, nil where no alias with a virtual address comes or goes. Afresh, that is the store itself.
func (r *Registry) membership(ctx context.Context, ep *record.Endpoint, had, want []string, fresh bool) (*membership, error) {
	if slices.Equal(had, want) {
		return nil, nil
	}
	n, view := ep.Network, r.cfg.Picture()
	network, known := view.Network(n)
	net, read := view.Net(n)
	var err error
	var entries map[string]store.Entry
	if fresh || !known {
		if network, _, err = get[record.Network](ctx, r.cfg.Store, record.NetworkKey(n)); err != nil {
			return nil, err
		}
	}
	if fresh || !read {
		if net, entries, err = r.readEntries(ctx, n); err != nil {
			return nil, err
		}
	}
	m := &membership{entries: entries, network: network, net: net, id: ep.ID, had: had, want: want, chosen: map[netip.Addr]bool{}, random: func(int) int { return 0 }}
	for _, a := range ep.Addrs {
		m.chosen[a] = true
	}
	if fresh && r.cfg.Random != nil { // a loser of a race for an address
		m.random = r.cfg.Random
	}
	m.created = func() *record.VIP { return &record.VIP{Network: n, Created: r.cfg.Now().UTC()} }
	return m, nil
}

// spread is among how many addresses the loser of a race chooses.
const spread = 16

// step adds to a transaction as many of the changes as it has room for, in which reserve conditions and writes are left for others. It returns the
// aliases with a virtual address that the endpoint has after it: those that were wanted, or some that another step goes on from.
func (m *membership) step(t *txn, reserve int) ([]string, error) {
	now := slices.Clone(m.had)
	for _, alias := range m.had {
		if hasFolded(m.want, alias) {
			continue
		}
		part := m.leave(alias)
		if !t.add(part, reserve) {
			return now, nil
		}
		now = slices.DeleteFunc(now, func(a string) bool { return record.Fold(a) == record.Fold(alias) })
	}
	for _, alias := range m.want {
		if hasFolded(m.had, alias) {
			continue
		}
		part, err := m.join(alias)
		if err != nil {
			return nil, err
		}
		if !t.add(part, reserve) {
			return now, nil
		}
		now = append(now, alias)
	}
	return slices.Clone(m.want), nil
}

func hasFolded(in []string, alias string) bool {
	return slices.ContainsFunc(in, func(a string) bool { return record.Fold(a) == record.Fold(alias) })
}

// add takes a part in where there is room for it.
func (t *txn) add(part txn, reserve int) bool {
	if len(t.t.If)+len(t.t.Then)+len(part.t.If)+len(part.t.Then)+reserve > store.MaxOps {
		return false
	}
	t.t.If, t.t.Then = append(t.t.If, part.t.If...), append(t.t.Then, part.t.Then...)
	if part.err != nil {
		t.err = part.err
	}
	return true
}

// join makes the endpoint a member of an alias: of one that has members already, or as the first, with addresses that nobody has.
func (m *membership) join(alias string) (txn, error) {
	t := txn{}
	key := record.VIPKey(m.network.ID, alias)
	if v, rev := m.net.VIP(alias); v != nil {
		t.when(key, rev)
		t.put(key, v)
		return t, nil
	}
	if _, unread := m.entries[key.Name]; unread {
		return t, refuse(InUse, "network %s: the record of the virtual address of alias %s cannot be read (%s): its members must leave it first, or the record be put back", m.network.Name, alias, key)
	}
	v := m.created()
	v.Alias = alias
	var err error
	if v.Addrs, err = m.choose(); err != nil {
		return t, err
	}
	t.when(key, store.Absent)
	t.put(key, v)
	for _, a := range v.Addrs {
		t.claim(record.AddrKey(m.network.ID, a), string(record.VIPOwner(alias)))
	}
	return t, nil
}

// choose takes one address of each family from the end of the network's pools.
func (m *membership) choose() ([]netip.Addr, error) {
	if m.network == nil {
		return nil, refuse(NotFound, "the network was removed")
	}
	var out []netip.Addr
	for _, six := range []bool{false, true} {
		var pools []ipam.Pool
		for _, p := range m.network.Pools {
			if p.Subnet.Addr().Is6() == six {
				pools = append(pools, ipam.Pool{Subnet: p.Subnet, Gateway: p.Gateway, Range: p.IPRange, Aux: p.Aux})
			}
		}
		if len(pools) == 0 {
			continue
		}
		taken := func(a netip.Addr) bool { return m.chosen[a] || m.net.Taken(a) }
		a, err := ipam.ChooseLast(pools, taken, m.random(spread))
		if err != nil {
			return nil, refuse(InUse, "network %s: a virtual address for an alias: %s", m.network.Name, err)
		}
		m.chosen[a] = true
		out = append(out, a)
	}
	if len(out) == 0 {
		return nil, refuse(Invalid, "network %s has no subnet: an alias in it can have no virtual address", m.network.Name)
	}
	return out, nil
}

// leave ends the endpoint's membership of an alias; with the last member the address goes.
func (m *membership) leave(alias string) txn {
	t := txn{}
	key := record.VIPKey(m.net.ID, alias)
	v, rev := m.net.VIP(alias)
	e, there := m.entries[key.Name]
	if v == nil && !there {
		t.when(key, store.Absent)
		return t
	}
	others := slices.ContainsFunc(m.net.Members(alias), func(ep *record.Endpoint) bool { return ep.ID != m.id })
	if v == nil {
		return m.leaveUnread(key, e, record.VIPOwner(alias), others)
	}
	t.when(key, rev)
	if others {
		t.put(key, v)
		return t
	}
	t.del(key)
	for _, a := range v.Addrs {
		t.del(record.AddrKey(m.net.ID, a))
	}
	return t
}

// leaveUnread is leave where the record cannot be decoded: whose claims are its own, the claims tell.
func (m *membership) leaveUnread(key store.Key, e store.Entry, owner record.EndpointID, others bool) txn {
	t := txn{}
	t.when(key, e.Rev)
	if others {
		t.t.Then = append(t.t.Then, store.Put(key, e.Value))
		return t
	}
	t.del(key)
	for _, e := range m.entries {
		if strings.HasPrefix(e.Key.Name, "addr/") && string(e.Value) == string(owner) {
			t.del(e.Key)
		}
	}
	return t
}

// withVIPs returns the endpoint with just these aliases with a virtual address; those that are missing are in a later step, and no plain ones
// meanwhile.
func withVIPs(ep *record.Endpoint, now []string) *record.Endpoint {
	out := *ep
	out.VIPAliases = now
	out.Aliases = slices.DeleteFunc(slices.Clone(ep.Aliases), func(a string) bool {
		return ep.HasVIPAlias(a) && !hasFolded(now, a)
	})
	return &out
}

// update adds to a transaction that changes an endpoint what it changes of its memberships, and the endpoint's record; whole tells that no other
// step has to follow.
func (m *membership) update(t *txn, next *record.Endpoint) (whole bool, err error) {
	key := record.EndpointKey(next.Network, next.ID)
	if m == nil {
		t.put(key, next)
		return true, nil
	}
	now, err := m.step(t, 1)
	if err != nil {
		return false, err
	}
	t.put(key, withVIPs(next, now))
	return slices.Equal(now, next.VIPAliases), nil
}
