package vip_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/kernel"
	"weft/store"
	"weft/store/record"
	"weft/vip"
)

const netID = record.NetworkID("aaaabbbbcccc1111aaaabbbbcccc1111aaaabbbbcccc1111aaaabbbbcccc1111")

func addrs(as ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range as {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func endpoint(running bool, as ...string) *record.Endpoint {
	return &record.Endpoint{Running: running, Addrs: addrs(as...)}
}

func TestServices(t *testing.T) {
	t.Parallel()
	// Given two aliases with virtual addresses, one of them in both families
	part := record.NetPartition(netID)
	var puts []store.Entry
	for _, v := range []*record.VIP{
		{Network: netID, Alias: "web", Addrs: addrs("10.0.0.254", "fd00::fe")},
		{Network: netID, Alias: "idle", Addrs: addrs("10.0.0.253")},
	} {
		b, err := record.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		puts = append(puts, store.Entry{Key: record.VIPKey(netID, v.Alias), Value: b, Rev: 1})
	}
	net, _ := record.Empty().Apply(part, store.Batch{Rev: 1, Puts: puts}).Net(netID)
	members := map[string][]*record.Endpoint{
		"web":  {endpoint(true, "10.0.0.9", "fd00::9"), endpoint(true, "10.0.0.3"), endpoint(false, "10.0.0.4"), endpoint(true, "10.0.0.9")},
		"idle": {endpoint(false, "10.0.0.5")},
	}
	// Then each address has the members of its family that run, in an order of their own
	want := []kernel.VIP{
		{Addr: addrs("10.0.0.253")[0]},
		{Addr: addrs("10.0.0.254")[0], Members: addrs("10.0.0.3", "10.0.0.9")},
		{Addr: addrs("fd00::fe")[0], Members: addrs("fd00::9")},
	}
	got := vip.Services(net, func(alias string) []*record.Endpoint { return members[alias] })
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}
	// And a sandbox holds one table for the network, none where there is nothing to balance
	state := kernel.State{}
	vip.Render(state, netID, "/ns/a", got)
	key := kernel.Key{Kind: kernel.KindTable, NS: "/ns/a", Link: "inet weft-vip-aaaabbbbcccc"}
	if o, ok := state[key]; !ok || len(state) != 1 || !o.Spec.Equal(kernel.Balance{VIPs: got}) {
		t.Errorf("state %v", state)
	}
	none := kernel.State{}
	vip.Render(none, netID, "/ns/a", vip.Services(nil, nil))
	if len(none) > 0 {
		t.Errorf("without virtual addresses: %v", none)
	}
}
