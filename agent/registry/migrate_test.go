package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// removal is a move from one world to another, step by step.
type removal struct {
	t        *testing.T
	h        *host // in the old store
	from, to *memory.World
	there    *memory.Client
	move     record.Move
	rev      store.Rev
	late     int // networks made on the way
}

func newRemoval(t *testing.T) *removal {
	t.Helper()
	w, h := town(t, "c")
	to := memory.New()
	r := &removal{t: t, h: h, from: w, to: to, there: to.Client(), move: record.Move{ID: "m1", To: "etcd://new:2379/weft"}}
	t.Cleanup(func() { _ = r.there.Close() })
	h.look(t)
	return r
}

func (r *removal) begin() error {
	var err error
	if r.rev, err = r.h.BeginMove(r.t.Context(), r.h.as, r.move); err == nil {
		r.move.State, r.move.By = record.MovePreparing, r.h.as.Host
	}
	return err
}

func (r *removal) advance(to record.MoveState) error {
	rev, err := r.h.AdvanceMove(r.t.Context(), r.move, r.rev, to)
	if err == nil {
		r.rev = rev
	}
	return err
}

// steps are those of a whole move, in order.
func (r *removal) steps() []func() error {
	var target *registry.Target
	fill := func(want bool) func() error {
		return func() error {
			f, err := target.Fill(r.t.Context())
			if err == nil && (f.Changed > 0) != want {
				err = fmt.Errorf("%d keys were changed", f.Changed)
			}
			return err
		}
	}
	return []func() error{
		r.begin,
		func() (err error) { target, err = r.h.Aim(r.t.Context(), r.there, r.move); return err },
		fill(true),
		func() error { // work goes on meanwhile
			r.late++
			n := create(r.t, r.h, spec(fmt.Sprintf("late%d", r.late), fmt.Sprintf("10.%d.0.0/16", 70+r.late)))
			_, err := r.h.CreateEndpoint(r.t.Context(), r.h.as, endpoint(n, r.h, "late", fmt.Sprintf("10.%d.0.9", 70+r.late)))
			return err
		},
		func() error { return r.advance(record.MoveMoving) },
		fill(true),
		fill(false),
		func() error { return target.Complete(r.t.Context()) },
		func() error { return r.advance(record.MoveMoved) },
	}
}

func TestAMove(t *testing.T) {
	r := newRemoval(t)
	for i, step := range r.steps() {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	sameWorlds(t, kept(t, r.to), kept(t, r.from))
	if h := historyOf(t, r.there); h != "m1" {
		t.Errorf("the moved records have history %q", h)
	}
	there := newHost(t, r.to, "h1")
	if s, err := there.Inspect(t.Context()); err != nil || len(s.Findings) > 0 {
		t.Errorf("in the new store: %+v, %v", s.Findings, err)
	}
	if _, err := r.h.AbortMove(t.Context(), ""); registry.KindOf(err) != registry.InUse || !strings.Contains(err.Error(), "cannot be undone") {
		t.Errorf("an abort after the end: %v", err)
	}
	if _, err := restored(r.h, t.Context(), backedUp(t, there), nil); registry.KindOf(err) != registry.InUse {
		t.Errorf("a restore into the store that the records have left: %v", err)
	}
	m, _, err := r.h.Move(t.Context())
	if err != nil || m.State != record.MoveMoved || m.To != r.move.To {
		t.Errorf("the old store says %+v, %v", m, err)
	}
}

// Whatever a host wants to write while the records are moved waits, and is never written to the old store.
func TestNothingIsWrittenBehindAMove(t *testing.T) {
	r := newRemoval(t)
	steps := r.steps()
	for _, step := range steps[:5] {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	before := kept(t, r.from)
	n := firstNetwork(t, r.h)
	var ep record.EndpointID
	r.h.look(t, n)
	net, _ := r.h.picture.Net(n)
	for e := range net.Endpoints() {
		ep = e.ID
	}
	for _, fresh := range []bool{true, false} { // with the newest picture, and with one from before the freeze
		if !fresh {
			old := newHost(t, r.from, "h1")
			old.picture = record.Empty()
			r.h.Registry = old.Registry
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		var wg sync.WaitGroup
		for name, write := range map[string]func() error{
			"create network": func() error { _, _, _, err := r.h.CreateNetwork(ctx, r.h.as, spec("x", "10.78.0.0/16")); return err },
			"remove network": func() error { _, err := r.h.RemoveNetwork(ctx, r.h.as, n); return err },
			"create endpoint": func() error {
				_, err := r.h.CreateEndpoint(ctx, r.h.as, endpoint(&record.Network{ID: n}, r.h, "x", "10.0.0.200"))
				return err
			},
			"update endpoint": func() error {
				_, err := r.h.UpdateEndpoint(ctx, r.h.as, n, ep, func(e *record.Endpoint) { e.Running = !e.Running })
				return err
			},
			"delete endpoint": func() error { _, err := r.h.DeleteEndpoint(ctx, r.h.as, n, ep); return err },
			"register host": func() error {
				_, _, err := r.h.RegisterHost(ctx, record.Host{ID: "h9", Name: "h9", VTEP: netip.MustParseAddr("192.0.2.99")})
				return err
			},
		} {
			wg.Go(func() {
				if err := write(); err == nil {
					t.Errorf("%s, picture fresh %v: it was written behind the freeze", name, fresh)
				}
			})
		}
		wg.Wait()
		cancel()
	}
	sameWorlds(t, kept(t, r.from), before)
}

// A move that is left after any step is ended by an abort: the old store is as it was, the new one empty; or it is begun again, and ends.
func TestAMoveThatIsLeftAfterAnyStep(t *testing.T) {
	for _, cleared := range []bool{true, false} {
		for n := 1; n < 9; n++ {
			t.Run(fmt.Sprintf("after %d steps, cleared %v", n, cleared), func(t *testing.T) {
				r := newRemoval(t)
				for i, step := range r.steps()[:n] {
					if err := step(); err != nil {
						t.Fatalf("step %d: %v", i, err)
					}
				}
				if err := r.h.ReplyToMove(t.Context(), record.MoveReply{Host: "h2", Move: "m1"}); err != nil {
					t.Fatal(err)
				}
				again := r.move
				again.ID = "m2"
				if _, err := r.h.BeginMove(t.Context(), r.h.as, again); registry.KindOf(err) != registry.Exists || !strings.Contains(err.Error(), "--abort") {
					t.Errorf("a second move beside the first: %v", err)
				}
				before := kept(t, r.from)
				ended, err := r.h.AbortMove(t.Context(), "")
				if err != nil || ended == nil || ended.ID != "m1" {
					t.Fatalf("abort: %+v, %v", ended, err)
				}
				if cleared {
					if err := registry.Clear(t.Context(), r.there, "m1"); err != nil {
						t.Fatal(err)
					}
					if left := r.to.Backup().Entries; len(left) > 0 {
						t.Errorf("left in the new store: %v", left)
					}
				}
				sameWorlds(t, kept(t, r.from), before)
				if _, ok := hasReply(t, r.h); ok {
					t.Error("a reply to the move is still there")
				}
				if err := r.advance(record.MoveMoved); !errors.Is(err, registry.ErrMoveEnded) {
					t.Errorf("the mover that was aborted goes on: %v", err)
				}
				if err := registry.CheckTarget(t.Context(), r.there, &record.Cluster{ID: "c"}, nobody); err != nil {
					t.Errorf("the new store is not free for another try: %v", err)
				}
				r.h.look(t)
				r.move = again
				for i, step := range r.steps() {
					if err := step(); err != nil && i != 2 { // what the first try has made is there already
						t.Fatalf("again, step %d: %v", i, err)
					}
				}
				sameWorlds(t, kept(t, r.to), kept(t, r.from))
			})
		}
	}
}

func nobody(record.HostID) bool { return false }

func hasReply(t *testing.T, h *host) (*record.MoveReply, bool) {
	t.Helper()
	h.look(t)
	return h.picture.MoveReply("h2")
}

func TestStoresThatRecordsCannotMoveTo(t *testing.T) {
	mark := func(m record.Move) store.Op {
		b, err := record.Encode(&m)
		if err != nil {
			t.Fatal(err)
		}
		return store.Put(record.MovesKey(), b)
	}
	cluster := func(id string, history ...string) store.Op {
		b, err := record.Encode(&record.Cluster{ID: id, History: strings.Join(history, "")})
		if err != nil {
			t.Fatal(err)
		}
		return store.Put(record.ClusterKey(), b)
	}
	alive := store.Put(record.AliveKey("h1"), nil)
	for name, tc := range map[string]struct {
		has  []store.Op
		want string // "": it can
	}{
		"an empty one":               {nil, ""},
		"one with sessions alone":    {[]store.Op{alive}, ""},
		"another cluster's":          {[]store.Op{cluster("x")}, "it holds cluster x"},
		"one that is in use":         {[]store.Op{cluster("c"), alive}, "a copy of this cluster, and 1 hosts use that"},
		"the same one":               {[]store.Op{cluster("c", "now")}, "the same store, or a copy of it"},
		"left, with sessions":        {[]store.Op{cluster("c", "m0"), store.Put(record.AliveKey("h2"), nil)}, ""},
		"what a move has left":       {[]store.Op{cluster("c")}, ""},
		"the one before":             {[]store.Op{cluster("c"), alive, mark(record.Move{ID: "m0", State: record.MoveMoved, To: "x://"})}, ""},
		"half of this cluster":       {[]store.Op{mark(record.Move{ID: "m0", State: record.MoveRestoring, Cluster: "c"})}, ""},
		"half of another cluster":    {[]store.Op{mark(record.Move{ID: "m0", State: record.MoveRestoring, Cluster: "x"})}, "other keys under its prefix"},
		"somebody else's keys":       {[]store.Op{store.Put(store.Key{Partition: store.Meta, Name: "app"}, nil)}, "other keys under its prefix"},
		"a cluster's without record": {[]store.Op{store.Put(record.PoolsGenKey(), nil)}, "other keys under its prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			s := memory.New().Client()
			defer func() { _ = s.Close() }()
			if len(tc.has) > 0 {
				if _, err := s.Txn(t.Context(), store.Txn{Then: tc.has}); err != nil {
					t.Fatal(err)
				}
			}
			ours := func(id record.HostID) bool { return id == "h2" }
			err := registry.CheckTarget(t.Context(), s, &record.Cluster{ID: "c", History: "now"}, ours)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	r := newRemoval(t)
	if err := r.begin(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.h.Aim(t.Context(), r.h.st, r.move); registry.KindOf(err) != registry.Invalid {
		t.Errorf("into the same store: %v", err)
	}
	if err := registry.Clear(t.Context(), r.h.st, "m1"); err != nil {
		t.Fatal(err)
	}
	if len(kept(t, r.from)) < 100 {
		t.Error("the old store was cleared")
	}
}

// A move that was ended is ended, also where what hosts had said to it cannot be tidied away.
func TestAnAbortThatCannotTidyUp(t *testing.T) {
	r := newRemoval(t)
	if err := r.begin(); err != nil {
		t.Fatal(err)
	}
	b := &between{Client: r.from.Client()}
	t.Cleanup(func() { _ = b.Close() })
	b.before = func(int, string) { b.Cut(true) }
	r.h.use(b, "h1")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if ended, err := r.h.AbortMove(ctx, "m1"); err != nil || ended == nil || ended.ID != "m1" {
		t.Errorf("%+v, %v", ended, err)
	}
}

// Outcomes that are not known change nothing.
func TestAMoveWithUnknownOutcomes(t *testing.T) {
	for i := range 9 {
		for _, applied := range []bool{true, false} {
			r := newRemoval(t)
			for n, step := range r.steps() {
				if n == i {
					r.h.st.NextUnknown(applied)
					r.there.NextUnknown(applied)
				}
				err := step()
				if err != nil {
					t.Fatalf("step %d, applied %v: %v", n, applied, err)
				}
			}
			sameWorlds(t, kept(t, r.to), kept(t, r.from))
		}
	}
}

// Given a network that is being removed, when its record gets another revision at any step, as a move of the records does, then it is removed.
func TestARemovalOverAMove(t *testing.T) {
	for at := 1; at <= 2; at++ {
		w := memory.New()
		h := newHost(t, w, "h1")
		n := create(t, h, spec("front", "10.0.0.0/24"))
		b := &between{Client: w.Client()}
		t.Cleanup(func() { _ = b.Close() })
		b.before = func(i int, _ string) {
			if i != at {
				return
			}
			e, err := h.st.Get(t.Context(), record.NetworkKey(n.ID))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(e.Key, e.Value)}}); err != nil {
				t.Fatal(err)
			}
		}
		h.use(b, "h1")
		if _, err := h.RemoveNetwork(t.Context(), h.as, n.ID); err != nil {
			t.Errorf("at list %d: %v", at, err)
		}
		if left := w.Backup().Entries; len(left) != 1 { // the counter of pools
			t.Errorf("at list %d: left %v", at, left)
		}
	}
}

// A record of a move that cannot be read may be one of a later version: nobody writes before it is gone, which an abort sees to.
func TestARecordOfAMoveThatCannotBeRead(t *testing.T) {
	_, h := town(t, "c")
	n := firstNetwork(t, h)
	if _, err := h.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.MovesKey(), []byte(`{"v":99}`))}}); err != nil {
		t.Fatal(err)
	}
	for _, look := range []bool{false, true} {
		if look {
			h.look(t, n)
		}
		if _, err := h.CreateEndpoint(t.Context(), h.as, endpoint(&record.Network{ID: n}, h, "x", "10.0.0.200")); err == nil || !strings.Contains(err.Error(), "newer than this version") {
			t.Errorf("picture fresh %v: %v", look, err)
		}
	}
	if _, err := h.AbortMove(t.Context(), "m1"); err == nil {
		t.Error("an abort of a certain move took what cannot be read for it")
	}
	if m, err := h.AbortMove(t.Context(), ""); err != nil || m == nil {
		t.Errorf("abort: %+v, %v", m, err)
	}
	if _, err := h.CreateEndpoint(t.Context(), h.as, endpoint(&record.Network{ID: n}, h, "x", "10.0.0.200")); err != nil {
		t.Error(err)
	}
}
