package zk_test

import (
	"errors"
	"testing"

	"weft/store"
)

// Given a transaction that read what it needed, when another client changes that meanwhile, then the next transaction of the first, which would
// go by what it remembers, meets what there is.
func TestWhatIsRememberedMayBeOutOfDate(t *testing.T) {
	k := key("k")
	put := func(v string) store.Txn { return store.Txn{Then: []store.Op{store.Put(k, []byte(v))}} }
	del := store.Txn{Then: []store.Op{store.Del(k)}}
	for name, tc := range map[string]struct {
		meanwhile []store.Txn
		gone      bool
	}{
		"nothing happened":              {},
		"written":                       {meanwhile: []store.Txn{put("b")}},
		"deleted":                       {meanwhile: []store.Txn{del}, gone: true},
		"deleted and made again":        {meanwhile: []store.Txn{del, put("a")}},
		"something else was deleted":    {meanwhile: []store.Txn{{Then: []store.Op{store.Del(key("other"))}}}},
		"deleted, made, written as was": {meanwhile: []store.Txn{del, put("a"), put("a")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := "memory/" + t.Name()
			s, other := client(t, single, prefix), client(t, single, prefix)
			apply := func(by store.Store, txn store.Txn) store.Rev {
				t.Helper()
				rev, err := by.Txn(t.Context(), txn)
				if err != nil {
					t.Fatal(err)
				}
				return rev
			}
			apply(s, store.Txn{Then: []store.Op{store.Put(key("other"), nil)}})
			rev := apply(s, put("a"))
			cond := store.Cond{Key: k, Rev: rev}
			apply(s, store.Txn{If: []store.Cond{cond}, Then: []store.Op{store.Put(key("first"), nil)}})
			if known, err := s.Remembers(t.Context(), cond); err != nil || !known {
				t.Fatalf("%v, %v: nothing was remembered, so this test says nothing", known, err)
			}
			have := rev
			for _, txn := range tc.meanwhile {
				if r := apply(other, txn); txn.Then[0].Key == k {
					have = r
				}
			}
			if tc.gone {
				have = store.Absent
			}
			_, err := s.Txn(t.Context(), store.Txn{If: []store.Cond{cond}, Then: []store.Op{store.Put(key("second"), nil)}})
			var c *store.ConflictError
			if have == rev && err != nil || have != rev && (!errors.As(err, &c) || c.Key != k || c.Have != have) {
				t.Errorf("a condition on revision %d, where it is %d now: %v", rev, have, err)
			}
			// And a put without a condition finds its key, or makes it.
			last := apply(s, put("z"))
			if e, err := other.Get(t.Context(), k); err != nil || string(e.Value) != "z" || e.Rev != last {
				t.Errorf("%+v, %v; want z at %d", e, err, last)
			}
		})
	}
}
