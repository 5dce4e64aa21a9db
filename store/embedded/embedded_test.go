package embedded_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"weft/store"
	"weft/store/embedded"
	"weft/store/etcd"
	"weft/store/storetest"
)

func start(t *testing.T, dir string) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func client(t *testing.T, srv *embedded.Server, prefix string) store.Store {
	t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: []string{srv.Endpoint()}, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	srv := start(t, t.TempDir())
	storetest.Run(t, storetest.World{
		Floor:  2 * time.Second,
		Client: func(t *testing.T, prefix string) store.Store { return client(t, srv, prefix) },
		Compact: func(t *testing.T) {
			cli, err := clientv3.New(clientv3.Config{Endpoints: []string{srv.Endpoint()}, Logger: zap.NewNop()})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = cli.Close() }()
			r, err := cli.Get(context.Background(), "x")
			if err == nil {
				_, err = cli.Compact(context.Background(), r.Header.Revision)
			}
			if err != nil && !strings.Contains(err.Error(), "compacted") {
				t.Error(err)
			}
		},
	})
}

func TestDataOutliveTheServer(t *testing.T) {
	dir := t.TempDir()
	srv := start(t, dir)
	k := store.Key{Partition: store.Meta, Name: "k"}
	rev, err := client(t, srv, "p").Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(k, []byte("v"))}})
	if err != nil {
		t.Fatal(err)
	}
	srv.Close()
	e, err := client(t, start(t, dir), "p").Get(t.Context(), k)
	if err != nil || string(e.Value) != "v" || e.Rev != rev {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestAnAddressInUseIsNamed(t *testing.T) {
	srv := start(t, t.TempDir())
	var log bytes.Buffer
	_, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: srv.Endpoint(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err == nil || !strings.Contains(err.Error(), srv.Endpoint()) {
		t.Errorf("got %v", err)
	}
}
