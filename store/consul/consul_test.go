package consul_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/consul"
	"weft/store/storetest"
	"weft/store/storetest/server"
)

// The servers are started once for the package.
var single, three *server.Cluster

func TestMain(m *testing.M) { os.Exit(server.Main(m, server.Consul, 24, &single, &three, stopSecure)) }

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
