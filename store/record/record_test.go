package record_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weft/store"
	"weft/store/record"
)

const netID = record.NetworkID("aaaabbbbcccc1111aaaabbbbcccc1111aaaabbbbcccc1111aaaabbbbcccc1111")

func endpoint(n int) *record.Endpoint {
	return &record.Endpoint{
		ID: record.EndpointID(fmt.Sprintf("%012x%052d", n, 0)), Network: netID, Host: "h1", Incarnation: 1, Sandbox: record.SandboxID(fmt.Sprintf("%012x%052d", n+1000, 0)),
		Name: fmt.Sprintf("Web%d", n), Hostname: fmt.Sprintf("host%d", n), Aliases: []string{"web", "WWW"},
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})}, Running: true,
	}
}

func put(t interface{ Fatal(...any) }, k store.Key, r any, rev store.Rev) store.Entry {
	b, err := record.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	return store.Entry{Key: k, Value: b, Rev: rev}
}

func entries(t interface{ Fatal(...any) }, ep *record.Endpoint, rev store.Rev) []store.Entry {
	return []store.Entry{
		put(t, record.EndpointKey(netID, ep.ID), ep, rev),
		{Key: record.AddrKey(netID, ep.Addrs[0]), Value: []byte(ep.ID), Rev: rev},
		{Key: record.EndpointNameKey(netID, ep.Name), Value: []byte(ep.ID), Rev: rev},
	}
}

func TestAnEndpointIsFoundByEveryLabel(t *testing.T) {
	a, b := endpoint(1), endpoint(2)
	s := record.Empty().Apply(record.NetPartition(netID), store.Batch{Rev: 5, Resync: true, Puts: append(entries(t, a, 4), entries(t, b, 5)...)})
	n, ok := s.Net(netID)
	if !ok || n.Len() != 2 {
		t.Fatalf("%v endpoints", n.Len())
	}
	for label, want := range map[string]int{"web1": 1, "WEB1": 1, "host2": 1, "web": 2, "www": 2, record.ShortID(a.Sandbox): 1, "nobody": 0} {
		if got := n.ByLabel(label); len(got) != want {
			t.Errorf("%s: %d endpoints, want %d", label, len(got), want)
		}
	}
	if got, ok := n.ByAddr(a.Addrs[0]); !ok || got.ID != a.ID || n.EndpointRev(a.ID) != 4 {
		t.Errorf("by address: %+v", got)
	}
	after := s.Apply(record.NetPartition(netID), store.Batch{Rev: 6, Dels: []store.Key{
		record.EndpointKey(netID, a.ID), record.AddrKey(netID, a.Addrs[0]), record.EndpointNameKey(netID, a.Name),
	}})
	m, _ := after.Net(netID)
	if m.Len() != 1 || m.Taken(a.Addrs[0]) || m.NameTaken(a.Name) || len(m.ByLabel("web")) != 1 {
		t.Error("the endpoint is not gone whole")
	}
	if n.Len() != 2 || len(n.ByLabel("web")) != 2 {
		t.Error("the older picture has changed")
	}
}

func TestACorruptRecordIsNamedAndItsClaimsStay(t *testing.T) {
	a, b := endpoint(1), endpoint(2)
	es := append(entries(t, a, 4), entries(t, b, 4)...)
	es[0].Value = []byte("{rubbish")
	s := record.Empty().Apply(record.NetPartition(netID), store.Batch{Rev: 4, Resync: true, Puts: es})
	n, _ := s.Net(netID)
	if len(s.Corrupt()) != 1 || s.Corrupt()[es[0].Key] == nil {
		t.Errorf("corrupt: %v", s.Corrupt())
	}
	if _, found := n.ByAddr(a.Addrs[0]); found || !n.Taken(a.Addrs[0]) || !n.NameTaken(a.Name) || n.Len() != 1 {
		t.Error("the claims of a corrupt record must stay taken, and the rest must go on")
	}
	healed := s.Apply(record.NetPartition(netID), store.Batch{Rev: 5, Puts: entries(t, a, 5)})
	if len(healed.Corrupt()) != 0 {
		t.Errorf("still corrupt: %v", healed.Corrupt())
	}
}

func TestUnknownFieldsSurviveARewrite(t *testing.T) {
	in := []byte(`{"v":1,"id":"n1","name":"a","driver":"overlay","scope":"global","created":"2026-01-02T03:04:05Z","pools":[],"mtu":1450,"state":"active","later":{"x":[1,2]},"more":"y"}`)
	n := &record.Network{}
	if err := record.Decode(in, n); err != nil {
		t.Fatal(err)
	}
	n.Name = "b"
	out, err := record.Encode(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"later":{"x":[1,2]}`, `"more":"y"`, `"name":"b"`, `"v":1`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s is missing in %s", want, out)
		}
	}
}

func TestDecodeRefusesWhatMakesNoSense(t *testing.T) {
	for name, in := range map[string]string{
		"newer schema": `{"v":2,"id":"x","network":"n","host":"h","name":"a"}`, "no schema": `{"id":"x","network":"n","host":"h","name":"a"}`,
		"no id": `{"v":1,"network":"n","host":"h","name":"a"}`, "bad address": `{"v":1,"id":"x","network":"n","host":"h","name":"a","addrs":["999.1.1.1"]}`,
		"multicast": `{"v":1,"id":"x","network":"n","host":"h","name":"a","addrs":["224.0.0.1"]}`, "list": `[1]`, "empty": ``,
	} {
		if err := record.Decode([]byte(in), &record.Endpoint{}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestFindNetwork(t *testing.T) {
	var es []store.Entry
	for i, name := range []string{"front", "back"} {
		n := &record.Network{ID: record.NetworkID(fmt.Sprintf("abc%d%060d", i, 0)), Name: name, State: record.Active}
		es = append(es, put(t, record.NetworkKey(n.ID), n, 1), store.Entry{Key: record.NetworkNameKey(name), Value: []byte(n.ID), Rev: 1})
	}
	s := record.Empty().Apply(store.Meta, store.Batch{Rev: 1, Resync: true, Puts: es})
	if n, err := s.FindNetwork("FRONT"); err != nil || n.Name != "front" {
		t.Errorf("by name: %v, %v", n, err)
	}
	if n, err := s.FindNetwork("abc1"); err != nil || n.Name != "back" {
		t.Errorf("by prefix: %v, %v", n, err)
	}
	if _, err := s.FindNetwork("abc"); !errors.Is(err, record.ErrAmbiguous) {
		t.Errorf("ambiguous prefix: %v", err)
	}
	if _, err := s.FindNetwork("nope"); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	if got := slices.Collect(s.Networks()); got[0].Name != "back" {
		t.Error("networks are not sorted by name")
	}
}

// Whatever the batches, the picture that they lead to is that of the entries that remain, and a dump leads to the same one.
func TestASnapshotIsItsEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := record.NetPartition(netID)
		left := map[store.Key]store.Entry{}
		s := record.Empty()
		for rev := store.Rev(1); rev < 20; rev++ {
			ep := endpoint(rapid.IntRange(0, 6).Draw(t, "endpoint"))
			b := store.Batch{Rev: rev}
			for _, e := range entries(t, ep, rev) {
				if _, there := left[e.Key]; there && rapid.Bool().Draw(t, "delete") {
					b.Dels = append(b.Dels, e.Key)
					delete(left, e.Key)
				} else {
					b.Puts = append(b.Puts, e)
					left[e.Key] = e
				}
			}
			s = s.Apply(part, b)
		}
		var all []store.Entry
		for _, e := range left {
			all = append(all, e)
		}
		fresh := record.Empty().Apply(part, store.Batch{Rev: 19, Resync: true, Puts: all})
		dump, err := s.Dump(part)
		if err != nil {
			t.Fatal(err)
		}
		for name, other := range map[string]*record.Snapshot{"fresh": fresh, "dumped": record.SeedFrom(map[string]store.Snapshot{part: dump})} {
			compare(t, name, s, other)
		}
	})
}

func compare(t *rapid.T, name string, a, b *record.Snapshot) {
	x, _ := a.Net(netID)
	y, _ := b.Net(netID)
	if x.Len() != y.Len() {
		t.Fatalf("%s: %d endpoints, want %d", name, y.Len(), x.Len())
	}
	for i := range 7 {
		ep := endpoint(i)
		for _, l := range []string{ep.Name, "web", ep.Hostname} {
			if got, want := len(y.ByLabel(l)), len(x.ByLabel(l)); got != want {
				t.Fatalf("%s: label %s has %d, want %d", name, l, got, want)
			}
		}
		if x.Taken(ep.Addrs[0]) != y.Taken(ep.Addrs[0]) || x.NameTaken(ep.Name) != y.NameTaken(ep.Name) {
			t.Fatalf("%s: claims of %s differ", name, ep.Name)
		}
		p, _ := x.Endpoint(ep.ID)
		q, _ := y.Endpoint(ep.ID)
		if !reflect.DeepEqual(p, q) || x.EndpointRev(ep.ID) > 0 && p == nil {
			t.Fatalf("%s: %+v, want %+v", name, q, p)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, err := record.Encode(endpoint(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"v":1,"ID":"x","x":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var first, second record.Endpoint
		if record.Decode(b, &first) != nil {
			return
		}
		out, err := record.Encode(&first)
		if err != nil {
			t.Fatalf("decoded and not encoded: %v", err)
		}
		if err := record.Decode(out, &second); err != nil {
			t.Fatalf("%s became %s: %v", b, out, err)
		}
	})
}

func BenchmarkApplyOneOfTenThousand(b *testing.B) {
	var es []store.Entry
	for i := range 10_000 {
		es = append(es, entries(b, endpoint(i), 1)...)
	}
	part := record.NetPartition(netID)
	s := record.Empty().Apply(part, store.Batch{Rev: 1, Resync: true, Puts: es})
	one := store.Batch{Rev: 2, Puts: entries(b, endpoint(10_001), 2)}
	b.ReportAllocs()
	for b.Loop() {
		s.Apply(part, one)
	}
}
