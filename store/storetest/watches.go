package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
	"weft/store"
)

// next receives a batch within the suite's patience.
func next(t *testing.T, c <-chan store.Batch) store.Batch {
	t.Helper()
	select {
	case b, ok := <-c:
		if !ok {
			t.Fatal("the watch has ended")
		}
		return b
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return store.Batch{}
}

func watchBeginsWithList(t *testing.T, e env) {
	e.must(t, put("a", "1"))
	rev := e.must(t, put("b", "2"))
	w := e.s.Watch(e.ctx, store.Meta)
	b := next(t, w)
	if !b.Resync || len(b.Puts) != 2 || b.Rev < rev {
		t.Fatalf("first batch %+v", b)
	}
	rev = e.must(t, store.Txn{Then: []store.Op{store.Put(key("c"), nil), store.Del(key("a")), store.Put(store.Key{Partition: "net/x", Name: "n"}, nil)}})
	b = next(t, w)
	if b.Resync || b.Rev != rev || len(b.Puts) != 1 || b.Puts[0].Key != key("c") || b.Puts[0].Rev != rev || !slices.Equal(b.Dels, []store.Key{key("a")}) {
		t.Errorf("second batch %+v", b)
	}
	empty := next(t, e.s.Watch(e.ctx, "net/never"))
	if !empty.Resync || len(empty.Puts) != 0 {
		t.Errorf("a watch of nothing began with %+v", empty)
	}
	ctx, cancel := context.WithCancel(e.ctx)
	ending := e.s.Watch(ctx, store.Meta)
	cancel()
	for range ending { // ends
	}
}

// apply checks that a batch follows from what was delivered before.
func apply(t *testing.T, have map[string]store.Entry, b store.Batch, last *store.Rev) {
	t.Helper()
	if b.Rev < *last || b.Rev == *last && !b.Resync {
		t.Fatalf("batch of revision %d after %d", b.Rev, *last)
	}
	*last = b.Rev
	for _, k := range b.Dels {
		if _, ok := have[k.Name]; !ok {
			t.Fatalf("%s was deleted twice, or never told", k)
		}
		delete(have, k.Name)
	}
	for _, p := range b.Puts {
		if have[p.Key.Name].Rev >= p.Rev {
			t.Fatalf("%s came twice", p.Key)
		}
		have[p.Key.Name] = p
	}
}

func watchIsExact(t *testing.T, e env) { e.follow(t, 300, func(int) {}) }

func watchAfterCompaction(t *testing.T, e env) {
	e.follow(t, 100, func(i int) {
		if i%25 == 0 {
			e.Compact(t)
		}
	})
}

// follow lets several writers write, one watch from the start and one that comes late, and compares what they know at the end.
func (e env) follow(t *testing.T, n int, each func(int)) {
	early := e.s.Watch(e.ctx, store.Meta)
	var wg sync.WaitGroup
	for w := range 4 {
		c := e.client(t)
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range n / 4 {
				name := fmt.Sprintf("k%d", r.IntN(20))
				op := store.Put(key(name), fmt.Appendf(nil, "%d-%d", w, i))
				if r.IntN(3) == 0 {
					op = store.Del(key(name))
				}
				if _, err := c.Txn(e.ctx, store.Txn{Then: []store.Op{op, store.Put(key(fmt.Sprintf("w%d", w)), nil)}}); err != nil {
					t.Error(err)
					return
				}
				each(i)
			}
		})
	}
	late := e.s.Watch(e.ctx, store.Meta)
	wg.Wait()
	end := e.must(t, put("end", ""))
	want, err := e.s.List(e.ctx, store.Meta)
	if err != nil {
		t.Fatal(err)
	}
	for name, w := range map[string]<-chan store.Batch{"early": early, "late": late} {
		have, last := map[string]store.Entry{}, store.Rev(0)
		for last < end {
			apply(t, have, next(t, w), &last)
		}
		if len(have) != len(want.Entries) {
			t.Errorf("%s watch knows %d keys, the list %d", name, len(have), len(want.Entries))
		}
		for _, x := range want.Entries {
			if have[x.Key.Name].Rev != x.Rev || string(have[x.Key.Name].Value) != string(x.Value) {
				t.Errorf("%s watch: %s is %+v, want %+v", name, x.Key, have[x.Key.Name], x)
			}
		}
	}
}
