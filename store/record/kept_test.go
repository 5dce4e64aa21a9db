package record_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/store"
	"weft/store/record"
)

func keptFor(name, addr string) *record.Kept {
	return &record.Kept{
		ID: record.EndpointID("e" + name), Network: netID, Name: name, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, MAC: "02:42:0a:00:00:63",
		From: "host 192.0.2.11", Created: time.Unix(1700000000, 0).UTC(),
	}
}

func keptEntries(t *testing.T, k *record.Kept, rev store.Rev) []store.Entry {
	return []store.Entry{
		put(t, record.KeptKey(netID, k.Name), k, rev),
		{Key: record.AddrKey(netID, k.Addrs[0]), Value: []byte(k.ID), Rev: rev},
	}
}

func TestWhatIsKeptIsTakenForAllButItsName(t *testing.T) {
	// Given an address that is kept for db1
	part := record.NetPartition(netID)
	k := keptFor("Db1", "10.0.0.99")
	s := record.Empty().Apply(part, store.Batch{Rev: 7, Resync: true, Puts: keptEntries(t, k, 7)})
	n, _ := s.Net(netID)

	// Then the address is taken, it is kept for that name in any case and for no other, and no endpoint is there
	if !n.Taken(k.Addrs[0]) || !n.KeptFor("dB1", k.Addrs[0]) || n.KeptFor("db2", k.Addrs[0]) || n.KeptFor("db1", netip.MustParseAddr("10.0.0.98")) || n.Len() != 0 {
		t.Error("what is kept does not show as it should")
	}
	if _, ok := n.ByAddr(k.Addrs[0]); ok {
		t.Error("an endpoint has a kept address")
	}
	if got, rev := n.Kept("DB1"); rev != 7 || got.MAC != k.MAC {
		t.Errorf("kept %+v at %d", got, rev)
	}

	// When another takes the claim over, it is not kept any more even if the record were still there
	after, _ := s.Apply(part, store.Batch{Rev: 8, Puts: []store.Entry{{Key: record.AddrKey(netID, k.Addrs[0]), Value: []byte("other"), Rev: 8}}}).Net(netID)
	if after.KeptFor("db1", k.Addrs[0]) {
		t.Error("an address that another has claimed is still kept")
	}

	// When the record goes, so does what is known of it
	after, _ = s.Apply(part, store.Batch{Rev: 9, Dels: []store.Key{record.KeptKey(netID, "db1"), record.AddrKey(netID, k.Addrs[0])}}).Net(netID)
	if got, rev := after.Kept("db1"); got != nil || rev != store.Absent || after.Taken(k.Addrs[0]) {
		t.Error("what was kept is not gone")
	}
}

func TestWhatIsKeptOutlivesTheDisk(t *testing.T) {
	// Given a picture with something kept in it, and a field of a later version
	part := record.NetPartition(netID)
	k := keptFor("db1", "10.0.0.99")
	es := keptEntries(t, k, 7)
	es[0].Value = []byte(string(es[0].Value[:len(es[0].Value)-1]) + `,"later":1}`)
	s := record.Empty().Apply(part, store.Batch{Rev: 7, Resync: true, Puts: es})

	// When it is dumped and read again
	d, err := s.Dump(part)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := record.SeedFrom(map[string]store.Snapshot{part: d}).Net(netID)

	// Then nothing is lost
	got, rev := n.Kept("db1")
	if rev != 7 || !n.KeptFor("db1", k.Addrs[0]) {
		t.Fatalf("kept at %d: %+v", rev, got)
	}
	a, _ := record.Encode(got)
	before, _ := s.Net(netID)
	was, _ := before.Kept("db1")
	b, _ := record.Encode(was)
	if diff := cmp.Diff(string(b), string(a)); diff != "" {
		t.Error(diff)
	}
}

func TestKeptRecordsThatMakeNoSenseAreNamed(t *testing.T) {
	for name, value := range map[string]string{
		"no address": `{"v":1,"id":"e","network":"n","name":"db1","addrs":[]}`,
		"no name":    `{"v":1,"id":"e","network":"n","addrs":["10.0.0.1"]}`,
		"multicast":  `{"v":1,"id":"e","network":"n","name":"db1","addrs":["224.0.0.1"]}`,
		"no record":  `db1`,
	} {
		key := record.KeptKey(netID, "db1")
		s := record.Empty().Apply(record.NetPartition(netID), store.Batch{Rev: 3, Puts: []store.Entry{{Key: key, Value: []byte(value), Rev: 3}}})
		if s.Corrupt()[key] == nil {
			t.Errorf("%s: %s was taken", name, value)
		}
	}
}
