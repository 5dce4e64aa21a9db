package zk_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	zookeeper "github.com/go-zookeeper/zk"

	"weft/store"
	"weft/store/storetest/server"
	"weft/store/zk"
)

func put(t *testing.T, s store.Store, k store.Key, v string) store.Rev {
	t.Helper()
	rev, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(k, []byte(v))}})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func next(t *testing.T, w <-chan store.Batch) store.Batch {
	t.Helper()
	select {
	case b, ok := <-w:
		if !ok {
			t.Fatal("the watch has ended")
		}
		return b
	case <-time.After(15 * time.Second):
		t.Fatal("nothing came")
	}
	return store.Batch{}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func bare(t *testing.T, c *server.Cluster) *zookeeper.Conn {
	t.Helper()
	cli, err := c.ZooKeeperClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cli.Close)
	return cli
}

func entries(t *testing.T, s *zk.Store, partition string) (have, ever int) {
	t.Helper()
	have, ever, err := s.Entries(t.Context(), partition)
	if err != nil {
		t.Fatal(err)
	}
	return have, ever
}

func TestAJournalIsTrimmedByCountAndAge(t *testing.T) {
	t.Parallel()
	s := client(t, single, t.Name())
	for i := range 10 {
		put(t, s, key("k"), fmt.Sprint(i))
	}
	for _, tc := range []struct {
		keep int
		age  time.Duration
		most int
		want int
	}{
		{20, 0, 100, 10},          // there are fewer
		{5, time.Hour, 100, 10},   // they are too young
		{5, time.Hour, 8, 8},      // and too many all the same
		{5, 0, 100, 5},            // enough and old enough
		{0, -time.Second, 100, 0}, // all
	} {
		if err := s.Trim(t.Context(), store.Meta, tc.keep, tc.age, tc.most); err != nil {
			t.Fatal(err)
		}
		if have, ever := entries(t, s, store.Meta); have != tc.want || ever != 10 {
			t.Errorf("%d of %d entries are left by %+v", have, ever, tc)
		}
	}
}

// Any writer trims what all have written: it does not matter who dies.
func TestAJournalDoesNotGrowForever(t *testing.T) {
	t.Parallel()
	const keep, writers, each = 10, 16, 40
	prefix := fmt.Sprint(t.Name(), time.Now().UnixNano()) // the servers outlive one run of the test
	var last *zk.Store
	var wg sync.WaitGroup
	for w := range writers {
		s := client(t, single, prefix)
		s.Keep(keep, 0)
		last = s
		wg.Go(func() {
			for i := range each {
				if _, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(key(fmt.Sprint(w)), fmt.Append(nil, i))}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "the journal is not trimmed", func() bool {
		have, ever := entries(t, last, store.Meta)
		return ever == writers*each && have <= keep+zk.TrimEvery
	})
}

func TestJournalsOfNetworksThatAreNoMoreAreEmptied(t *testing.T) {
	t.Parallel()
	s := client(t, single, t.Name())
	dead := store.Key{Partition: "net/dead", Name: "ep"}
	put(t, s, dead, "")
	last, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Del(dead)}})
	if err != nil {
		t.Fatal(err)
	}
	w := client(t, single, t.Name()).Watch(t.Context(), dead.Partition)
	if b := next(t, w); b.Rev != last {
		t.Errorf("%+v, want revision %d", b, last)
	}
	put(t, s, key("network"), "")
	if err := s.Sweep(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if have, _ := entries(t, s, dead.Partition); have != 2 {
		t.Errorf("%d entries after a sweep of what is an hour old", have)
	}
	if err := s.Sweep(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if have, _ := entries(t, s, dead.Partition); have != 0 {
		t.Errorf("%d entries after a sweep of all", have)
	}
	rev := put(t, s, dead, "again")
	if b := next(t, w); b.Resync || b.Rev != rev {
		t.Errorf("after the sweep: %+v, want the transaction of revision %d", b, rev)
	}
}

// A connection breaks while nothing happens, while journals are kept, and while they are trimmed.
func TestAWatchGoesOnAfterItsConnectionBroke(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ writes, forget bool }{
		"nothing happened": {}, "others wrote": {writes: true}, "others wrote and the journal is gone": {writes: true, forget: true},
		"the journal of what was delivered is gone": {forget: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, here := client(t, single, t.Name()), client(t, single, t.Name())
			put(t, here, key("a"), "1")
			put(t, here, key("b"), "1")
			w := s.Watch(t.Context(), store.Meta)
			next(t, w)
			if err := s.Break(t.Context()); err != nil {
				t.Fatal(err)
			}
			var last store.Rev
			if tc.writes {
				put(t, here, key("a"), "2")
				last = put(t, here, key("a"), "3")
			}
			if tc.forget {
				if err := here.Forget(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for rev := store.Rev(0); rev < last; {
				b := next(t, w)
				if b.Resync && !tc.forget {
					t.Errorf("no history was lost, and yet %+v", b)
				}
				if len(b.Puts) != 1 || b.Puts[0].Key != key("a") {
					t.Errorf("%+v, want just what changed", b)
				}
				rev = b.Rev
			}
			rev := put(t, here, key("end"), "")
			if b := next(t, w); b.Resync && !tc.forget || b.Rev != rev || len(b.Puts) != 1 {
				t.Errorf("the next one: %+v", b)
			}
		})
	}
}

// What an administrator does to the tree by hand is told, too.
func TestATreeThatIsDeletedUnderAWatch(t *testing.T) {
	t.Parallel()
	s, cli := client(t, single, t.Name()), bare(t, single)
	put(t, s, key("a"), "1")
	w := s.Watch(t.Context(), store.Meta)
	next(t, w)
	before, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deleteTree(t, cli, s.RootPath())
	if b := next(t, w); !b.Resync || !slices.Equal(b.Dels, []store.Key{key("a")}) {
		t.Errorf("after the tree was deleted: %+v", b)
	}
	rev := put(t, s, key("b"), "")
	for b := next(t, w); b.Rev != rev; b = next(t, w) {
		if len(b.Puts)+len(b.Dels) > 0 {
			t.Errorf("before the first write: %+v", b)
		}
	}
	after, err := s.Status(t.Context())
	if err != nil || after.ClusterID == before.ClusterID || after.ClusterID == "" {
		t.Errorf("history %q became %q, %v", before.ClusterID, after.ClusterID, err)
	}
}

func deleteTree(t *testing.T, cli *zookeeper.Conn, path string) {
	t.Helper()
	kids, _, err := cli.Children(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, kid := range kids {
		deleteTree(t, cli, path+"/"+kid)
	}
	if err := cli.Delete(path, -1); err != nil && !errors.Is(err, zookeeper.ErrNoNode) {
		t.Fatal(err)
	}
}

func TestAWatchOutlivesWhatIsScribbledOverItsJournal(t *testing.T) {
	t.Parallel()
	s, cli := client(t, single, t.Name()), bare(t, single)
	put(t, s, key("a"), "1")
	w := s.Watch(t.Context(), store.Meta)
	next(t, w)
	if _, err := cli.Set(s.HeadPath(store.Meta), []byte("what is this?"), -1); err != nil {
		t.Fatal(err)
	}
	rev := put(t, s, key("b"), "")
	for b := next(t, w); b.Rev < rev; b = next(t, w) {
		t.Logf("meanwhile: %+v", b)
	}
	l, err := s.List(t.Context(), store.Meta)
	if err != nil || len(l.Entries) != 2 {
		t.Errorf("%+v, %v", l, err)
	}
}

// A watch makes sure now and then that it was told everything.
func TestAWatchMakesSure(t *testing.T) {
	t.Parallel()
	s := client(t, single, t.Name())
	for _, k := range []store.Key{key("a"), key("b")} {
		put(t, s, k, "")
	}
	x := session(t, s, "h", "")
	for name, tc := range map[string]struct {
		partition string
		told      int64
		moved     bool
	}{
		"all was told": {store.Meta, 2, false}, "one is missing": {store.Meta, 1, true}, "nothing is there": {"net/none", 0, false},
		"all is gone": {"net/none", 3, true}, "the session was told": {store.Alive, 1, false}, "it was not": {store.Alive, 0, true},
	} {
		if moved, err := s.Moved(t.Context(), tc.partition, tc.told); err != nil || moved != tc.moved {
			t.Errorf("%s: %v, %v", name, moved, err)
		}
	}
	if err := x.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
