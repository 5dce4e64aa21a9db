package consul_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/store"
	"weft/store/consul"
	"weft/store/storetest"
	"weft/store/storetest/server"
)

// The servers are started once for the package.
var single, three *server.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	// The tests wait for servers, and for sessions of Consul's floor, more than they compute.
	if err := flag.Set("test.parallel", "24"); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "weft-consul-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	code := withServers(m, dir)
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// withServers runs the tests. The servers stop before leaks are looked for: with them end the connections of the tests' plain clients.
func withServers(m *testing.M, dir string) int {
	defer func() { _ = stopSecure() }()
	for size, c := range map[int]**server.Cluster{1: &single, 3: &three} {
		d, err := os.MkdirTemp(dir, "c")
		if err != nil {
			panic(err)
		}
		if *c, err = server.Start(context.Background(), server.Options{Kind: server.Consul, Size: size, Dir: d}); err != nil {
			panic(err)
		}
		defer func() { _ = (*c).Stop() }()
	}
	return m.Run()
}

func client(t testing.TB, c *server.Cluster, prefix string) store.Store {
	t.Helper()
	return with(t, consul.Config{Endpoints: c.Endpoints(), Prefix: prefix})
}

func with(t testing.TB, cfg consul.Config) store.Store {
	t.Helper()
	s, err := consul.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]*server.Cluster{"one node": single, "three nodes": three} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The journal is trimmed in whatever prefix the test writes.
			var mu sync.Mutex
			clients := map[string]store.Store{}
			storetest.Run(t, storetest.World{
				Floor: 10 * time.Second,
				Client: func(t *testing.T, prefix string) store.Store {
					s := client(t, c, prefix)
					mu.Lock()
					defer mu.Unlock()
					clients[prefix] = s
					return s
				},
				Compact: func(t *testing.T) {
					mu.Lock()
					defer mu.Unlock()
					for prefix := range clients {
						s := client(t, c, prefix)
						if err := consul.Forget(context.Background(), s, store.Meta); err != nil {
							t.Error(err)
						}
					}
				},
			})
		})
	}
}

func key(name string) store.Key { return store.Key{Partition: store.Meta, Name: name} }

var txn = store.Txn{Then: []store.Op{store.Put(key("k"), []byte("v"))}}

func next(t testing.TB, w <-chan store.Batch) store.Batch {
	t.Helper()
	select {
	case b := <-w:
		return b
	case <-time.After(15 * time.Second):
		t.Fatal("nothing came")
	}
	return store.Batch{}
}

func TestAServerThatIsNotThereIsUnreachableSoon(t *testing.T) {
	t.Parallel()
	s := with(t, consul.Config{Endpoints: []string{"127.0.0.1:1"}, Prefix: "p"})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if _, err := s.Txn(ctx, txn); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("transaction: %v, want unreachable: nothing was sent", err)
	}
	if _, err := s.Status(ctx); !errors.Is(err, store.ErrUnreachable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("status: %v", err)
	}
}
