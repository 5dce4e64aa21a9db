package follow_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
	"weft/store/relay"
)

func renewed(t *testing.T, id, history string) store.Op {
	t.Helper()
	return encoded(t, record.ClusterKey(), &record.Cluster{ID: id, History: history})
}

// Given a store that lost its records under an agent, when they are put back piece by piece and the cluster's record last, then the agent
// believes it again, and at no moment shows a network as empty.
func TestAStoreThatWasPutBackIsBelievedAgain(t *testing.T) {
	for name, lose := range map[string]func(*world){
		"emptied":  func(w *world) { w.Restore(memory.Backup{Rev: 1000}) },
		"new disk": func(w *world) { w.Restore(memory.Backup{}) },
		"one by one": func(w *world) {
			for _, e := range w.Backup().Entries {
				w.apply(t, store.Del(e.Key))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.apply(t, cluster(t, "c"))
			w.apply(t, endpoint(t, front, 1)...)
			f := start(t, follow.Config{Store: w.follows})
			f.Follow(front)
			synced(t, f, store.Meta, store.Alive, record.NetPartition(front))
			stop := never(t, "the network looked empty", func() bool { return length(f, front) < 1 })
			lose(w)
			until(t, "no doubt", func() bool { return f.Doubt() != nil })
			w.apply(t, endpoint(t, front, 1)...)
			w.apply(t, endpoint(t, front, 2)...)
			w.apply(t, renewed(t, "c", "h1"))
			until(t, "the store is not believed again", func() bool { return f.Doubt() == nil && length(f, front) == 2 })
			synced(t, f, store.Meta, store.Alive, record.NetPartition(front))
			stop()
			rev := w.apply(t, endpoint(t, front, 3)...)
			if err := f.WaitRev(t.Context(), record.NetPartition(front), rev); err != nil || length(f, front) != 3 {
				t.Errorf("what comes after is not seen: %v, %d endpoints", err, length(f, front))
			}
		})
	}
}

// never looks again and again until stop is called.
func never(t *testing.T, what string, bad func() bool) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Microsecond)
		defer tick.Stop()
		for {
			if bad() {
				t.Error(what)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// Given the picture of a last life, when the records have come to another store meanwhile, whose revisions are lower, then they are believed;
// without a new history they are not.
func TestAnAgentThatWasAwayWhileTheRecordsMoved(t *testing.T) {
	for history, believed := range map[string]bool{"h1": true, "": false} {
		t.Run(fmt.Sprintf("history %q", history), func(t *testing.T) {
			old := newWorld(t)
			for i := range 20 {
				old.apply(t, endpoint(t, front, i)...)
			}
			old.apply(t, cluster(t, "c"))
			seed := seedOf(t, old, store.Meta, record.NetPartition(front))
			w := newWorld(t)
			w.apply(t, renewed(t, "c", history))
			w.apply(t, endpoint(t, front, 1)...)
			f := start(t, follow.Config{Store: w.follows, Seed: seed, Cluster: "c"})
			f.Follow(front)
			if !believed {
				until(t, "an older store is believed", func() bool { return f.Doubt() != nil })
				return
			}
			synced(t, f, store.Meta, store.Alive, record.NetPartition(front))
			if length(f, front) != 1 || f.Picture().Rev(store.Meta) > 2 {
				t.Errorf("%d endpoints, meta at %d", length(f, front), f.Picture().Rev(store.Meta))
			}
		})
	}
}

// feed is a store whose watches a test feeds.
type feed struct {
	store.Store
	cluster []byte // what Get returns
	mu      sync.Mutex
	watches map[string]chan store.Batch
}

func (s *feed) Watch(ctx context.Context, partition string) <-chan store.Batch {
	out := make(chan store.Batch)
	context.AfterFunc(ctx, func() { close(out) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches[partition] = out
	return out
}

func (s *feed) setCluster(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster = b
}

func (s *feed) Get(_ context.Context, k store.Key) (store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.Entry{Key: k, Value: s.cluster, Rev: 1}, nil
}

func (s *feed) send(t *testing.T, partition string, b store.Batch) {
	t.Helper()
	s.mu.Lock()
	w := s.watches[partition]
	s.mu.Unlock()
	select {
	case w <- b:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody takes the batch")
	}
}

// Given a watch under which the records move to another store, then their lower revisions raise no doubt, whichever partition moves first, and
// an old batch between does not matter.
func TestABatchOfANewHistory(t *testing.T) {
	for _, first := range []string{store.Meta, record.NetPartition(front)} {
		t.Run(first+" first", func(t *testing.T) {
			s := &feed{watches: map[string]chan store.Batch{}, cluster: renewed(t, "c", "h1").Value}
			f := start(t, follow.Config{Store: s, Cluster: "c"})
			f.Follow(front)
			until(t, "no watches", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.watches) == 3 })
			entry := func(op store.Op, rev store.Rev) []store.Entry {
				return []store.Entry{{Key: op.Key, Value: op.Value, Rev: rev}}
			}
			parts := map[string]store.Op{store.Meta: renewed(t, "c", "h1"), record.NetPartition(front): endpoint(t, front, 1)[0]}
			s.send(t, store.Meta, store.Batch{Rev: 900, Resync: true, Puts: entry(cluster(t, "c"), 900)})
			s.send(t, record.NetPartition(front), store.Batch{Rev: 901, Resync: true, Puts: entry(parts[record.NetPartition(front)], 901)})
			second := record.NetPartition(front)
			if first == second {
				second = store.Meta
			}
			s.send(t, first, store.Batch{Rev: 3, Resync: true, Anew: true, Puts: entry(parts[first], 2)})
			s.send(t, second, store.Batch{Rev: 905})
			s.send(t, second, store.Batch{Rev: 4, Resync: true, Anew: true, Puts: entry(parts[second], 2)})
			for p, rev := range map[string]store.Rev{first: 3, second: 4} {
				until(t, p+" is not at the new revision", func() bool { return f.Doubt() != nil || f.Picture().Rev(p) == rev })
			}
			if f.Doubt() != nil || length(f, front) != 1 {
				t.Errorf("doubt %v, %d endpoints", f.Doubt(), length(f, front))
			}
		})
	}
}

// Given a watch of partition meta that is behind, when a network's partition is compared with records that were put back already, then the loss
// that partition meta still has to tell raises a doubt that ends with the next batch.
func TestARenewalThatANetworkSeesFirst(t *testing.T) {
	s := &feed{watches: map[string]chan store.Batch{}, cluster: cluster(t, "c").Value}
	f := start(t, follow.Config{Store: s, Cluster: "c"})
	f.Follow(front)
	until(t, "no watches", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.watches) == 3 })
	net, op := record.NetPartition(front), endpoint(t, front, 1)[0]
	ep := []store.Entry{{Key: op.Key, Value: op.Value, Rev: 2}}
	put := func(op store.Op, rev store.Rev) store.Batch {
		return store.Batch{Rev: rev, Puts: []store.Entry{{Key: op.Key, Value: op.Value, Rev: rev}}}
	}
	s.send(t, store.Meta, put(cluster(t, "c"), 900))
	s.send(t, net, store.Batch{Rev: 901, Resync: true, Puts: ep})
	s.setCluster(renewed(t, "c", "h1").Value)
	s.send(t, net, store.Batch{Rev: 910, Resync: true, Puts: ep})
	until(t, "the network was not read", func() bool { return f.Picture().Rev(net) == 910 })
	s.send(t, store.Meta, store.Batch{Rev: 902, Dels: []store.Key{record.ClusterKey()}})
	until(t, "no doubt", func() bool { return f.Doubt() != nil })
	s.send(t, store.Meta, put(renewed(t, "c", "h1"), 905))
	until(t, "the doubt does not end", func() bool { return f.Doubt() == nil })
	s.send(t, net, store.Batch{Rev: 911, Resync: true, Puts: ep})
	until(t, "the network is not followed any more", func() bool { return f.Doubt() != nil || f.Picture().Rev(net) == 911 })
	if f.Doubt() != nil || length(f, front) != 1 {
		t.Errorf("doubt %v, %d endpoints", f.Doubt(), length(f, front))
	}
}

// Given records that were restored or moved, when their store goes back to what it held before that, then it is not believed, however far its
// revisions have come; and neither is one of another history of the same age.
func TestAnOlderHistoryIsNotBelieved(t *testing.T) {
	history := func(h string, generation uint64) store.Op {
		return encoded(t, record.ClusterKey(), &record.Cluster{ID: "c", History: h, Generation: generation})
	}
	for name, older := range map[string]store.Op{"never moved": cluster(t, "c"), "of a move before": history("m1", 1), "of another restore": history("other", 2)} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %v", name, restart), func(t *testing.T) {
				w := newWorld(t)
				w.apply(t, history("m2", 2))
				w.apply(t, endpoint(t, front, 1)...)
				cfg := follow.Config{Store: w.follows}
				old := memory.Backup{Rev: 5000, Entries: []store.Entry{{Key: older.Key, Value: older.Value, Rev: 4000}}}
				if restart {
					cfg.Cluster, cfg.Seed = "c", seedOf(t, w, store.Meta, record.NetPartition(front))
					w.Restore(old)
				}
				f := start(t, cfg)
				f.Follow(front)
				stop := never(t, "the network looked empty", func() bool { return f.Synced(record.NetPartition(front)) && length(f, front) < 1 })
				if !restart {
					synced(t, f, store.Meta, record.NetPartition(front))
					w.Restore(old)
				}
				until(t, "it is believed", func() bool { return f.Doubt() != nil })
				stop()
				if !strings.Contains(f.Doubt().Error(), "the store went back") || length(f, front) != 1 {
					t.Errorf("doubt %v, %d endpoints", f.Doubt(), length(f, front))
				}
				w.apply(t, history("m3", 3))
				until(t, "a later history is not believed", func() bool { return f.Doubt() == nil })
			})
		}
	}
}

// Given an agent that followed the records to another store, when it starts with options that still lead to the one that was left, then it
// believes nothing there, and all again as soon as its watches lead to where the records are.
func TestAnAgentThatStartsAtTheStoreThatWasLeft(t *testing.T) {
	left, w := newWorld(t), newWorld(t)
	left.apply(t, cluster(t, "c"))
	for i := range 40 {
		left.apply(t, endpoint(t, back, i)...)
	}
	w.apply(t, renewed(t, "c", "h1"))
	w.apply(t, endpoint(t, front, 1)...)
	seed := seedOf(t, w, store.Meta, record.NetPartition(front))
	r := relay.New(left.follows)
	t.Cleanup(func() { _ = r.Close() })
	f := start(t, follow.Config{Store: r, Seed: seed, Cluster: "c"})
	f.Follow(front)
	stop := never(t, "the network looked empty", func() bool { return length(f, front) < 1 })
	until(t, "what was left is believed", func() bool { return f.Doubt() != nil })
	if _, err := r.Switch(t.Context(), w.follows); err != nil {
		t.Fatal(err)
	}
	until(t, "where the records are is not believed", func() bool { return f.Doubt() == nil })
	synced(t, f, store.Meta, store.Alive, record.NetPartition(front))
	stop()
	rev := w.apply(t, endpoint(t, front, 2)...)
	if err := f.WaitRev(t.Context(), record.NetPartition(front), rev); err != nil || length(f, front) != 2 {
		t.Errorf("what comes after is not seen: %v, %d endpoints", err, length(f, front))
	}
}

// Given the picture of a last life, when the records were put elsewhere meanwhile, then what was read there is of their history, and a network
// that nobody reads stays one of the history before.
func TestOfWhichHistoryAPictureIs(t *testing.T) {
	w := newWorld(t)
	w.apply(t, cluster(t, "c"))
	w.apply(t, endpoint(t, front, 1)...)
	w.apply(t, endpoint(t, back, 1)...)
	seed := seedOf(t, w, store.Meta, record.NetPartition(front), record.NetPartition(back))
	w.apply(t, renewed(t, "c", "h1"))
	f := start(t, follow.Config{Store: w.follows, Seed: seed, Cluster: "c"})
	f.Follow(front)
	synced(t, f, store.Meta, record.NetPartition(front))
	p, of := f.PictureToKeep()
	want := map[string]string{store.Meta: "h1", record.NetPartition(front): "h1", record.NetPartition(back): ""}
	for part, h := range want {
		if of[part] != h || p.Rev(part) == 0 {
			t.Errorf("%s is of history %q at %d, want %q", part, of[part], p.Rev(part), h)
		}
	}
}

// Given an agent of a cluster that it made itself, when another's records are to be put into its store, then it becomes one of those.
func TestAnAgentAdoptsAnotherCluster(t *testing.T) {
	w := newWorld(t)
	w.apply(t, cluster(t, "mine"))
	f := start(t, follow.Config{Store: w.follows})
	f.Follow(front)
	synced(t, f, store.Meta, record.NetPartition(front))
	w.apply(t, store.Del(record.ClusterKey()))
	w.apply(t, endpoint(t, front, 1)...)
	f.Adopt("other")
	w.apply(t, renewed(t, "other", "h1"))
	until(t, "the adopted cluster is not believed", func() bool {
		c := f.Picture().Cluster()
		return f.Doubt() == nil && c != nil && c.ID == "other" && length(f, front) == 1
	})
}
