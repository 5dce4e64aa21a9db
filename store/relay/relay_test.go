package relay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/store"
	"weft/store/memory"
	"weft/store/relay"
	"weft/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A relay is a store like any other, also one that leads elsewhere than it did at first.
func TestConformance(t *testing.T) {
	for name, switched := range map[string]bool{"as it began": false, "after a switch": true} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			worlds := map[string]*memory.World{}
			var clients []*memory.Client
			w := storetest.World{Floor: 100 * time.Millisecond}
			w.Client = func(t *testing.T, prefix string) store.Store {
				mu.Lock()
				defer mu.Unlock()
				if worlds[prefix] == nil {
					worlds[prefix] = memory.New()
				}
				c := worlds[prefix].Client()
				clients = append(clients, c)
				r := relay.New(c)
				if switched {
					r = relay.New(memory.New().Client())
					old, err := r.Switch(t.Context(), c)
					if err = errors.Join(err, old.Close()); err != nil {
						t.Fatal(err)
					}
				}
				t.Cleanup(func() { _ = r.Close() })
				return r
			}
			w.Compact = func(*testing.T) {
				mu.Lock()
				defer mu.Unlock()
				for _, c := range clients {
					c.ForgetHistory()
				}
			}
			storetest.Run(t, w)
		})
	}
}

func put(t *testing.T, s store.Store, name, value string) store.Rev {
	t.Helper()
	rev, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(store.Key{Partition: store.Meta, Name: name}, []byte(value))}})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func switched(t *testing.T, r *relay.Relay, to store.Store, opened ...store.Session) {
	t.Helper()
	old, err := r.Switch(t.Context(), to, opened...)
	if err = errors.Join(err, old.Close()); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, w <-chan store.Batch) store.Batch {
	t.Helper()
	select {
	case b, ok := <-w:
		if !ok {
			t.Fatal("the watch has ended")
		}
		return b
	case <-time.After(10 * time.Second):
		t.Fatal("no batch")
		return store.Batch{}
	}
}

// Given a watch that has delivered something, when the records are in another store with other revisions, then it delivers the difference.
func TestAWatchGoesOnInTheNewStore(t *testing.T) {
	from, to := memory.New().Client(), memory.New().Client()
	r := relay.New(from)
	t.Cleanup(func() { _ = r.Close() })
	for range 50 {
		put(t, from, "a", "1")
	}
	put(t, from, "gone", "x")
	w := r.Watch(t.Context(), store.Meta)
	if b := next(t, w); b.Anew || !b.Resync || len(b.Puts) != 2 {
		t.Fatalf("first %+v", b)
	}
	put(t, to, "a", "1")
	rev := put(t, to, "new", "y")
	switched(t, r, to)
	b := next(t, w)
	if !b.Anew || !b.Resync || b.Rev != rev || len(b.Puts) != 2 || len(b.Dels) != 1 || b.Dels[0].Name != "gone" {
		t.Errorf("after the switch: %+v", b)
	}
	put(t, r, "later", "z")
	if b := next(t, w); b.Anew || b.Resync || len(b.Puts) != 1 || b.Puts[0].Key.Name != "later" {
		t.Errorf("then: %+v", b)
	}
	empty := memory.New().Client()
	switched(t, r, empty)
	if b := next(t, w); !b.Anew || len(b.Puts) != 0 || len(b.Dels) != 3 {
		t.Errorf("into an empty store: %+v", b)
	}
	if _, err := from.Status(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("the old store: %v", err)
	}
}

// Given a session, when the records move, then its holder keeps it, with what the new store has given.
func TestASessionGoesOnInTheNewStore(t *testing.T) {
	fromWorld, toWorld := memory.New(), memory.New()
	from, to, look := fromWorld.Client(), toWorld.Client(), toWorld.Client()
	t.Cleanup(func() { _ = look.Close() })
	r := relay.New(from)
	t.Cleanup(func() { _ = r.Close() })
	cfg := store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}, Value: []byte("v"), TTL: 200 * time.Millisecond}
	s, err := r.OpenSession(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	put(t, to, "x", "1")
	there, err := to.OpenSession(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.Key.Name = "nobody's"
	spare, err := to.OpenSession(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	switched(t, r, to, there, spare)
	if s.ID() != there.ID() || s.Alive() != there.Alive() {
		t.Errorf("the session is %s at %v, want %s at %v", s.ID(), s.Alive(), there.ID(), there.Alive())
	}
	if _, err := look.Get(t.Context(), other.Key); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a session that nobody has stays: %v", err)
	}
	if _, err := r.Txn(t.Context(), store.Txn{If: []store.Cond{s.Alive()}, Then: []store.Op{store.Put(store.Key{Partition: store.Meta, Name: "y"}, nil)}}); err != nil {
		t.Error(err)
	}
	select { // the old one ends by itself, and that must not end this one
	case <-s.Done():
		t.Fatal("the session has ended with the old store's")
	case <-time.After(3 * cfg.TTL):
	}
	toWorld.Expire(cfg.Key)
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Error("the end of the session is not noticed")
	}

	again, err := r.OpenSession(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	switched(t, r, memory.New().Client())
	select {
	case <-again.Done():
	case <-time.After(10 * time.Second):
		t.Error("a session without one in the new store goes on")
	}
}

// Given writers and a watch, when the relay is switched to and fro among stores that hold the same, then what the watch has delivered, added up,
// is what the last store has, and no call fails.
func TestSwitchingUnderLoad(t *testing.T) {
	r := relay.New(memory.New().Client())
	t.Cleanup(func() { _ = r.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var freeze sync.RWMutex // what keeps writers off while the records are moved
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				k := store.Key{Partition: store.Meta, Name: fmt.Sprintf("%d-%d", i, rand.IntN(20))}
				op := store.Put(k, []byte(fmt.Sprint(n)))
				if rand.IntN(3) == 0 {
					op = store.Del(k)
				}
				freeze.RLock()
				_, err := r.Txn(t.Context(), store.Txn{Then: []store.Op{op}})
				freeze.RUnlock()
				if err != nil {
					t.Errorf("write: %v", err)
					return
				}
				if _, err := r.Get(t.Context(), k); err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	var mu sync.Mutex
	seen := map[string]string{}
	watching, stop := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for b := range r.Watch(watching, store.Meta) {
			mu.Lock()
			for _, k := range b.Dels {
				delete(seen, k.Name)
			}
			for _, e := range b.Puts {
				seen[e.Key.Name] = string(e.Value)
			}
			mu.Unlock()
		}
	}()
	for range 30 {
		to := memory.New().Client()
		freeze.Lock()
		l, err := r.List(t.Context(), store.Meta)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range l.Entries {
			put(t, to, e.Key.Name, string(e.Value))
		}
		switched(t, r, to)
		freeze.Unlock()
	}
	cancel()
	wg.Wait()
	want := map[string]string{}
	l, err := r.List(t.Context(), store.Meta)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range l.Entries {
		want[e.Key.Name] = string(e.Value)
	}
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for equal := false; !equal; <-tick.C {
		mu.Lock()
		equal = len(seen) == len(want)
		for k, v := range want {
			equal = equal && seen[k] == v
		}
		mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatalf("the watch has %v, the store %v", seen, want)
		}
	}
	stop()
	<-watched
}

func TestARelayThatIsClosed(t *testing.T) {
	r := relay.New(memory.New().Client())
	w := r.Watch(t.Context(), store.Meta)
	next(t, w)
	s, err := r.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}, TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-w; ok {
		t.Error("a watch goes on")
	}
	<-s.Done()
	to := memory.New().Client()
	defer func() { _ = to.Close() }()
	if _, err := r.Switch(t.Context(), to); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a switch: %v", err)
	}
	if _, ok := <-r.Watch(t.Context(), store.Meta); ok {
		t.Error("a new watch")
	}
}

// without is a store that cannot tell its partitions.
type without struct{ store.Store }

func TestPartitionsAreThoseOfTheStore(t *testing.T) {
	c := memory.New().Client()
	put(t, c, "x", "1")
	r := relay.New(c)
	t.Cleanup(func() { _ = r.Close() })
	if p, err := r.Partitions(t.Context()); err != nil || !slices.Equal(p, []string{store.Meta}) {
		t.Errorf("%q, %v", p, err)
	}
	switched(t, r, without{memory.New().Client()})
	if _, err := r.Partitions(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("of a store that cannot tell: %v", err)
	}
}
