package zk_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/storetest"
	"weft/store/storetest/server"
	"weft/store/zk"
)

// The servers are started once for the package.
var single, three *server.Cluster

func TestMain(m *testing.M) { os.Exit(server.Main(m, server.ZooKeeper, 8, &single, &three, nil)) }

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
