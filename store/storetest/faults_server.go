package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/storetest/server"
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
	for range 2 {
		kill(t, s.cluster.Members[0])()
		s.waited(t)
		x.healed(t, time.Now())
	}
	x.settle(t, true)
	x.sessionLives(t)
}

const freeze = 6 * time.Second

func frozen(t *testing.T, s *site) {
	x := s.scene(t, "frozen")
	hosts := s.idleHosts(t, "frozen")
	m := s.cluster.Members[0]
	resume := pause(t, m)
	began := time.Now()
	hosts.reset()
	callsEnd(t, x.s, store.ErrUnknown)
	time.Sleep(time.Until(began.Add(freeze)))
	hosts.wereQuiet(t, time.Since(began))
	resume()
	since := time.Now()
	x.healed(t, since)
	hosts.follow(t, since)
	x.settle(t, true)
	x.sessionLives(t)
}

// pause freezes a member until the returned function is called, or the test ends.
func pause(t *testing.T, m *server.Member) (resume func()) {
	t.Helper()
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	resume = sync.OnceFunc(func() {
		if err := m.Resume(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(resume)
	return resume
}

// kill ends a member and returns how to start it again, which the test's end does if nobody else.
func kill(t *testing.T, m *server.Member) (start func()) {
	t.Helper()
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	start = sync.OnceFunc(func() {
		if err := m.Start(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(start)
	return start
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

func down(t *testing.T, s *site) {
	hosts := s.idleHosts(t, "down")
	start := kill(t, s.cluster.Members[0])
	began := time.Now()
	hosts.reset()
	time.Sleep(5 * time.Second)
	hosts.wereQuiet(t, time.Since(began))
	start()
	s.waited(t)
	hosts.follow(t, time.Now())
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
	t.Logf("measured: %s: exact after %v", t.Name(), f.reaches(t, last, since, heal).Round(time.Millisecond))
	agree(t, here, f)
	f.exact(t, &load{})
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
