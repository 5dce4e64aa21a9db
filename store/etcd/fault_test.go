package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/storetest/server"
)

func key(name string) store.Key { return store.Key{Partition: store.Meta, Name: name} }

// outcomes is what writers heard of each key that they made.
type outcomes struct {
	mu      sync.Mutex
	applied map[store.Key]store.Rev
	unknown map[store.Key]bool
	never   map[store.Key]bool // surely not applied
}

func (o *outcomes) note(t *testing.T, k store.Key, rev store.Rev, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil:
		o.applied[k] = rev
	case errors.Is(err, store.ErrUnknown):
		o.unknown[k] = true
	case errors.Is(err, store.ErrUnreachable):
		o.never[k] = true
	default:
		t.Errorf("%s: %v", k, err)
	}
}

// load lets clients write until stopped, each key once.
func load(t *testing.T, c *server.Cluster) (o *outcomes, stop func()) {
	t.Helper()
	o = &outcomes{applied: map[store.Key]store.Rev{}, unknown: map[store.Key]bool{}, never: map[store.Key]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 4 {
		s := client(t, c, "p")
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				k := key(fmt.Sprintf("load/%d-%d", w, i))
				call, done := context.WithTimeout(context.Background(), 2*time.Second)
				rev, err := s.Txn(call, store.Txn{
					If:   []store.Cond{{Key: k, Rev: store.Absent}},
					Then: []store.Op{store.Put(k, nil), store.Put(key(fmt.Sprintf("newest%d", w)), []byte(k.Name))},
				})
				done()
				o.note(t, k, rev, err)
			}
		})
	}
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return o, stop
}

// grown waits until so many more keys were acknowledged.
func (o *outcomes) grown(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.applied)
	}
	goal := count() + n
	for end := time.Now().Add(30 * time.Second); count() < goal; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d keys acknowledged, want %d", count(), goal)
		}
	}
}

// check compares what was heard with what is there.
func (o *outcomes) check(t *testing.T, l store.Snapshot) {
	t.Helper()
	there := map[store.Key]store.Rev{}
	for _, e := range l.Entries {
		if strings.HasPrefix(e.Key.Name, "load/") {
			there[e.Key] = e.Rev
		}
	}
	for k, rev := range o.applied {
		if there[k] != rev {
			t.Errorf("%s was acknowledged at %d, and is at %d", k, rev, there[k])
		}
	}
	for k := range there {
		if o.never[k] {
			t.Errorf("%s is there, and was said to be surely not applied", k)
		} else if _, ok := o.applied[k]; !ok && !o.unknown[k] {
			t.Errorf("%s is there, and nobody wrote it", k)
		}
	}
	t.Logf("%d applied, %d unknown, %d not applied", len(o.applied), len(o.unknown), len(o.never))
}

func leader(t *testing.T, c *server.Cluster) *server.Member {
	t.Helper()
	cli, err := c.EtcdClient()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cli.Close() }()
	for _, m := range c.Members {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		st, err := cli.Status(ctx, m.Endpoint)
		cancel()
		if err == nil && st.Header.MemberId == st.Leader {
			return m
		}
	}
	t.Fatal("no member leads")
	return nil
}

// Servers die under load. Nothing that was acknowledged is lost, nothing that was surely not applied is there, watches miss nothing and
// double nothing, and the session of a host that lives goes on.
func TestServersThatDieUnderLoad(t *testing.T) {
	for name, tc := range map[string]struct {
		size int
		kill func(*testing.T, *server.Cluster, *outcomes)
	}{
		"the only server, killed and started": {1, func(t *testing.T, c *server.Cluster, _ *outcomes) {
			if err := errors.Join(c.Members[0].Kill(), c.Members[0].Start()); err != nil {
				t.Fatal(err)
			}
		}},
		"the leader of three": {3, func(t *testing.T, c *server.Cluster, o *outcomes) {
			m := leader(t, c)
			if err := m.Kill(); err != nil {
				t.Fatal(err)
			}
			o.grown(t, 20) // the other two go on
			if err := m.Start(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := own(t, tc.size)
			s := client(t, c, "p")
			alive, err := s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}, TTL: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			w := s.Watch(t.Context(), store.Meta)
			seen := follow(t, w)
			o, stop := load(t, c)
			for range 2 {
				o.grown(t, 20)
				tc.kill(t, c, o)
			}
			o.grown(t, 20)
			stop()
			end := eventually(t, s)
			l, err := s.List(t.Context(), store.Meta)
			if err != nil {
				t.Fatal(err)
			}
			o.check(t, l)
			seen.matches(t, l, end)
			if _, err := s.Txn(t.Context(), store.Txn{If: []store.Cond{alive.Alive()}, Then: txn.Then}); err != nil {
				t.Errorf("the host's session: %v", err)
			}
			if err := alive.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// follower takes a watch's batches in as they come.
type follower struct {
	mu    sync.Mutex
	have  map[store.Key]store.Rev
	rev   store.Rev
	wrong []string
}

func follow(t *testing.T, w <-chan store.Batch) *follower {
	t.Helper()
	f := &follower{have: map[store.Key]store.Rev{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for b := range w {
			f.take(b)
		}
	}()
	t.Cleanup(func() { <-ended }) // the test's context has ended by then, and with it the watch
	return f
}

func (f *follower) take(b store.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.Rev <= f.rev && !b.Resync {
		f.wrong = append(f.wrong, fmt.Sprintf("batch of revision %d after %d", b.Rev, f.rev))
	}
	f.rev = b.Rev
	for _, k := range b.Dels {
		if _, ok := f.have[k]; !ok {
			f.wrong = append(f.wrong, k.String()+" was deleted and never told")
		}
		delete(f.have, k)
	}
	for _, e := range b.Puts {
		if f.have[e.Key] >= e.Rev {
			f.wrong = append(f.wrong, e.Key.String()+" came twice")
		}
		f.have[e.Key] = e.Rev
	}
}

func (f *follower) matches(t *testing.T, l store.Snapshot, rev store.Rev) {
	t.Helper()
	at := func() store.Rev {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.rev
	}
	for end := time.Now().Add(30 * time.Second); at() < rev; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the watch is at %d, the store at %d", at(), rev)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, what := range f.wrong {
		t.Error(what)
	}
	if len(f.have) != len(l.Entries) {
		t.Errorf("the watch knows %d keys, the list %d", len(f.have), len(l.Entries))
	}
	for _, e := range l.Entries {
		if f.have[e.Key] != e.Rev {
			t.Errorf("the watch has %s at %d, the list at %d", e.Key, f.have[e.Key], e.Rev)
		}
	}
}

// Two of three are dead: nothing is applied, nothing is read that may be old, nothing hangs, and all goes on when they are back.
func TestWithoutAQuorumNothingIsSaidToBeTrue(t *testing.T) {
	t.Parallel()
	c := own(t, 3)
	s := client(t, c, "p")
	before, err := s.Txn(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	w := s.Watch(t.Context(), store.Meta)
	next(t, w)
	if err := errors.Join(c.Members[0].Kill(), c.Members[1].Kill()); err != nil {
		t.Fatal(err)
	}
	claim := store.Txn{If: []store.Cond{{Key: key("claim"), Rev: store.Absent}}, Then: []store.Op{store.Put(key("claim"), nil)}}
	for what, call := range map[string]func(context.Context) error{
		"transaction": func(ctx context.Context) error { _, err := s.Txn(ctx, claim); return err },
		"get":         func(ctx context.Context) error { _, err := s.Get(ctx, key("k")); return err },
		"list":        func(ctx context.Context) error { _, err := s.List(ctx, store.Meta); return err },
		"status":      func(ctx context.Context) error { _, err := s.Status(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		begin := time.Now()
		err := call(ctx)
		cancel()
		if !errors.Is(err, store.ErrUnreachable) && !errors.Is(err, store.ErrUnknown) {
			t.Errorf("%s: %v", what, err)
		}
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("%s took %v although its context had a second", what, d)
		}
	}
	if err := errors.Join(c.Members[0].Start(), c.Members[1].Start()); err != nil {
		t.Fatal(err)
	}
	rev := eventually(t, s)
	if rev <= before {
		t.Errorf("revision %d after %d", rev, before)
	}
	for b := next(t, w); b.Rev < rev; b = next(t, w) {
		if b.Resync {
			t.Errorf("history was not lost, and yet: %+v", b)
		}
	}
}
