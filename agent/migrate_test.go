package agent

import (
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"weft/agent/journal"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// Given hosts of which some are alive, and what they say to a move, then those are told apart who are ready, silent, and in trouble; what is
// said to another move counts for nothing, and so does a host that is not there.
func TestRepliesToAMove(t *testing.T) {
	var meta, alive []store.Entry
	entry := func(k store.Key, r any) store.Entry {
		b, err := record.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		return store.Entry{Key: k, Value: b, Rev: 1}
	}
	for i, id := range []record.HostID{"ready", "silent", "late", "trouble", "gone"} {
		meta = append(meta, entry(record.HostKey(id), &record.Host{ID: id, Name: "name-" + string(id), VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}))
		if id != "gone" {
			alive = append(alive, entry(record.AliveKey(id), &record.Liveness{Host: id}))
		}
	}
	for _, r := range []*record.MoveReply{{Host: "ready", Move: "m"}, {Host: "late", Move: "m0"}, {Host: "trouble", Move: "m", Trouble: "no route"}, {Host: "gone", Move: "m"}} {
		meta = append(meta, entry(record.MoveReplyKey(r.Host), r))
	}
	p := record.Empty().Apply(store.Meta, store.Batch{Rev: 1, Puts: meta}).Apply(store.Alive, store.Batch{Rev: 1, Puts: alive})
	hosts, silent, trouble := replies(p, "m")
	slices.Sort(hosts)
	slices.Sort(silent)
	if !slices.Equal(hosts, []record.HostID{"late", "ready", "silent", "trouble"}) || !slices.Equal(silent, []string{"name-late", "name-silent"}) || !slices.Equal(trouble, []string{"name-trouble: no route"}) {
		t.Errorf("hosts %q, silent %q, trouble %q", hosts, silent, trouble)
	}
}

// What was remembered of a move holds as long as the options name the store that was left, and no longer.
func TestAMoveIsRememberedForTheStoreThatWasLeft(t *testing.T) {
	for flag, kept := range map[string]bool{"etcd://old:2379/weft": true, "zk://new:2181/weft": false} {
		disk := memory.New().Client()
		a := &Agent{cfg: Config{ClusterStore: flag}, journal: journal.New(disk, filepath.Join(t.TempDir(), "state"))}
		was := journal.Identity{Host: "h", Moved: &journal.Moved{From: "etcd://old:2379/weft", URL: "zk://new:2181/weft"}}
		id, err := a.forgetMove(t.Context(), was)
		if err != nil || (id.Moved != nil) != kept || id.Host != "h" {
			t.Errorf("%s: %+v, %v", flag, id, err)
		}
		if written, err := a.journal.Identity(t.Context()); err != nil || !kept && (written.Host != "h" || written.Moved != nil) {
			t.Errorf("%s: the journal has %+v, %v", flag, written, err)
		}
		_ = disk.Close()
	}
}

// Where no option names a store, what was learnt is rewritten, and nothing is left to be changed: by the move itself (see
// TestAHostThatHasLearntItsStoreFollows), or where an earlier version had remembered the move beside it.
func TestAMoveIsWhatAHostHasLearnt(t *testing.T) {
	disk := memory.New().Client()
	defer func() { _ = disk.Close() }()
	a := &Agent{journal: journal.New(disk, filepath.Join(t.TempDir(), "state"))}
	was := journal.Identity{
		Host: "h", Learnt: &journal.Learnt{URL: "etcd://old:2379/weft", Opts: map[string]string{"kv.certificate": "host"}},
		Moved: &journal.Moved{From: "etcd://old:2379/weft", URL: "zk://new:2181/weft", Opts: map[string]string{"kv.user": "u"}},
	}
	if err := a.chooseStore(was); err != nil {
		t.Fatal(err)
	}
	id, err := a.forgetMove(t.Context(), was)
	written, err2 := a.journal.Identity(t.Context())
	if err := errors.Join(err, err2); err != nil || id.Moved != nil || written.Moved != nil || id.Learnt.URL != "zk://new:2181/weft" || written.Learnt.URL != id.Learnt.URL {
		t.Errorf("%+v, the journal has %+v, %v", id, written, err)
	}
	if a.cfg.ClusterStore != "zk://new:2181/weft" || !maps.Equal(a.cfg.StoreOpts, map[string]string{"kv.user": "u"}) {
		t.Errorf("it goes to %s with %v", a.cfg.ClusterStore, a.cfg.StoreOpts)
	}
}

// The options of the new store are those of the move, and the timing of sessions is this host's own.
func TestWhereAMoveLeads(t *testing.T) {
	a := &Agent{cfg: Config{StoreOpts: map[string]string{"discovery.ttl": "9", "kv.user": "old"}}}
	p := a.placeOf("consul://h:8500/p", map[string]string{"kv.tokenfile": "/t"})
	if p.name != "consul://h:8500/p" || p.url != p.name || p.opts["discovery.ttl"] != "9" || p.opts["kv.tokenfile"] != "/t" || len(p.opts) != 2 {
		t.Errorf("%+v", p)
	}
}
