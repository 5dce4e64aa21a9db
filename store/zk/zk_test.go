package zk_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/store"
	"weft/store/storetest"
	"weft/store/storetest/server"
	"weft/store/zk"
)

// The servers are started once for the package.
var single, three *server.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	// The tests wait for servers more than they compute.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "weft-zk-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for size, c := range map[int]**server.Cluster{1: &single, 3: &three} {
		d, err := os.MkdirTemp(dir, "c")
		if err != nil {
			panic(err)
		}
		if *c, err = server.Start(context.Background(), server.Options{Kind: server.ZooKeeper, Size: size, Dir: d}); err != nil {
			panic(err)
		}
		defer func() { _ = (*c).Stop() }()
	}
	code := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

func client(t testing.TB, c *server.Cluster, prefix string) *zk.Store {
	t.Helper()
	s, err := zk.New(zk.Config{Endpoints: c.Endpoints(), Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*zk.Store)
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]*server.Cluster{"one node": single, "three nodes": three} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var newest *zk.Store // of whichever test came last: those that compact run alone
			storetest.Run(t, storetest.World{
				Floor: 2 * time.Second,
				Client: func(t *testing.T, prefix string) store.Store {
					mu.Lock()
					defer mu.Unlock()
					newest = client(t, c, prefix)
					return newest
				},
				Compact: func(t *testing.T) {
					mu.Lock()
					s := newest
					mu.Unlock()
					if err := s.Forget(context.Background()); err != nil {
						t.Error(err)
					}
				},
			})
		})
	}
}

func key(name string) store.Key { return store.Key{Partition: store.Meta, Name: name} }
