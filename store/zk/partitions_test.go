package zk_test

import (
	"slices"
	"testing"

	"weft/store"
)

// Given partitions with odd names, one of which has lost its keys, then exactly those with keys are found.
func TestPartitionsWithKeysAreFound(t *testing.T) {
	t.Parallel()
	s := client(t, single, "partitions")
	if got, err := s.Partitions(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("in an empty store: %q, %v", got, err)
	}
	want := []string{"a b", "meta", "net/x", "net/y", "net%2Fx", "..", "ä"}
	for _, p := range append(want, "net/emptied") {
		for _, n := range []string{"1", "z/\xff"} {
			if _, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(store.Key{Partition: p, Name: n}, nil)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, n := range []string{"1", "z/\xff"} {
		if _, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Del(store.Key{Partition: "net/emptied", Name: n})}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Partitions(t.Context())
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("partitions %q, %v, want %q", got, err, want)
	}
}
