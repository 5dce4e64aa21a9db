package etcd_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"weft/store"
	"weft/store/etcd"
	"weft/store/storetest"
	"weft/store/storetest/server"
)

// The servers are started once for the package.
var single, three *server.Cluster

func TestMain(m *testing.M) { os.Exit(server.Main(m, server.Etcd, 8, &single, &three, nil)) }

func client(t *testing.T, c *server.Cluster, prefix string) store.Store {
	t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: c.Endpoints(), Prefix: prefix, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]*server.Cluster{"one node": single, "three nodes": three} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, storetest.World{
				Floor:  2 * time.Second,
				Client: func(t *testing.T, prefix string) store.Store { return client(t, c, prefix) },
				Compact: func(t *testing.T) {
					if err := c.CompactEtcd(context.Background()); err != nil {
						t.Error(err)
					}
				},
			})
		})
	}
}

var txn = store.Txn{Then: []store.Op{store.Put(store.Key{Partition: store.Meta, Name: "k"}, []byte("v"))}}

func TestAServerThatIsNotThereIsUnreachableSoon(t *testing.T) {
	s, err := etcd.New(etcd.Config{Endpoints: []string{"127.0.0.1:1"}, Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if _, err := s.Txn(ctx, txn); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("transaction: %v, want unreachable: nothing was sent", err)
	}
	if _, err := s.Status(ctx); !errors.Is(err, store.ErrUnreachable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("status: %v", err)
	}
}

func own(t *testing.T, size int) *server.Cluster {
	t.Helper()
	c, err := server.Start(t.Context(), server.Options{Size: size, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	return c
}

func next(t *testing.T, w <-chan store.Batch) store.Batch {
	t.Helper()
	select {
	case b := <-w:
		return b
	case <-time.After(15 * time.Second):
		t.Fatal("nothing came")
	}
	return store.Batch{}
}
