package etcd_test

import (
	"slices"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/store"
)

// Given partitions with odd names, and keys beside them that no store has written, then exactly the partitions are found.
func TestPartitionsAreFoundWhateverStandsBesideThem(t *testing.T) {
	s := client(t, single, "partitions")
	want := []string{"a b", "meta", "net/x", "net/y", "net%2Fx"}
	for _, p := range want {
		for _, n := range []string{"1", "z/\xff"} {
			if _, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(store.Key{Partition: p, Name: n}, nil)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	raw, err := clientv3.New(clientv3.Config{Endpoints: single.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	for _, k := range []string{"partitions/loose", "partitions/a b/unescaped", "partitions2/x/y", "partitions"} {
		if _, err := raw.Put(t.Context(), k, "x"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.(store.Partitioner).Partitions(t.Context())
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("partitions %q, %v, want %q", got, err, want)
	}
}
