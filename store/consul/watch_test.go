package consul

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft/store"
)

func logged(rev store.Rev, ops ...store.Op) entry {
	return entry{position{rev, 7}, "", encode(ops)}
}

// A watch of alive stands at revision 10, and knows the keys a and b.
func TestWhatAPageTells(t *testing.T) {
	k := func(name string) store.Key { return store.Key{Partition: store.Alive, Name: name} }
	here := func(name string, rev store.Rev) store.Entry { return store.Entry{Key: k(name), Rev: rev} }
	now := time.Now()
	at, later := logged(10), now.Add(time.Second)
	both := []store.Entry{here("a", 5), here("b", 10)}
	for name, tc := range map[string]struct {
		page         page
		want         []store.Batch
		behind, lost bool
	}{
		"nothing new": {page: page{asked: later, heard: later, entries: []entry{logged(9), at}, data: both, index: 10}},
		"a transaction": {
			page: page{asked: later, heard: later, entries: []entry{at, logged(12, store.Put(k("c"), nil), store.Del(k("a")))}, data: []store.Entry{here("b", 10), here("c", 12)}, index: 12},
			want: []store.Batch{{Rev: 12, Puts: []store.Entry{here("c", 12)}, Dels: []store.Key{k("a")}}},
		},
		"two, and one of another partition": {
			page: page{asked: later, heard: later, entries: []entry{at, logged(12, store.Put(k("b"), nil)), logged(13, store.Put(store.Key{Partition: store.Meta, Name: "b"}, nil)), logged(14, store.Del(k("b")))},
				data: []store.Entry{here("a", 5)}, index: 14},
			want: []store.Batch{{Rev: 12, Puts: []store.Entry{here("b", 12)}}, {Rev: 14, Dels: []store.Key{k("b")}}},
		},
		"a delete of what is not there": {page: page{asked: later, heard: later, entries: []entry{at, logged(12, store.Del(k("never")))}, data: both, index: 12}},
		"a session that ended": {
			page: page{asked: later, heard: later, entries: []entry{at}, data: []store.Entry{here("a", 5)}, index: 15},
			want: []store.Batch{{Rev: 15, Dels: []store.Key{k("b")}}},
		},
		"one that ended after a transaction": {
			page: page{asked: later, heard: later, entries: []entry{at, logged(12, store.Put(k("c"), nil))}, data: []store.Entry{here("c", 12)}, index: 15},
			want: []store.Batch{{Rev: 12, Puts: []store.Entry{here("c", 12)}}, {Rev: 15, Dels: []store.Key{k("a"), k("b")}}},
		},
		"one whose end Consul has forgotten": {page: page{asked: later, heard: later, entries: []entry{at}, data: []store.Entry{here("a", 5)}, index: 10}, lost: true},
		"a journal that has moved on":        {page: page{asked: later, heard: later, entries: []entry{logged(40)}, data: both, index: 40}, behind: true},
		"a journal that went back":           {page: page{asked: later, heard: later, entries: []entry{logged(3)}, data: both, index: 3}, behind: true},
		"another history of the same length": {page: page{asked: later, heard: later, entries: []entry{{position{10, 8}, "", encode(nil)}}, data: both, index: 10}, behind: true},
		"a journal that was wiped":           {page: page{asked: later, heard: later}, behind: true},
		"a page from before":                 {page: page{asked: now.Add(-time.Second), heard: now.Add(-time.Second), entries: []entry{logged(9)}, data: both[:1], index: 9}},
		"asked for before, and came after":   {page: page{asked: now.Add(-time.Second), heard: later, entries: []entry{logged(40)}, data: both, index: 40}, behind: true},
		"a mixture of histories":             {page: page{asked: later, heard: later, entries: []entry{at, logged(8, store.Put(k("a"), nil))}, data: both, index: 10}, behind: true},
		"a scribble":                         {page: page{asked: later, heard: later, entries: []entry{at, {position{11, 7}, "", []byte("?")}}, data: both, index: 11}, behind: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := &watch{partition: store.Alive, known: map[string]state{"a": stateOf(here("a", 5)), "b": stateOf(here("b", 10))}, rev: 10, at: at.position, listed: now}
			w.take(&tc.page)
			if d := cmp.Diff(tc.want, w.queue, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			if w.behind != tc.behind || w.lost != tc.lost {
				t.Errorf("behind %v, lost %v", w.behind, w.lost)
			}
		})
	}
}
