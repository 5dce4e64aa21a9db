// Package storetest is the conformance suite of package store: every back end passes all of it. Run takes clients of a store that is well;
// RunFaults starts servers in network namespaces of its own, and breaks them, their data and their links.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
)

// World is a back end under test. Each test gets clients of a prefix of its own.
type World struct {
	// Client returns a new client of the prefix; the test closes it.
	Client func(t *testing.T, prefix string) store.Store
	// Compact makes the back end forget its history up to now.
	Compact func(t *testing.T)
	// SingleClient is true where a prefix has one client at a time.
	SingleClient bool
	// Floor is the shortest session that the back end grants.
	Floor time.Duration
}

const patience = 15 * time.Second

// Run runs the suite. What loses history comes last and alone: the other tests may share the server, and their watches must not resync.
func Run(t *testing.T, w World) {
	t.Run("with history", func(t *testing.T) { withHistory(t, w) })
	t.Run("a watch after compaction is exact", func(t *testing.T) { w.run(t, watchAfterCompaction) })
}

func (w World) run(t *testing.T, test func(*testing.T, env)) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	t.Cleanup(cancel)
	prefix := fmt.Sprintf("t%x", rand.Uint64())
	open := w.Client
	w.Client = func(t *testing.T, prefix string) store.Store { return welcomed{open(t, prefix), t} }
	test(t, env{World: w, ctx: ctx, prefix: prefix, s: w.Client(t, prefix)})
}

func withHistory(t *testing.T, w World) {
	for name, test := range map[string]func(*testing.T, env){
		"a transaction is applied whole or refused":  txnIsAtomic,
		"every condition is honoured":                conditions,
		"limits are refused before anything":         limits,
		"odd names come back as they were":           oddNames,
		"one of many writers wins":                   race,
		"a list is of one moment":                    listIsConsistent,
		"a watch begins with the list":               watchBeginsWithList,
		"a watch misses nothing and doubles nothing": watchIsExact,
		"a session's key goes with it":               sessionCloses,
		"a session is taken over":                    sessionResumes,
		"a session that is left ends":                sessionExpires,
		"a held session is refused":                  sessionIsExclusive,
		"prefixes do not see each other":             prefixes,
		"a closed store says so":                     closed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w.run(t, test)
		})
	}
}

type env struct {
	World
	ctx    context.Context
	prefix string
	s      store.Store
}

// welcomed is a client with the right credentials: a store that is well refuses it nothing for want of them.
type welcomed struct {
	store.Store
	t *testing.T
}

func (c welcomed) check(err error) {
	if errors.Is(err, store.ErrRefused) {
		c.t.Errorf("a store that is well refuses its client: %v", err)
	}
}

func (c welcomed) Get(ctx context.Context, k store.Key) (store.Entry, error) {
	e, err := c.Store.Get(ctx, k)
	c.check(err)
	return e, err
}

func (c welcomed) List(ctx context.Context, partition string) (store.Snapshot, error) {
	l, err := c.Store.List(ctx, partition)
	c.check(err)
	return l, err
}

func (c welcomed) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	rev, err := c.Store.Txn(ctx, t)
	c.check(err)
	return rev, err
}

func (c welcomed) OpenSession(ctx context.Context, cfg store.SessionConfig) (store.Session, error) {
	s, err := c.Store.OpenSession(ctx, cfg)
	c.check(err)
	return s, err
}

func key(name string) store.Key { return store.Key{Partition: store.Meta, Name: name} }

func (e env) must(t *testing.T, txn store.Txn) store.Rev {
	t.Helper()
	rev, err := e.s.Txn(e.ctx, txn)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func put(k, v string) store.Txn { return store.Txn{Then: []store.Op{store.Put(key(k), []byte(v))}} }

func txnIsAtomic(t *testing.T, e env) {
	a := e.must(t, put("a", "1"))
	_, err := e.s.Txn(e.ctx, store.Txn{
		If:   []store.Cond{{Key: key("a"), Rev: a}, {Key: key("b"), Rev: store.Exists}},
		Then: []store.Op{store.Put(key("a"), []byte("2")), store.Put(key("c"), nil)},
	})
	var c *store.ConflictError
	if !errors.As(err, &c) || c.Key != key("b") || c.Have != store.Absent {
		t.Fatalf("got %v, want a conflict on b", err)
	}
	if got, err := e.s.Get(e.ctx, key("a")); err != nil || string(got.Value) != "1" || got.Rev != a {
		t.Errorf("a is %+v, %v after a refused transaction", got, err)
	}
	if _, err := e.s.Get(e.ctx, key("c")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("c: %v after a refused transaction", err)
	}
	rev := e.must(t, store.Txn{
		If:   []store.Cond{{Key: key("a"), Rev: a}, {Key: key("b"), Rev: store.Absent}},
		Then: []store.Op{store.Del(key("a")), store.Put(key("b"), []byte("x")), store.Del(key("never"))},
	})
	if rev <= a {
		t.Errorf("revision %d after %d", rev, a)
	}
	l, err := e.s.List(e.ctx, store.Meta)
	if err != nil || len(l.Entries) != 1 || l.Entries[0].Key != key("b") || l.Entries[0].Rev != rev || l.Rev < rev {
		t.Errorf("list %+v, %v", l, err)
	}
}

func conditions(t *testing.T, e env) {
	first := e.must(t, put("k", "1"))
	second := e.must(t, put("k", "2"))
	for name, tc := range map[string]struct {
		rev store.Rev
		ok  bool
	}{"the newest": {second, true}, "an older one": {first, false}, "absent": {store.Absent, false}, "exists": {store.Exists, true}} {
		_, err := e.s.Txn(e.ctx, store.Txn{If: []store.Cond{{Key: key("k"), Rev: tc.rev}}, Then: []store.Op{store.Put(key("other"+name), nil)}})
		var c *store.ConflictError
		if (err == nil) != tc.ok || err != nil && (!errors.As(err, &c) || c.Have != second) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Deleted and made again is not the same: no ABA.
	e.must(t, store.Txn{Then: []store.Op{store.Del(key("k"))}})
	e.must(t, put("k", "2"))
	if _, err := e.s.Txn(e.ctx, store.Txn{If: []store.Cond{{Key: key("k"), Rev: second}}, Then: []store.Op{store.Del(key("k"))}}); err == nil {
		t.Error("a key that was deleted and made again passed for the old one")
	}
	// Nor is the same value, written again: who compares the revision of before is refused.
	was := e.must(t, put("same", "v"))
	now := e.must(t, put("same", "v"))
	if got, err := e.s.Get(e.ctx, key("same")); err != nil || got.Rev != now || now <= was {
		t.Errorf("the same value written again is at %d, %v, after %d and %d", got.Rev, err, was, now)
	}
	if _, err := e.s.Txn(e.ctx, store.Txn{If: []store.Cond{{Key: key("same"), Rev: was}}, Then: []store.Op{store.Del(key("same"))}}); err == nil {
		t.Error("a value that was written again as it was passed for the old one")
	}
}

func limits(t *testing.T, e env) {
	var many store.Txn
	for i := range store.MaxOps + 1 {
		many.Then = append(many.Then, store.Put(key(fmt.Sprint(i)), nil))
	}
	for name, txn := range map[string]store.Txn{
		"too many": many,
		"too big":  {Then: []store.Op{store.Put(key("k"), make([]byte, store.MaxValue+1))}},
		"twice":    {Then: []store.Op{store.Put(key("k"), nil), store.Del(key("k"))}},
		"no name":  {Then: []store.Op{store.Put(key(""), nil)}},
		"too long": {Then: []store.Op{store.Put(key(strings.Repeat("x", store.MaxName+1)), nil)}},
	} {
		if _, err := e.s.Txn(e.ctx, txn); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := store.Txn{Then: []store.Op{store.Put(key("b"), make([]byte, store.MaxValue)), store.Put(key(strings.Repeat("y", store.MaxName)), make([]byte, store.MaxValue))}}
	e.must(t, big)
}

func oddNames(t *testing.T, e env) {
	names := []string{"a/b", "a//b", "..", ".", "a b", "ä/ö", "%2F", "a\x00b", "\xff\xfe", "name/", "/x", "A", "a"}
	var want []store.Key
	for _, n := range names {
		e.must(t, put(n, n))
		want = append(want, key(n))
	}
	if _, err := e.s.Txn(e.ctx, store.Txn{Then: []store.Op{store.Put(store.Key{Partition: "net/x", Name: "in another partition"}, nil)}}); err != nil {
		t.Fatal(err)
	}
	l, err := e.s.List(e.ctx, store.Meta)
	if err != nil {
		t.Fatal(err)
	}
	var got []store.Key
	for _, x := range l.Entries {
		got = append(got, x.Key)
		if string(x.Value) != x.Key.Name {
			t.Errorf("%q holds %q", x.Key.Name, x.Value)
		}
	}
	byName := func(a, b store.Key) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(want, byName)
	slices.SortFunc(got, byName)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func race(t *testing.T, e env) {
	const writers = 8
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range writers {
		c := e.client(t)
		wg.Go(func() {
			_, err := c.Txn(e.ctx, store.Txn{
				If:   []store.Cond{{Key: key("claim"), Rev: store.Absent}},
				Then: []store.Op{store.Put(key("claim"), []byte{byte(i)}), store.Put(key(fmt.Sprintf("by-%d", i)), nil)},
			})
			var c *store.ConflictError
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.As(err, &c) {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	l, err := e.s.List(e.ctx, store.Meta)
	if err != nil || won != 1 || len(l.Entries) != 2 {
		t.Errorf("%d winners, %d keys, %v", won, len(l.Entries), err)
	}
}

// client is another client of the same prefix, where there can be one.
func (e env) client(t *testing.T) store.Store {
	if e.SingleClient {
		return e.s
	}
	return e.Client(t, e.prefix)
}

func listIsConsistent(t *testing.T, e env) {
	ctx, cancel := context.WithCancel(e.ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	pair := func(i int) store.Txn {
		v := fmt.Appendf(nil, "%d", i)
		return store.Txn{Then: []store.Op{store.Put(key("x"), v), store.Put(key("y"), v)}}
	}
	e.must(t, pair(0))
	writer := e.client(t)
	wg.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			if _, err := writer.Txn(ctx, pair(i)); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	var last store.Rev
	for range 100 {
		l, err := e.s.List(e.ctx, store.Meta)
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Entries) != 2 || string(l.Entries[0].Value) != string(l.Entries[1].Value) || l.Rev < last {
			t.Fatalf("half a transaction, or back in time: %+v", l)
		}
		last = l.Rev
	}
}

func prefixes(t *testing.T, e env) {
	if e.SingleClient {
		return
	}
	other := e.Client(t, e.prefix+"0") // ours is its prefix, textually
	if _, err := other.Txn(e.ctx, put("theirs", "")); err != nil {
		t.Fatal(err)
	}
	l, err := e.s.List(e.ctx, store.Meta)
	if err != nil || len(l.Entries) != 0 {
		t.Errorf("%+v, %v", l, err)
	}
}

func closed(t *testing.T, e env) {
	w := e.s.Watch(e.ctx, store.Meta)
	next(t, w)
	if err := e.s.Close(); err != nil {
		t.Fatal(err)
	}
	for range w { // ends
	}
	if _, err := e.s.Txn(e.ctx, put("x", "")); !errors.Is(err, store.ErrClosed) {
		t.Errorf("transaction after Close: %v", err)
	}
	if _, err := e.s.Get(e.ctx, key("x")); !errors.Is(err, store.ErrClosed) {
		t.Errorf("get after Close: %v", err)
	}
}
