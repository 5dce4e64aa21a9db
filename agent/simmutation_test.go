//go:build !race

package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/dnssvc"
	"weft/kernel"
	"weft/store"
	"weft/store/record"
)

// mutations are agents that are broken on purpose. Each is to be found within so many histories, as what it is.
var mutations = map[string]struct {
	mutation
	within int
	as     string // a part of what is said of it; empty: anything
}{
	"an address is claimed though another has it":        {mutation{txn: without("addr/"), far: simFar}, 200, "unclaimed"},
	"a name is claimed though another has it":            {mutation{txn: without("name/"), far: simFar}, 200, "unclaimed"},
	"pools and VNIs are chosen without a look at others": {mutation{txn: without("pools-gen", "vnis/"), far: simFar}, 400, ""},
	"endpoints are made whatever becomes of a network":   {mutation{txn: without("networks/"), far: simFar}, 600, "network"},
	"an address is not given back":                       {mutation{txn: keeping("addr/")}, 50, "orphan"},
	"a name is not given back":                           {mutation{txn: keeping("name/")}, 50, "orphan"},
	"the kernel keeps what is deleted":                   {mutation{machine: func(m *machine) { m.kernel = hoarder{m.kernel} }}, 50, "still to do: del"},
	"the kernel is changed before the store has spoken": {mutation{machine: watching(sluggish), life: func(a *Agent) {
		a.started = a.started.Add(-time.Hour)
	}}, 400, "before the store has spoken"},
	"a resolver stays when its sandbox goes": {mutation{machine: func(m *machine) {
		open := m.names
		m.names = func(cfg dnssvc.Config) names { return lasting{open(cfg)} }
	}}, 50, "resolver"},
	"time is what the wall's clock says":  {mutation{machine: func(m *machine) { m.clock = wallClock{m.clock} }}, 600, ""},
	"a watch leaves out what was deleted": {mutation{machine: watching(forgetful)}, 50, ""},
	"a store without records is believed": {mutation{machine: watching(credulous), last: (*simWorld).loseRecords}, 100, "which is gone"},
}

// simFar is far enough for races.
const simFar = 100 * time.Millisecond

// A simulation that finds nothing proves nothing.
func TestTheSimulationFindsWhatIsBroken(t *testing.T) {
	for name, m := range mutations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= uint64(m.within); seed++ {
				wrong, _ := simulate(t, seed, simLength(seed), t.TempDir(), slog.New(slog.DiscardHandler), m.mutation)
				if all := strings.Join(wrong, "\n"); len(wrong) > 0 && strings.Contains(all, m.as) {
					t.Logf("seed %d: %.300s", seed, all)
					sound := mutation{far: m.far, last: m.last}
					if wrong, _ := simulate(t, seed, simLength(seed), t.TempDir(), slog.New(slog.DiscardHandler), sound); len(wrong) > 0 {
						t.Errorf("seed %d goes wrong without the mutation too: %s", seed, strings.Join(wrong, "\n"))
					}
					return
				}
			}
			t.Errorf("not found in %d histories", m.within)
		})
	}
}

// without leaves the conditions on some keys out of every transaction.
func without(prefixes ...string) func(store.Txn) store.Txn {
	return func(t store.Txn) store.Txn {
		t.If = slices.DeleteFunc(slices.Clone(t.If), func(c store.Cond) bool {
			return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(c.Key.Name, p) })
		})
		return t
	}
}

// keeping leaves the deletes of some keys out.
func keeping(prefix string) func(store.Txn) store.Txn {
	return func(t store.Txn) store.Txn {
		t.Then = slices.DeleteFunc(slices.Clone(t.Then), func(o store.Op) bool { return o.Delete && strings.HasPrefix(o.Key.Name, prefix) })
		return t
	}
}

// hoarder is a kernel that says it has deleted something.
type hoarder struct{ host }

func (h hoarder) Apply(ctx context.Context, ops []kernel.Op) []error {
	var some []kernel.Op
	for _, o := range ops {
		if o.Verb != kernel.Del {
			some = append(some, o)
		}
	}
	errs := h.host.Apply(ctx, some)
	out := make([]error, len(ops))
	for i, o := range ops {
		if o.Verb != kernel.Del {
			out[i], errs = errs[0], errs[1:]
		}
	}
	return out
}

// lasting are names that are served for ever.
type lasting struct{ names }

func (lasting) Remove(string) {}

// wallClock has no monotonic reading.
type wallClock struct{ Clock }

func (c wallClock) Now() time.Time { return c.Clock.Now().Round(0) }

// mutatedStore tells something else than the store that it is.
type mutatedStore struct {
	store.Store
	batch func(*mutatedStore, store.Batch) store.Batch

	mu      sync.Mutex // guards what follows
	cluster store.Entry
	rev     store.Rev
}

func watching(batch func(*mutatedStore, store.Batch) store.Batch) func(*machine) {
	return func(m *machine) {
		open := m.store
		m.store = func(p place, log *slog.Logger) (store.Store, error) {
			s, err := open(p, log)
			return &mutatedStore{Store: s, batch: batch}, err
		}
	}
}

func (s *mutatedStore) Watch(ctx context.Context, partition string) <-chan store.Batch {
	out := make(chan store.Batch)
	go func() {
		defer close(out)
		for b := range s.Store.Watch(ctx, partition) {
			select {
			case out <- s.batch(s, b):
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// forgetful does not tell what was deleted.
func forgetful(_ *mutatedStore, b store.Batch) store.Batch {
	b.Dels = nil
	return b
}

// sluggish takes its time with the first that it tells.
func sluggish(_ *mutatedStore, b store.Batch) store.Batch {
	if b.Resync {
		time.Sleep(seedPatience / 2)
	}
	return b
}

// credulous hides from an agent that its store was emptied: it hears that everything was deleted.
func credulous(s *mutatedStore, b store.Batch) store.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.Rev = max(b.Rev, s.rev)
	s.rev = b.Rev
	for _, e := range b.Puts {
		if e.Key == record.ClusterKey() {
			s.cluster = e
		}
	}
	b.Dels = slices.DeleteFunc(slices.Clone(b.Dels), func(k store.Key) bool { return k == record.ClusterKey() })
	return b
}

// Get goes on telling of the cluster.
func (s *mutatedStore) Get(ctx context.Context, k store.Key) (store.Entry, error) {
	e, err := s.Store.Get(ctx, k)
	if k != record.ClusterKey() {
		return e, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.cluster = e
	}
	if errors.Is(err, store.ErrNotFound) && s.cluster.Rev > 0 {
		return s.cluster, nil
	}
	return e, err
}
