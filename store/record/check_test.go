package record_test

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/store"
	"weft/store/record"
)

const backID = record.NetworkID("bbbbccccdddd2222bbbbccccdddd2222bbbbccccdddd2222bbbbccccdddd2222")

// kept keys of a sound cluster, by name, that tests change one of.
type keys map[store.Key][]byte

func (k keys) put(t *testing.T, key store.Key, r any) { k[key] = put(t, key, r, 0).Value }
func (k keys) claim(key store.Key, owner string)      { k[key] = []byte(owner) }

// holdings are what a store with these keys has.
func (k keys) holdings() record.Holdings {
	h := record.Holdings{Others: map[string]store.Snapshot{}}
	for key, value := range k {
		e := store.Entry{Key: key, Value: value, Rev: 7}
		switch key.Partition {
		case store.Meta:
			h.Meta.Entries = append(h.Meta.Entries, e)
		case store.Alive:
			h.Alive.Entries = append(h.Alive.Entries, e)
		default:
			s := h.Others[key.Partition]
			s.Entries = append(s.Entries, e)
			h.Others[key.Partition] = s
		}
	}
	byName := func(a, b store.Entry) int { return cmp.Compare(a.Key.Name, b.Key.Name) }
	slices.SortFunc(h.Meta.Entries, byName)
	return h
}

func network(id record.NetworkID, name string, vni uint32, pool string) *record.Network {
	p := netip.MustParsePrefix(pool)
	return &record.Network{ID: id, Name: name, VNI: vni, MTU: 1450, State: record.Active, Pools: []record.Pool{{Subnet: p, Gateway: p.Addr().Next()}}}
}

func registered(id record.HostID, vtep string) *record.Host {
	return &record.Host{ID: id, Name: string(id), VTEP: netip.MustParseAddr(vtep), Incarnation: 2}
}

// sound is a cluster of two hosts and two networks with an endpoint each, in which something is kept and something was cleared.
func sound(t *testing.T) keys {
	k := keys{}
	k.put(t, record.ClusterKey(), &record.Cluster{ID: "c"})
	k.claim(record.PoolsGenKey(), "3")
	for i, h := range []record.HostID{"h1", "h2"} {
		r := registered(h, []string{"192.0.2.1", "192.0.2.2"}[i])
		k.put(t, record.HostKey(h), r)
		k.claim(record.VTEPKey(r.VTEP), string(h))
		k.put(t, record.AliveKey(h), &record.Liveness{Host: h, Incarnation: 2, Instance: "i"})
	}
	k.put(t, record.FenceKey("h1"), &record.Fence{Host: "h1", Incarnation: 1})
	k.put(t, record.MovesKey(), &record.Move{ID: "m", State: record.MovePreparing, To: "etcd://x"})
	k.put(t, record.MoveReplyKey("h1"), &record.MoveReply{Host: "h1", Move: "m"})
	for i, n := range []*record.Network{network(netID, "Front", 4100, "10.1.0.0/16"), network(backID, "back", 4101, "10.2.0.0/16")} {
		k.put(t, record.NetworkKey(n.ID), n)
		k.claim(record.NetworkNameKey(n.Name), string(n.ID))
		k.claim(record.VNIKey(n.VNI), string(n.ID))
		ep := ownEndpoint(n.ID, "h1")
		ep.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, byte(1 + i), 0, 5})}
		k.endpoint(t, ep)
	}
	k.put(t, record.KeptKey(netID, "db"), &record.Kept{ID: "kept", Network: netID, Name: "DB", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.9")}})
	k.claim(record.AddrKey(netID, netip.MustParseAddr("10.1.0.9")), "kept")
	balanced := ownEndpoint(netID, "h1")
	balanced.ID, balanced.Name, balanced.VIPAliases, balanced.Addrs = "balanced", "api1", []string{"API"}, []netip.Addr{netip.MustParseAddr("10.1.0.6")}
	k.endpoint(t, balanced)
	k.put(t, record.VIPKey(netID, "api"), &record.VIP{Network: netID, Alias: "Api", Addrs: []netip.Addr{netip.MustParseAddr("10.1.255.254")}})
	k.claim(record.AddrKey(netID, netip.MustParseAddr("10.1.255.254")), "vip/api")
	return k
}

func ownEndpoint(n record.NetworkID, h record.HostID) *record.Endpoint {
	ep := endpoint(1)
	ep.Network, ep.Host, ep.Incarnation = n, h, 2
	return ep
}

func (k keys) endpoint(t *testing.T, ep *record.Endpoint) {
	k.put(t, record.EndpointKey(ep.Network, ep.ID), ep)
	for _, a := range ep.Addrs {
		k.claim(record.AddrKey(ep.Network, a), string(ep.ID))
	}
	k.claim(record.EndpointNameKey(ep.Network, ep.Name), string(ep.ID))
}

func TestASoundClusterHasNoFindings(t *testing.T) {
	if f := record.Check(sound(t).holdings()); len(f) > 0 {
		t.Errorf("findings: %+v", f)
	}
	if f := record.Check(record.Holdings{}); len(f) > 0 {
		t.Errorf("findings in an empty store: %+v", f)
	}
}

// Each case breaks one rule at one key; a claim that goes wrong may be seen from both of its ends.
func TestEachRuleIsChecked(t *testing.T) {
	ep := ownEndpoint(netID, "h1")
	ep.Addrs = []netip.Addr{netip.MustParseAddr("10.1.0.5")}
	epKey, addrKey, nameKey := record.EndpointKey(netID, ep.ID), record.AddrKey(netID, ep.Addrs[0]), record.EndpointNameKey(netID, ep.Name)
	vip, vipKey := netip.MustParseAddr("10.1.255.254"), record.VIPKey(netID, "api")
	front := func() *record.Network { return network(netID, "Front", 4100, "10.1.0.0/16") }
	changed := func(f func(*record.Endpoint)) func(*testing.T, keys) {
		return func(t *testing.T, k keys) {
			e := *ep
			f(&e)
			k.put(t, epKey, &e)
		}
	}
	other := func(name string) store.Key { return store.Key{Partition: record.NetPartition(netID), Name: name} }
	meta := func(name string) store.Key { return store.Key{Partition: store.Meta, Name: name} }
	for name, tc := range map[string]struct {
		spoil func(*testing.T, keys)
		want  map[store.Key]record.Rule
	}{
		"a network that cannot be read": {func(_ *testing.T, k keys) { k[record.NetworkKey(netID)] = []byte("x") }, map[store.Key]record.Rule{
			record.NetworkKey(netID): record.RuleReadable, record.NetworkNameKey("front"): record.RuleOrphan, record.VNIKey(4100): record.RuleOrphan,
		}},
		"a record under another's key":    {func(t *testing.T, k keys) { k.put(t, record.HostKey("h2"), registered("h1", "192.0.2.2")) }, map[store.Key]record.Rule{record.HostKey("h2"): record.RuleReadable}},
		"a fence of another host":         {func(t *testing.T, k keys) { k.put(t, record.FenceKey("h1"), &record.Fence{Host: "h2"}) }, map[store.Key]record.Rule{record.FenceKey("h1"): record.RuleReadable}},
		"a sign of life that is none":     {func(_ *testing.T, k keys) { k[record.AliveKey("h2")] = []byte("x") }, map[store.Key]record.Rule{record.AliveKey("h2"): record.RuleReadable}},
		"an endpoint that cannot be read": {func(_ *testing.T, k keys) { k[epKey] = []byte(`{"v":1}`) }, map[store.Key]record.Rule{epKey: record.RuleReadable}},
		"an endpoint of a newer schema":   {func(_ *testing.T, k keys) { k[epKey] = []byte(`{"v":99}`) }, map[store.Key]record.Rule{epKey: record.RuleReadable}},
		"a foreign key in meta":           {func(_ *testing.T, k keys) { k[meta("other/x")] = nil }, map[store.Key]record.Rule{meta("other/x"): record.RuleForeign}},
		"a foreign key in a network":      {func(_ *testing.T, k keys) { k[other("x")] = nil }, map[store.Key]record.Rule{other("x"): record.RuleForeign}},
		"a foreign partition":             {func(_ *testing.T, k keys) { k[store.Key{Partition: "app", Name: "x"}] = nil }, map[store.Key]record.Rule{{Partition: "app", Name: "x"}: record.RuleForeign}},
		"no cluster":                      {func(_ *testing.T, k keys) { delete(k, record.ClusterKey()) }, map[store.Key]record.Rule{record.ClusterKey(): record.RuleCluster}},
		"no counter of pools":             {func(_ *testing.T, k keys) { delete(k, record.PoolsGenKey()) }, map[store.Key]record.Rule{record.PoolsGenKey(): record.RuleCluster}},
		"a restore that was left": {func(t *testing.T, k keys) {
			k.put(t, record.MovesKey(), &record.Move{ID: "m", State: record.MoveRestoring})
		}, map[store.Key]record.Rule{record.MovesKey(): record.RuleCluster}},
		"pools overlap": {func(t *testing.T, k keys) {
			k.put(t, record.NetworkKey(backID), network(backID, "back", 4101, "10.1.128.0/17"))
			delete(k, record.EndpointKey(backID, ep.ID))
			delete(k, record.AddrKey(backID, netip.MustParseAddr("10.2.0.5")))
			delete(k, record.EndpointNameKey(backID, ep.Name))
		}, map[store.Key]record.Rule{record.NetworkKey(backID): record.RuleOverlap}},
		"a pool twice in one network": {func(t *testing.T, k keys) {
			n := front()
			n.Pools = append(n.Pools, n.Pools[0])
			k.put(t, record.NetworkKey(netID), n)
		}, map[store.Key]record.Rule{record.NetworkKey(netID): record.RuleOverlap}},
		"a VNI twice": {func(t *testing.T, k keys) {
			k.put(t, record.NetworkKey(backID), network(backID, "back", 4100, "10.2.0.0/16"))
			delete(k, record.VNIKey(4101))
		}, map[store.Key]record.Rule{record.NetworkKey(backID): record.RuleUnclaimed}},
		"a network's name that is free":   {func(_ *testing.T, k keys) { delete(k, record.NetworkNameKey("front")) }, map[store.Key]record.Rule{record.NetworkKey(netID): record.RuleUnclaimed}},
		"a network's VNI that is free":    {func(_ *testing.T, k keys) { delete(k, record.VNIKey(4100)) }, map[store.Key]record.Rule{record.NetworkKey(netID): record.RuleUnclaimed}},
		"a VTEP that is free":             {func(_ *testing.T, k keys) { delete(k, record.VTEPKey(netip.MustParseAddr("192.0.2.2"))) }, map[store.Key]record.Rule{record.HostKey("h2"): record.RuleUnclaimed}},
		"a VTEP twice":                    {func(t *testing.T, k keys) { k.put(t, record.HostKey("h2"), registered("h2", "192.0.2.1")) }, map[store.Key]record.Rule{record.HostKey("h2"): record.RuleUnclaimed, record.VTEPKey(netip.MustParseAddr("192.0.2.2")): record.RuleOrphan}},
		"a name of no network":            {func(_ *testing.T, k keys) { k.claim(record.NetworkNameKey("old"), "gone") }, map[store.Key]record.Rule{record.NetworkNameKey("old"): record.RuleOrphan}},
		"a name that its network has not": {func(_ *testing.T, k keys) { k.claim(record.NetworkNameKey("old"), string(netID)) }, map[store.Key]record.Rule{record.NetworkNameKey("old"): record.RuleOrphan}},
		"a VNI of no network":             {func(_ *testing.T, k keys) { k.claim(record.VNIKey(9), "gone") }, map[store.Key]record.Rule{record.VNIKey(9): record.RuleOrphan}},
		"a VTEP of no host":               {func(_ *testing.T, k keys) { k.claim(record.VTEPKey(netip.MustParseAddr("192.0.2.9")), "gone") }, map[store.Key]record.Rule{record.VTEPKey(netip.MustParseAddr("192.0.2.9")): record.RuleOrphan}},
		"an address that is free":         {func(_ *testing.T, k keys) { delete(k, addrKey) }, map[store.Key]record.Rule{epKey: record.RuleUnclaimed}},
		"an address of nobody":            {func(_ *testing.T, k keys) { k.claim(record.AddrKey(netID, netip.MustParseAddr("10.1.0.77")), "gone") }, map[store.Key]record.Rule{record.AddrKey(netID, netip.MustParseAddr("10.1.0.77")): record.RuleOrphan}},
		"an address that its owner has not": {func(_ *testing.T, k keys) {
			k.claim(record.AddrKey(netID, netip.MustParseAddr("10.1.0.77")), string(ep.ID))
		}, map[store.Key]record.Rule{record.AddrKey(netID, netip.MustParseAddr("10.1.0.77")): record.RuleOrphan}},
		"an address that is none": {func(_ *testing.T, k keys) { k.claim(other("addr/010.1.0.5"), string(ep.ID)) }, map[store.Key]record.Rule{other("addr/010.1.0.5"): record.RuleReadable}},
		"a name that is free":     {func(_ *testing.T, k keys) { delete(k, nameKey) }, map[store.Key]record.Rule{epKey: record.RuleUnclaimed}},
		"a name of nobody":        {func(_ *testing.T, k keys) { k.claim(other("name/old"), "gone") }, map[store.Key]record.Rule{other("name/old"): record.RuleOrphan}},
		"two endpoints with one address": {func(t *testing.T, k keys) {
			twin := *ep
			twin.ID, twin.Name = "zzzz", "twin"
			k.put(t, record.EndpointKey(netID, twin.ID), &twin)
			k.claim(other("name/twin"), "zzzz")
		}, map[store.Key]record.Rule{record.EndpointKey(netID, "zzzz"): record.RuleUnclaimed}},
		"what is kept and not claimed":          {func(_ *testing.T, k keys) { delete(k, record.AddrKey(netID, netip.MustParseAddr("10.1.0.9"))) }, map[store.Key]record.Rule{record.KeptKey(netID, "db"): record.RuleUnclaimed}},
		"a virtual address that is free":        {func(_ *testing.T, k keys) { delete(k, record.AddrKey(netID, vip)) }, map[store.Key]record.Rule{vipKey: record.RuleUnclaimed}},
		"a virtual address that cannot be read": {func(_ *testing.T, k keys) { k[vipKey] = []byte("x") }, map[store.Key]record.Rule{vipKey: record.RuleReadable}},
		"a virtual address under another's key": {func(t *testing.T, k keys) {
			k.put(t, vipKey, &record.VIP{Network: netID, Alias: "other", Addrs: []netip.Addr{vip}})
		}, map[store.Key]record.Rule{vipKey: record.RuleReadable}},
		"a virtual address that is another": {func(t *testing.T, k keys) {
			k.put(t, vipKey, &record.VIP{Network: netID, Alias: "api", Addrs: []netip.Addr{netip.MustParseAddr("10.1.255.253")}})
			k.claim(record.AddrKey(netID, netip.MustParseAddr("10.1.255.253")), "vip/api")
		}, map[store.Key]record.Rule{record.AddrKey(netID, vip): record.RuleOrphan}},
		"an alias without its virtual address": {func(_ *testing.T, k keys) {
			delete(k, vipKey)
			delete(k, record.AddrKey(netID, vip))
		}, map[store.Key]record.Rule{record.EndpointKey(netID, "balanced"): record.RuleUnclaimed}},
		"a virtual address without a member": {func(t *testing.T, k keys) {
			e := ownEndpoint(netID, "h1")
			e.ID, e.Name, e.Addrs = "balanced", "api1", []netip.Addr{netip.MustParseAddr("10.1.0.6")}
			k.endpoint(t, e)
		}, map[store.Key]record.Rule{vipKey: record.RuleOrphan}},
		"a virtual address outside its network": {func(t *testing.T, k keys) {
			delete(k, record.AddrKey(netID, vip))
			k.put(t, vipKey, &record.VIP{Network: netID, Alias: "api", Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.1")}})
			k.claim(record.AddrKey(netID, netip.MustParseAddr("10.9.0.1")), "vip/api")
		}, map[store.Key]record.Rule{vipKey: record.RuleOutside}},
		"an address outside its network": {func(t *testing.T, k keys) {
			delete(k, addrKey)
			e := *ep
			e.Addrs = []netip.Addr{netip.MustParseAddr("10.9.0.5")}
			k.endpoint(t, &e)
		}, map[store.Key]record.Rule{epKey: record.RuleOutside}},
		"the gateway's address": {func(t *testing.T, k keys) {
			delete(k, addrKey)
			e := *ep
			e.Addrs = []netip.Addr{netip.MustParseAddr("10.1.0.1")}
			k.endpoint(t, &e)
		}, map[store.Key]record.Rule{epKey: record.RuleOutside}},
		"an endpoint of an unknown host":    {changed(func(e *record.Endpoint) { e.Host = "h9" }), map[store.Key]record.Rule{epKey: record.RuleNoHost}},
		"an endpoint that was cleared":      {changed(func(e *record.Endpoint) { e.Incarnation = 1 }), map[store.Key]record.Rule{epKey: record.RuleFenced}},
		"an endpoint ahead of its host":     {changed(func(e *record.Endpoint) { e.Incarnation = 3 }), map[store.Key]record.Rule{epKey: record.RuleFenced}},
		"an endpoint under another's key":   {changed(func(e *record.Endpoint) { e.Network = backID }), map[store.Key]record.Rule{epKey: record.RuleReadable}},
		"a host that was cleared and lives": {func(t *testing.T, k keys) { k.put(t, record.FenceKey("h2"), &record.Fence{Host: "h2", Incarnation: 2}) }, map[store.Key]record.Rule{record.AliveKey("h2"): record.RuleFenced}},
		"a host that lives and has no record": {func(t *testing.T, k keys) {
			k.put(t, record.AliveKey("h9"), &record.Liveness{Host: "h9", Incarnation: 1})
		}, map[store.Key]record.Rule{record.AliveKey("h9"): record.RuleNoHost}},
		"a network that a dead host is deleting": {deleting("h9", 2), map[store.Key]record.Rule{record.NetworkKey(netID): record.RuleDeleter}},
		"a network that an old life is deleting": {deleting("h1", 1), map[store.Key]record.Rule{record.NetworkKey(netID): record.RuleDeleter}},
		"a network that a live host is deleting": {deleting("h1", 2), nil},
	} {
		t.Run(name, func(t *testing.T) {
			k := sound(t)
			tc.spoil(t, k)
			got := map[store.Key]record.Rule{}
			for _, f := range record.Check(k.holdings()) {
				got[f.Key] = f.Rule
				if f.Wrong == "" || f.Do == "" || (f.Rev == 0) != (k[f.Key] == nil && f.Rule == record.RuleCluster || f.Key == record.MovesKey()) {
					t.Errorf("a finding must say its key's revision, what is wrong and what to do: %+v", f)
				}
			}
			if len(got) != len(tc.want) {
				t.Errorf("findings %v, want %v", got, tc.want)
			}
			for key, rule := range tc.want {
				if got[key] != rule {
					t.Errorf("%s: rule %q, want %q", key, got[key], rule)
				}
			}
		})
	}
}

func deleting(by record.HostID, incarnation uint64) func(*testing.T, keys) {
	return func(t *testing.T, k keys) {
		n := network(netID, "Front", 4100, "10.1.0.0/16")
		n.State, n.Deleter = record.Deleting, &record.Deleter{Host: by, Incarnation: incarnation}
		k.put(t, record.NetworkKey(netID), n)
	}
}

// What is left of a network that is gone is named key by key.
func TestWhatIsLeftOfANetworkThatIsGone(t *testing.T) {
	k := sound(t)
	for _, key := range []store.Key{record.NetworkKey(backID), record.NetworkNameKey("back"), record.VNIKey(4101)} {
		delete(k, key)
	}
	f := record.Check(k.holdings())
	if len(f) != 3 {
		t.Fatalf("%d findings, want one of each of the network's three keys: %+v", len(f), f)
	}
	for _, x := range f {
		if x.Rule != record.RuleNoNetwork || !strings.Contains(x.Wrong, "bbbbccccdddd") {
			t.Errorf("finding %+v", x)
		}
	}
}
