package registry_test

import (
	"context"
	"strings"
	"sync"

	"pgregory.net/rapid"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// history is every transaction that a world has applied, whether or not its writer heard of it.
type history struct {
	mu   sync.Mutex
	txns []applied
}

type applied struct {
	rev  store.Rev
	ops  []store.Op
	host record.HostID // who wrote it, "" for the test itself
	inc  uint64
}

// recorder is a client that keeps the history.
type recorder struct {
	*memory.Client
	past *history
	as   *registry.Actor
}

func (r recorder) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	a := applied{ops: t.Then}
	if r.as != nil {
		a.host, a.inc = r.as.Host, r.as.Incarnation
	}
	return r.Commit(ctx, t, func(rev store.Rev) error {
		r.past.mu.Lock()
		defer r.past.mu.Unlock()
		a.rev = rev
		r.past.txns = append(r.past.txns, a)
		return nil
	})
}

// replay applies the transactions one by one and checks the invariants at each revision. It returns how many there were.
func (h *history) replay(t rapid.TB) int {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := moment{}
	for _, a := range h.txns {
		before := now.meta()
		now.mayFollow(t, before, a)
		for _, op := range a.ops {
			if op.Delete {
				delete(now, op.Key)
			} else {
				now[op.Key] = store.Entry{Key: op.Key, Value: op.Value, Rev: a.rev}
			}
		}
		now.check(t, a.rev)
	}
	return len(h.txns)
}

// moment is all keys of a world at one revision.
type moment map[store.Key]store.Entry

func (m moment) partition(p string) store.Snapshot {
	var s store.Snapshot
	for k, e := range m {
		if k.Partition == p {
			s.Entries, s.Rev = append(s.Entries, e), max(s.Rev, e.Rev)
		}
	}
	return s
}

func (m moment) meta() *record.Snapshot {
	s := m.partition(store.Meta)
	return record.Empty().Apply(store.Meta, store.Batch{Rev: s.Rev, Resync: true, Puts: s.Entries})
}

// check holds what must be true of any moment: invariants 1 and 2, and of 3 that a network with endpoints is never gone.
func (m moment) check(t rapid.TB, rev store.Rev) {
	t.Helper()
	nets := map[record.NetworkID]store.Snapshot{}
	for k, e := range m {
		id, ok := strings.CutPrefix(k.Partition, record.NetPartition(""))
		if !ok {
			continue
		}
		if _, seen := nets[record.NetworkID(id)]; !seen {
			nets[record.NetworkID(id)] = m.partition(k.Partition)
		}
		if dir, _, _ := strings.Cut(k.Name, "/"); dir == "addr" || dir == "name" {
			ep, there := m[record.EndpointKey(record.NetworkID(id), record.EndpointID(e.Value))]
			if alias, virtual := record.VIPOf(record.EndpointID(e.Value)); virtual {
				ep, there = m[record.VIPKey(record.NetworkID(id), alias)]
			}
			if !there && dir == "addr" {
				ep, there = m.keeper(record.NetworkID(id), string(e.Value))
			}
			if !there || ep.Rev < e.Rev {
				t.Errorf("revision %d: %s is of %s, whose record is not as new", rev, k, e.Value)
			}
		}
	}
	for _, err := range registry.Check(m.partition(store.Meta), nets) {
		t.Errorf("revision %d: %v", rev, err)
	}
}

// keeper is the record that keeps an address.
func (m moment) keeper(n record.NetworkID, id string) (store.Entry, bool) {
	for k, e := range m {
		r := &record.Kept{}
		if _, ok := record.KeptName(k); ok && k.Partition == record.NetPartition(n) && r.Decode(e.Value) == nil && string(r.ID) == id {
			return e, true
		}
	}
	return store.Entry{}, false
}

// mayFollow holds what must be true of a step: the fence, and of invariants 1 and 3 what is about creation.
func (m moment) mayFollow(t rapid.TB, before *record.Snapshot, a applied) {
	t.Helper()
	if f, _ := before.Fence(a.host); f != nil && f.Incarnation >= a.inc {
		t.Errorf("revision %d: host %s in incarnation %d wrote behind its fence at %d", a.rev, a.host, a.inc, f.Incarnation)
	}
	for _, op := range a.ops {
		_, existed := m[op.Key]
		if op.Delete || existed {
			continue
		}
		if id, ok := strings.CutPrefix(op.Key.Partition, record.NetPartition("")); ok && (strings.HasPrefix(op.Key.Name, "ep/") || strings.HasPrefix(op.Key.Name, "kept/")) {
			if n, there := before.Network(record.NetworkID(id)); !there || n.State != record.Active {
				t.Errorf("revision %d: an endpoint was made in a network that is deleting or gone", a.rev)
			}
		}
		n := &record.Network{}
		if !strings.HasPrefix(op.Key.Name, "networks/") || n.Decode(op.Value) != nil || n.Options[registry.OptRouteOverlap] == "true" {
			continue
		}
		for h := range before.Hosts() {
			for _, x := range h.Routes {
				if n.Pools[0].Subnet.Overlaps(x.Prefix) {
					t.Errorf("revision %d: pool %s overlaps the route to %s of host %s", a.rev, n.Pools[0].Subnet, x.Prefix, h.Name)
				}
			}
		}
	}
}
