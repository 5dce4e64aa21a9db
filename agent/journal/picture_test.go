package journal_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/agent/journal"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// metaOf is partition meta with a cluster's record and one network of that name.
func metaOf(t *testing.T, rev store.Rev, name string) store.Snapshot {
	t.Helper()
	n := &record.Network{ID: "n1", Name: name, State: record.Active}
	c, err1 := record.Encode(&record.Cluster{ID: "c"})
	b, err2 := record.Encode(n)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return store.Snapshot{Rev: rev, Entries: []store.Entry{
		{Key: record.ClusterKey(), Value: c, Rev: 1},
		{Key: record.NetworkNameKey(name), Value: []byte(n.ID), Rev: rev},
		{Key: record.NetworkKey(n.ID), Value: b, Rev: rev},
	}}
}

func endpoints(t *testing.T, rev store.Rev, id record.EndpointID) store.Snapshot {
	t.Helper()
	b, err := record.Encode(&record.Endpoint{ID: id, Network: "n1", Host: "h", Name: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	return store.Snapshot{Rev: rev, Entries: []store.Entry{{Key: record.EndpointKey("n1", id), Value: b, Rev: rev}}}
}

func newJournal(t *testing.T) (*journal.Journal, string) {
	t.Helper()
	c := memory.New().Client()
	t.Cleanup(func() { _ = c.Close() })
	dir := t.TempDir()
	return journal.New(c, dir), dir
}

func save(t *testing.T, j *journal.Journal, cluster, partition string, s store.Snapshot) {
	t.Helper()
	if err := j.SavePicture(cluster, "", partition, s); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, j *journal.Journal) *record.Snapshot {
	t.Helper()
	s, errs := j.Picture("c")
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return s
}

func TestThePictureComesBack(t *testing.T) {
	j, dir := newJournal(t)
	if s := load(t, j); len(s.Partitions()) != 0 {
		t.Errorf("of a new host: %v", s.Partitions())
	}
	save(t, j, "c", store.Meta, metaOf(t, 5, "old"))
	save(t, j, "c", store.Meta, metaOf(t, 7, "front"))
	save(t, j, "c", record.NetPartition("n1"), endpoints(t, 9, "e1"))
	j = journal.New(nil, dir) // the next life
	s := load(t, j)
	if n, ok := s.NetworkByName("front"); !ok || n.ID != "n1" || s.Rev(store.Meta) != 7 || s.NetworkRev("n1") != 7 {
		t.Errorf("network %+v at %d", n, s.Rev(store.Meta))
	}
	if n, ok := s.Net("n1"); !ok || n.EndpointRev("e1") != 9 || s.Rev(record.NetPartition("n1")) != 9 {
		t.Error("the endpoint did not come back")
	}
	for range 2 { // what is gone can go again
		if err := j.DropPicture(record.NetPartition("n1")); err != nil {
			t.Fatal(err)
		}
	}
	if s := load(t, j); s.Rev(store.Meta) != 7 {
		t.Error("another partition was dropped, too")
	} else if _, ok := s.Net("n1"); ok {
		t.Error("dropped, and there")
	}
}

func TestAnotherClustersPictureIsNotLoaded(t *testing.T) {
	j, _ := newJournal(t)
	save(t, j, "other", record.NetPartition("n1"), endpoints(t, 9, "e1"))
	save(t, j, "c", store.Meta, metaOf(t, 5, "front"))
	if s := load(t, j); len(s.Partitions()) != 1 {
		t.Errorf("loaded %v", s.Partitions())
	}
	save(t, j, "", store.Meta, metaOf(t, 5, "front"))
	if s, errs := j.Picture(""); len(s.Partitions()) != 0 || len(errs) != 0 {
		t.Errorf("of a host without a cluster: %v, %v", s.Partitions(), errs)
	}
}

// Given a crash while the pictures of a new history of the cluster are written, then the next life has partition meta, and of the others only
// those that are of the same history: the revisions of the rest are another store's.
func TestPicturesOfTwoHistories(t *testing.T) {
	c, err := record.Encode(&record.Cluster{ID: "c", History: "m1", Generation: 1})
	if err != nil {
		t.Fatal(err)
	}
	renewed := store.Snapshot{Rev: 60, Entries: []store.Entry{{Key: record.ClusterKey(), Value: c, Rev: 60}}}
	for name, tc := range map[string]struct {
		meta          store.Snapshot
		history       string // of the network's file
		networkLoaded bool
	}{
		"meta is new, the network old": {renewed, "", false},
		"both are new":                 {renewed, "m1", true},
		"the network is new, meta old": {metaOf(t, 5, "front"), "m1", false},
		"both are old":                 {metaOf(t, 5, "front"), "", true},
	} {
		j, _ := newJournal(t)
		save(t, j, "c", store.Meta, tc.meta)
		if err := j.SavePicture("c", tc.history, record.NetPartition("n1"), endpoints(t, 5000, "e1")); err != nil {
			t.Fatal(err)
		}
		s := load(t, j)
		if _, ok := s.Net("n1"); ok != tc.networkLoaded || s.Rev(store.Meta) != tc.meta.Rev {
			t.Errorf("%s: network loaded %v, meta at %d", name, ok, s.Rev(store.Meta))
		}
	}
}

func TestACorruptPictureIsNamedAndTheOthersAreLoaded(t *testing.T) {
	for name, content := range map[string]string{
		"cut short": `{"partition":"net/n1","cluster":"c","snaps`, "empty": "", "of what": `{"cluster":"c"}`, "not JSON": "\x00\xff", "another shape": `[1]`,
	} {
		t.Run(name, func(t *testing.T) {
			j, dir := newJournal(t)
			save(t, j, "c", store.Meta, metaOf(t, 5, "front"))
			bad := filepath.Join(dir, "picture", "net_n1.json")
			if err := os.WriteFile(bad, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			s, errs := j.Picture("c")
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), bad) {
				t.Errorf("errors %v, want one that names %s", errs, bad)
			}
			if s.Rev(store.Meta) != 5 {
				t.Error("the good one was not loaded")
			}
		})
	}
}

// A record in the picture that does not decode is left out alone.
func TestACorruptRecordInAPictureIsSkipped(t *testing.T) {
	j, _ := newJournal(t)
	m := metaOf(t, 5, "front")
	m.Entries = append(m.Entries, store.Entry{Key: record.HostKey("h"), Value: []byte("scribble"), Rev: 4})
	save(t, j, "c", store.Meta, m)
	s := load(t, j)
	if _, ok := s.NetworkByName("front"); !ok || s.Corrupt()[record.HostKey("h")] == nil {
		t.Errorf("front is there: %v; corrupt: %v", ok, s.Corrupt())
	}
}

// A crash between the write and the rename leaves the old picture, and a half that goes at the next start.
func TestAHalfWrittenPictureIsNoPicture(t *testing.T) {
	j, dir := newJournal(t)
	save(t, j, "c", store.Meta, metaOf(t, 5, "front"))
	half := filepath.Join(dir, "picture", ".new-123")
	if err := os.WriteFile(half, []byte(`{"partition":"meta","cluster":"c","snapshot":{"Rev":9`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := load(t, j); s.Rev(store.Meta) != 5 {
		t.Errorf("revision %d, want that of the whole file", s.Rev(store.Meta))
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half is still there (%v): they would pile up", err)
	}
}

func TestASaveThatFailsLeavesTheOldPicture(t *testing.T) {
	j, dir := newJournal(t)
	save(t, j, "c", store.Meta, metaOf(t, 5, "front"))
	pictures := filepath.Join(dir, "picture")
	if err := os.Rename(pictures, pictures+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pictures, nil, 0o600); err != nil { // a file where the directory should be
		t.Fatal(err)
	}
	if err := j.SavePicture("c", "", store.Meta, metaOf(t, 6, "back")); err == nil || !strings.Contains(err.Error(), "save the picture of meta") {
		t.Errorf("got %v", err)
	}
	if err := j.DropPicture(store.Meta); err == nil || !strings.Contains(err.Error(), "forget the picture of meta") {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(os.Remove(pictures), os.Rename(pictures+".away", pictures)); err != nil {
		t.Fatal(err)
	}
	if s := load(t, j); s.Rev(store.Meta) != 5 {
		t.Errorf("revision %d", s.Rev(store.Meta))
	}
}

// Whatever stands in a file, it is loaded or named, and never more than named.
func FuzzPicture(f *testing.F) {
	good, err := json.Marshal(map[string]any{"partition": "net/n1", "cluster": "c", "snapshot": store.Snapshot{Rev: 3, Entries: []store.Entry{{Key: store.Key{Partition: "net/n1", Name: "addr/10.0.0.2"}, Value: []byte("e")}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"partition":"meta","cluster":"c","snapshot":{"Entries":[{"Key":{"Name":"vnis/x"}},{"Key":{"Name":"hosts/"},"Value":"e30="}]}}`))
	f.Add([]byte(`{"partition":"alive","cluster":"c"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "picture"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "picture", "x.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, errs := journal.New(nil, dir).Picture("c")
		if s == nil || len(errs) > 0 && len(s.Partitions()) > 0 {
			t.Errorf("%d partitions beside %v", len(s.Partitions()), errs)
		}
	})
}

// Whatever stands in a record, it decodes or is named.
func FuzzSandbox(f *testing.F) {
	b, err := record.Encode(sandbox("c1", "front"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"v":1,"id":"x","name":"y","attachments":[{"addrs":["::"]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > store.MaxValue {
			return
		}
		c := memory.New().Client()
		defer func() { _ = c.Close() }()
		scribble(t, c, "sandboxes", "x", string(b))
		all, errs, err := journal.New(c, "").Sandboxes(t.Context())
		if err != nil || len(all)+len(errs) != 1 {
			t.Errorf("%d sandboxes, %v, %v", len(all), errs, err)
		}
	})
}
