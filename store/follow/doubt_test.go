package follow_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
)

// Whatever way the store lost its history: the picture stays, and those who wait hear why.
func TestAStoreThatLostItsHistoryIsNotBelieved(t *testing.T) {
	for name, tc := range map[string]struct {
		lose func(t *testing.T, w *world, early memory.Backup)
		want []string // one of them
	}{
		"emptied":         {func(_ *testing.T, w *world, _ memory.Backup) { w.Restore(memory.Backup{}) }, []string{"lost the record of cluster c", "went back from revision"}},
		"emptied, newer":  {func(_ *testing.T, w *world, _ memory.Backup) { w.Restore(memory.Backup{Rev: 1000}) }, []string{"lost the record of cluster c"}},
		"another's":       {another, []string{"holds cluster other, and this host belongs to c"}},
		"older":           {func(_ *testing.T, w *world, early memory.Backup) { w.Restore(early) }, []string{"went back from revision"}},
		"older, outgrown": {outgrown, []string{"the store went back: net/", "the store went back: meta/cluster"}},
		"record deleted":  {func(t *testing.T, w *world, _ memory.Backup) { w.apply(t, store.Del(record.ClusterKey())) }, []string{"lost the record of cluster c"}},
		"record replaced": {func(t *testing.T, w *world, _ memory.Backup) { w.apply(t, cluster(t, "other")) }, []string{"holds cluster other"}},
	} {
		for _, when := range []string{"while it is followed", "before the agent starts"} {
			t.Run(name+" "+when, func(t *testing.T) {
				w := newWorld(t)
				w.apply(t, cluster(t, "c"))
				early := w.Backup()
				w.apply(t, endpoint(t, front, 1)...)
				w.apply(t, encoded(t, record.FenceKey("h"), &record.Fence{Host: "h"}))
				cfg := follow.Config{Store: w.follows}
				if when == "before the agent starts" {
					cfg.Cluster, cfg.Seed = "c", seedOf(t, w, store.Meta, record.NetPartition(front))
					tc.lose(t, w, early)
				}
				f := start(t, cfg)
				f.Follow(front)
				if cfg.Cluster == "" {
					synced(t, f, store.Meta, record.NetPartition(front))
					tc.lose(t, w, early)
				}
				disbelieved(t, w, f, tc.want)
			})
		}
	}
}

func another(_ *testing.T, w *world, _ memory.Backup) {
	b, err := record.Encode(&record.Cluster{ID: "other"})
	if err != nil {
		panic(err)
	}
	w.Restore(memory.Backup{Rev: 1000, Entries: []store.Entry{{Key: record.ClusterKey(), Value: b, Rev: 900}}})
}

// outgrown is an older store in which so much was written since that its revision is beyond what was seen.
func outgrown(t *testing.T, w *world, early memory.Backup) {
	op := endpoint(t, front, 1)[0]
	w.Restore(memory.Backup{Rev: 1000, Entries: append(slices.Clone(early.Entries), store.Entry{Key: op.Key, Value: op.Value, Rev: 1})})
}

func disbelieved(t *testing.T, w *world, f *follow.Follower, want []string) {
	t.Helper()
	until(t, "the store is believed", func() bool { return f.Doubt() != nil })
	if !slices.ContainsFunc(want, func(s string) bool { return strings.Contains(f.Doubt().Error(), s) }) {
		t.Errorf("doubt: %v, want one of %q", f.Doubt(), want)
	}
	if err := f.WaitRev(t.Context(), record.NetPartition(front), 5000); err == nil || err.Error() != f.Doubt().Error() {
		t.Errorf("who waits for a revision hears %v", err)
	}
	if err := f.WaitSynced(t.Context(), store.Alive); err == nil || f.Synced(store.Meta) {
		t.Errorf("synced with a store that is not believed: %v", err)
	}
	f.TakeDirty()
	ops := append([]store.Op{store.Del(record.EndpointKey(front, "e1"))}, endpoint(t, front, 9)...)
	w.apply(t, append(ops, cluster(t, "c"))...)
	probe := start(t, follow.Config{Store: w.writes})
	synced(t, probe, store.Meta)
	if c := f.Picture().Cluster(); c == nil || c.ID != "c" || length(f, front) != 1 {
		t.Errorf("the picture followed all the same: cluster %+v, %d endpoints", c, length(f, front))
	}
	if d, _ := f.TakeDirty(); d.Meta || len(d.Nets) > 0 {
		t.Errorf("dirty: %+v, and there is nothing new to act on", d)
	}
}

// The partitions have watches of their own. A network of an emptied or foreign store must not look empty in the moment before partition
// meta tells: that moment would take its forwarding entries down.
func TestNoNetworkLooksEmptyBeforeTheClusterIsKnown(t *testing.T) {
	for range 50 {
		w := newWorld(t)
		w.apply(t, cluster(t, "c"))
		w.apply(t, endpoint(t, front, 1)...)
		seed := seedOf(t, w, store.Meta, record.NetPartition(front))
		another(t, w, memory.Backup{})
		f := follow.New(follow.Config{Store: w.follows, Seed: seed, Cluster: "c", Log: slog.New(slog.DiscardHandler)})
		f.Follow(front)
		stop := run(t, f)
		until(t, "no doubt", func() bool { return f.Doubt() != nil })
		stop()
		if length(f, front) != 1 {
			t.Fatal("the network was shown as the foreign store has it")
		}
	}
}

// A store that is emptied key by key, or in one go while agents look on, is not one whose endpoints have left: each partition hears of its
// own keys first.
func TestAStoreThatIsEmptiedUnderAnAgent(t *testing.T) {
	for name, endpoints := range map[string]int{"the only endpoint": 1, "many": 3} {
		for range 20 {
			w := newWorld(t)
			w.apply(t, cluster(t, "c"))
			all := []store.Op{store.Del(record.ClusterKey())}
			for i := range endpoints {
				ops := endpoint(t, front, i)
				w.apply(t, ops...)
				for _, o := range ops {
					all = append(all, store.Del(o.Key))
				}
			}
			f := start(t, follow.Config{Store: w.follows, Cluster: "c"})
			f.Follow(front)
			synced(t, f, store.Meta, record.NetPartition(front))
			w.apply(t, all...)
			until(t, name+": the store is believed", func() bool { return f.Doubt() != nil })
			if n := length(f, front); n != endpoints {
				t.Fatalf("%s: the picture has %d endpoints, want %d", name, n, endpoints)
			}
		}
	}
}

// What is lost must be asked for, also when the store answers only later.
func TestASyncWaitsForAStoreThatCannotBeAsked(t *testing.T) {
	w := newWorld(t)
	w.apply(t, cluster(t, "c"))
	w.apply(t, endpoint(t, front, 1)...)
	f := start(t, follow.Config{Store: deaf{w.follows}, Cluster: "c"})
	f.Follow(front)
	synced(t, f, store.Meta)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.WaitSynced(ctx, record.NetPartition(front)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("believed without an answer: %v", err)
	}
}

// deaf is a store that delivers watches and answers no question.
type deaf struct{ store.Store }

func (deaf) Get(context.Context, store.Key) (store.Entry, error) {
	return store.Entry{}, store.ErrUnreachable
}
