package registry_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// holdings are a moment's keys as a whole store would be read.
func (m moment) holdings() record.Holdings {
	h := record.Holdings{Others: map[string]store.Snapshot{}}
	for k := range m {
		if _, seen := h.Others[k.Partition]; !seen {
			s := m.partition(k.Partition)
			slices.SortFunc(s.Entries, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
			h.Others[k.Partition] = s
		}
	}
	h.Meta, h.Alive = h.Others[store.Meta], h.Others[store.Alive]
	delete(h.Others, store.Meta)
	delete(h.Others, store.Alive)
	return h
}

// The lab itself breaks these: its hosts have no session, write endpoints before they are registered, at whatever address, and are cleared
// without their endpoints being so.
var brokenByTheLab = []record.Rule{record.RuleNoHost, record.RuleFenced, record.RuleDeleter, record.RuleCluster, record.RuleOutside}

func TestNoHistoryOfTheRegistryHasFindings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLab(t)
		for range rapid.IntRange(5, 30).Draw(t, "steps") {
			l.step()
		}
		now := moment{}
		for i, a := range l.past.txns {
			for _, op := range a.ops {
				if op.Delete {
					delete(now, op.Key)
				} else {
					now[op.Key] = store.Entry{Key: op.Key, Value: op.Value, Rev: a.rev}
				}
			}
			if i%5 != 0 && i != len(l.past.txns)-1 { // each would take long
				continue
			}
			for _, f := range record.Check(now.holdings()) {
				if !slices.Contains(brokenByTheLab, f.Rule) {
					t.Errorf("revision %d: %+v", a.rev, f)
				}
			}
		}
	})
}

// between is a store in which something happens before each list of a partition.
type between struct {
	*memory.Client
	lists  atomic.Int32
	before func(n int, partition string)
}

func (b *between) List(ctx context.Context, partition string) (store.Snapshot, error) {
	b.before(int(b.lists.Add(1)), partition)
	return b.Client.List(ctx, partition)
}

// Given a network that is made, used and removed between the reads of an inspection, then the inspection finds nothing; given something that
// is wrong and stays so, then it is found, with a partition that no network leads to.
func TestAnInspectionOfAStoreThatChanges(t *testing.T) {
	w := memory.New()
	h := newHost(t, w, "h1")
	if _, err := h.EnsureCluster(t.Context(), record.Cluster{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	n := create(t, h, spec("front", "10.0.0.0/24"))
	b := &between{Client: w.Client()}
	t.Cleanup(func() { _ = b.Close() })
	b.before = func(n int, partition string) {
		if partition != store.Alive && n%2 == 0 { // after meta was read
			x := create(t, h, spec("passing", "10.1.0.0/24"))
			if _, err := h.RemoveNetwork(t.Context(), h.as, x.ID); err != nil {
				t.Error(err)
			}
			k := store.Key{Partition: record.NetPartition("passing"), Name: "name/x"}
			for _, op := range []store.Op{store.Put(k, nil), store.Del(k)} {
				if _, err := h.st.Txn(t.Context(), store.Txn{Then: []store.Op{op}}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	r := registry.New(registry.Config{Store: b, Picture: record.Empty})
	s, err := r.Inspect(t.Context())
	if err != nil || len(s.Findings) > 0 || s.Keys != 5 || s.Rev == 0 {
		t.Errorf("%+v, %v", s, err)
	}

	lost := store.Key{Partition: record.NetPartition("lost"), Name: "ep/x"}
	free := record.AddrKey(n.ID, n.Pools[0].Gateway.Next())
	if _, err := h.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(lost, nil), store.Put(free, []byte("gone"))}}); err != nil {
		t.Fatal(err)
	}
	s, err = r.Inspect(t.Context())
	if err != nil || len(s.Findings) != 2 || s.Findings[0].Key != free || s.Findings[1].Key != lost || s.Findings[1].Rule != record.RuleNoNetwork {
		t.Errorf("%+v, %v", s, err)
	}
}
