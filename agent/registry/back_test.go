package registry_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// moved is a whole move, and what moves the records back.
func moved(t *testing.T) (there, back *removal) {
	t.Helper()
	there = newRemoval(t)
	for i, step := range there.steps() {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	back = &removal{
		t: t, h: newHost(t, there.to, "h1"), from: there.to, to: there.from, there: there.from.Client(),
		move: record.Move{ID: "back", To: "zk://old:2181/weft"}, late: 50,
	}
	t.Cleanup(func() { _ = back.there.Close() })
	back.h.look(t)
	return there, back
}

// Given a store that the records have left, when a move back to it is left after any step and undone, then it leads to where they are, as it did
// before; and the move back can be made again.
func TestAMoveBackThatIsUndone(t *testing.T) {
	for n := 2; n < 9; n++ {
		for _, again := range []bool{false, true} { // a second filling over the first, before that was cleared
			t.Run(fmt.Sprintf("after %d steps, again %v", n, again), func(t *testing.T) {
				there, back := moved(t)
				for range map[bool]int{false: 1, true: 2}[again] {
					for i, step := range back.steps()[:n] {
						if err := step(); err != nil && i != 2 && i != 5 {
							t.Fatalf("step %d: %v", i, err)
						}
					}
					if _, err := back.h.AbortMove(t.Context(), back.move.ID); err != nil {
						t.Fatal(err)
					}
					back.h.look(t)
					back.move.ID += "-"
				}
				if err := registry.Clear(t.Context(), back.there, back.move.ID[:len(back.move.ID)-1]); err != nil {
					t.Fatal(err)
				}
				m, _, err := there.h.Move(t.Context())
				if err != nil || m == nil || m.State != record.MoveMoved || m.To != there.move.To || m.ID != there.move.ID {
					t.Fatalf("the store that was left says %+v, %v", m, err)
				}
				if err := registry.CheckTarget(t.Context(), back.there, &record.Cluster{ID: "c"}, nobody); err != nil {
					t.Errorf("the store is not free for another try: %v", err)
				}
				for i, step := range back.steps() {
					if err := step(); err != nil {
						t.Fatalf("again, step %d: %v", i, err)
					}
				}
				sameWorlds(t, kept(t, back.to), kept(t, back.from))
			})
		}
	}
}

// clusterOf reads the cluster's record.
func clusterOf(t *testing.T, s store.Store) *record.Cluster {
	t.Helper()
	e, err := s.Get(t.Context(), record.ClusterKey())
	c := &record.Cluster{}
	if err = errors.Join(err, c.Decode(e.Value)); err != nil {
		t.Fatal(err)
	}
	return c
}

// Whatever puts records somewhere: they succeed all that were there, those that they come from, and those that the one who does it has seen.
func TestHistoriesAreOrdered(t *testing.T) {
	there, back := moved(t)
	first, second := clusterOf(t, back.there), clusterOf(t, there.there)
	if !second.Succeeds(first) || first.Succeeds(second) {
		t.Fatalf("a move: %+v after %+v", second, first)
	}
	file := backedUp(t, back.h)
	for i, step := range back.steps() {
		if err := step(); err != nil && i != 2 { // what was left there is there still
			t.Fatal(err)
		}
	}
	third := clusterOf(t, back.there)
	if !third.Succeeds(second) {
		t.Fatalf("a move back: %+v after %+v", third, second)
	}
	put := func(h *host, c *record.Cluster) {
		b, err := record.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.ClusterKey(), b)}}); err != nil {
			t.Fatal(err)
		}
	}
	const later = 1 << 40 // more than the clock's
	for name, knows := range map[string]func(h *host, c *record.Cluster){
		"the store":                  put,
		"the one who restores":       func(h *host, c *record.Cluster) { put(h, c); h.look(t); put(h, second) },
		"a restore that broke off":   func(h *host, c *record.Cluster) { put(h, c); breakOff(t, h, file) },
		"nobody: there is the clock": func(h *host, c *record.Cluster) { c.Generation = uint64(time.Now().Add(-time.Minute).Unix()) },
	} {
		w := memory.New()
		h := newHost(t, w, "h1")
		c := &record.Cluster{ID: "c", History: "x", Generation: later}
		knows(h, c)
		if _, err := restored(h, t.Context(), file, nil); err != nil {
			t.Fatal(err)
		}
		if now := clusterOf(t, h.st); !now.Succeeds(c) {
			t.Errorf("known to %s: %+v after %+v", name, now, c)
		}
	}
}

// breakOff leaves a restore in its middle.
func breakOff(t *testing.T, h *host, file []byte) {
	t.Helper()
	if _, err := restored(h, t.Context(), file[:len(file)/2], nil); err == nil {
		t.Fatal("half a backup was restored")
	}
	if m, _, err := h.Move(t.Context()); err != nil || m == nil || m.State != record.MoveRestoring {
		t.Fatalf("no restore was broken off: %+v, %v", m, err)
	}
}
