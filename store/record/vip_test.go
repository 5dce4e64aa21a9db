package record_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/store"
	"weft/store/record"
)

func virtual(alias string, addrs ...string) *record.VIP {
	v := &record.VIP{Network: netID, Alias: alias, Created: time.Unix(1700000000, 0).UTC()}
	for _, a := range addrs {
		v.Addrs = append(v.Addrs, netip.MustParseAddr(a))
	}
	return v
}

func TestAVirtualAddressAndItsMembers(t *testing.T) {
	t.Parallel()
	// Given an alias with a virtual address and two members, one of which spells it otherwise and does not run, and a plain alias of the same name
	part := record.NetPartition(netID)
	v := virtual("Api", "10.0.255.254", "fd00::ffff")
	puts := []store.Entry{put(t, record.VIPKey(netID, v.Alias), v, 7)}
	for _, a := range v.Addrs {
		puts = append(puts, store.Entry{Key: record.AddrKey(netID, a), Value: []byte(record.VIPOwner(v.Alias)), Rev: 7})
	}
	for i, alias := range []string{"api", "API", ""} {
		ep := endpoint(i + 1)
		ep.Running = i != 1
		if alias != "" {
			ep.VIPAliases = []string{alias}
		} else {
			ep.Aliases = append(ep.Aliases, "api")
		}
		puts = append(puts, entries(t, ep, 7)...)
	}
	s := record.Empty().Apply(part, store.Batch{Rev: 7, Resync: true, Puts: puts})
	n, _ := s.Net(netID)

	// Then it is found by its alias in any case and by its addresses, which are taken and no endpoint's
	got, rev := n.VIP("aPI")
	if rev != 7 || !cmp.Equal(got.Addrs, v.Addrs, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
		t.Errorf("virtual address %+v at %d", got, rev)
	}
	for _, a := range v.Addrs {
		if by, ok := n.VIPByAddr(a); !ok || by != got || !n.Taken(a) {
			t.Errorf("%s is not known as the virtual address", a)
		}
		if _, ok := n.ByAddr(a); ok {
			t.Errorf("an endpoint has %s", a)
		}
	}
	// And its members are the two, whatever they spell and whether they run
	if ms := n.Members("api"); len(ms) != 2 || ms[0].Name != "Web1" || ms[1].Name != "Web2" {
		t.Errorf("members %v", ms)
	}
	// And the disk gives all of it back
	d, err := s.Dump(part)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := record.SeedFrom(map[string]store.Snapshot{part: d}).Net(netID)
	if back, rev := again.VIP("api"); back == nil || rev != 7 || len(again.Members("api")) != 2 {
		t.Errorf("after the disk: %+v at %d", back, rev)
	}
	// When it goes, its name and addresses are free
	dels := []store.Key{record.VIPKey(netID, "api"), record.AddrKey(netID, v.Addrs[0]), record.AddrKey(netID, v.Addrs[1])}
	after, _ := s.Apply(part, store.Batch{Rev: 8, Dels: dels}).Net(netID)
	if gone, rev := after.VIP("api"); gone != nil || rev != store.Absent || after.Taken(v.Addrs[0]) {
		t.Error("a virtual address that was deleted is still there")
	}
	for range after.AllVIPs() {
		t.Error("a virtual address that was deleted is listed")
	}
}

func TestAVirtualAddressThatMakesNoSenseIsCorrupt(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]*record.VIP{
		"no alias":   {Network: netID, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		"no network": {Alias: "a", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		"no address": {Network: netID, Alias: "a"},
		"multicast":  {Network: netID, Alias: "a", Addrs: []netip.Addr{netip.MustParseAddr("224.0.0.1")}},
	} {
		if err := (&record.VIP{}).Decode(put(t, record.VIPKey(netID, "a"), v, 1).Value); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}
