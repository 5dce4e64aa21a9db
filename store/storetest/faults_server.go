package storetest

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/store"
)

// aServer breaks the only server there is.
func aServer(t *testing.T, w FaultWorld) {
	s := w.site(t, 1)
	for _, c := range []struct {
		name string
		test func(*testing.T, *site)
	}{
		{"killed under load and started", killed},
		{"frozen for six seconds", frozen},
		{"down for five seconds", down},
		{"history forgotten while a watch is away", forgotten},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

func killed(t *testing.T, s *site) {
	x := s.scene(t, "killed")
	m := s.cluster.Members[0]
	for range 2 {
		if err := errors.Join(m.Kill(), m.Start(), s.cluster.Wait(t.Context())); err != nil {
			t.Fatal(err)
		}
		x.healed(t, time.Now())
	}
	x.settle(t, true)
	x.sessionLives(t)
}

const freeze = 6 * time.Second

func frozen(t *testing.T, s *site) {
	x := s.scene(t, "frozen")
	m := s.cluster.Members[0]
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	callsEnd(t, x.s, store.ErrUnknown)
	time.Sleep(time.Until(began.Add(freeze)))
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	x.healed(t, time.Now())
	x.settle(t, true)
	x.sessionLives(t)
}

// callsEnd checks that no call outlasts its context while the store cannot answer, and that each says what it must.
func callsEnd(t *testing.T, s store.Store, orWrite error) {
	t.Helper()
	const wait = 500 * time.Millisecond
	k := key("in doubt")
	var wg sync.WaitGroup
	for what, call := range map[string]func(context.Context) error{
		"transaction": func(ctx context.Context) error {
			_, err := s.Txn(ctx, store.Txn{If: []store.Cond{{Key: k, Rev: store.Absent}}, Then: []store.Op{store.Put(k, nil)}})
			if errors.Is(err, orWrite) {
				return store.ErrUnreachable
			}
			return err
		},
		"get":    func(ctx context.Context) error { _, err := s.Get(ctx, k); return err },
		"list":   func(ctx context.Context) error { _, err := s.List(ctx, store.Meta); return err },
		"status": func(ctx context.Context) error { _, err := s.Status(ctx); return err },
		"session": func(ctx context.Context) error {
			_, err := s.OpenSession(ctx, store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "never"}})
			if errors.Is(err, orWrite) {
				return store.ErrUnreachable
			}
			return err
		},
	} {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			began := time.Now()
			err := call(ctx)
			if !errors.Is(err, store.ErrUnreachable) || errors.Is(err, store.ErrRefused) {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(began); took > wait+2*time.Second {
				t.Errorf("%s took %v although its context had %v", what, took, wait)
			}
		})
	}
	wg.Wait()
}

// down lets a host run into a server that is not there: what it does is bounded, and no two do it in step.
func down(t *testing.T, s *site) {
	const hosts, wait = 4, 5 * time.Second
	var meters []*meter
	var idle []*follower
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range hosts {
		m := &meter{dial: s.near}
		c := s.client(t, "down", m.Dial)
		for range 3 {
			idle = append(idle, newFollower(t, "idle", c))
		}
		session(t, c, t.Name()+string(rune('0'+len(meters))), sessionTTL)
		meters = append(meters, m)
		wg.Go(func() { // a caller, who asks again a second after each answer
			for ctx.Err() == nil {
				call, done := context.WithTimeout(ctx, callWait)
				_, _ = c.Get(call, key("x"))
				done()
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		})
	}
	member := s.cluster.Members[0]
	if err := member.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, m := range meters {
		m.reset()
	}
	time.Sleep(wait)
	var gaps []float64
	for _, m := range meters {
		dials, writes := m.reset()
		t.Logf("measured: %d connections tried and %d writes by one client in %v", len(dials), writes, wait)
		if most := s.Attempts * int(wait/time.Second); len(dials)+writes > most {
			t.Errorf("%d connections tried and %d writes in %v, at most %d are right", len(dials), writes, wait, most)
		}
		for i := 1; i < len(dials); i++ {
			gaps = append(gaps, dials[i].Sub(dials[i-1]).Seconds())
		}
	}
	if v := variation(gaps); len(gaps) > 0 && v < 0.05 {
		t.Errorf("attempts come in step: their distances vary by %.3f: %v", v, gaps)
	}
	if err := errors.Join(member.Start(), s.cluster.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	rev, err := s.client(t, "down", s.near).Txn(t.Context(), put("back", ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range idle {
		f.reaches(t, rev, since, heal)
	}
}

// variation is the standard deviation over the mean.
func variation(x []float64) float64 {
	var sum, squares float64
	for _, v := range x {
		sum += v
	}
	mean := sum / float64(len(x))
	for _, v := range x {
		squares += (v - mean) * (v - mean)
	}
	return math.Sqrt(squares/float64(len(x))) / mean
}

// forgotten cuts a watch off, changes much, and forgets how that came about: it is told the exact difference.
func forgotten(t *testing.T, s *site) {
	host := s.host(t)
	far := s.client(t, "forgotten", dialFrom(host))
	here := s.client(t, "forgotten", s.near)
	write := func(ops ...store.Op) store.Rev {
		rev, err := here.Txn(t.Context(), store.Txn{Then: ops})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	write(store.Put(key("stays"), nil), store.Put(key("goes"), nil), store.Put(key("changes"), nil))
	f := newFollower(t, "far", far)
	heals := cut(t, host, reject)
	write(store.Put(key("came and went"), nil))
	write(store.Put(key("changes"), []byte("once")))
	write(store.Del(key("goes")), store.Del(key("came and went")))
	last := write(store.Put(key("changes"), []byte("twice")), store.Put(key("new"), nil))
	s.Compact(t, s.cluster, here)
	heals()
	since := time.Now()
	t.Logf("measured: %s: exact after %v", t.Name(), f.reaches(t, last, since, heal))
	l, err := here.List(t.Context(), store.Meta)
	if err != nil {
		t.Fatal(err)
	}
	f.exact(t, l, nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	var puts []string
	for _, e := range f.last.Puts {
		puts = append(puts, e.Key.Name)
	}
	if b := f.last; !b.Resync || f.batches != 2 || !slices.Equal(puts, []string{"changes", "new"}) || !slices.Equal(b.Dels, []store.Key{key("goes")}) {
		t.Errorf("in %d batches: %+v, want just the difference", f.batches-1, b)
	}
}
