package embedded_test

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/identity"
	"weft/store"
	"weft/store/embedded"
	"weft/store/etcd"
)

// Given hosts that use the store, when one of them is not admitted any more, then its calls are refused with the reason, and its watches hear nothing
// of what is written from then on; the others, and this host's agent, do not notice.
func TestAHostThatIsAdmittedNoMore(t *testing.T) {
	t.Parallel()
	auth := authority(t)
	own, good, bad := joined(t, auth, "h1"), joined(t, auth, "h2"), joined(t, auth, "h3")
	var removed atomic.Bool
	f, others := own.Files(), freePort(t)
	srv, err := embedded.Start(t.Context(), embedded.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
		Others: &embedded.Others{Listen: others, CAFile: f.CA, CertFile: f.Cert, KeyFile: f.Key, Admit: func(_ net.Addr, c *x509.Certificate) error {
			if n, err := identity.NamedBy(c); removed.Load() && (err != nil || n.ID == "h3") {
				return status.Error(codes.PermissionDenied, "it was removed")
			}
			return nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	open := func(k *identity.Keeper) store.Store {
		s, err := etcd.New(etcd.Config{Endpoints: []string{"https://" + others}, Prefix: "p", TLS: k.ClientTLS(identity.Host{})})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	loopback, theirs, its := client(t, srv, "p"), open(good), open(bad)
	k := store.Key{Partition: store.Meta, Name: "k"}
	put := func(s store.Store) error {
		_, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(k, []byte("v"))}})
		return err
	}
	if err := errors.Join(put(loopback), put(theirs), put(its)); err != nil {
		t.Fatal(err)
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + others}, TLS: bad.ClientTLS(identity.Host{}), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	ctx := clientv3.WithRequireLeader(t.Context())
	watch := cli.Watch(ctx, "p/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := <-watch; !r.Created {
		t.Fatalf("the watch begins with %+v", r)
	}

	removed.Store(true)
	if err := put(its); !errors.Is(err, store.ErrRefused) || !strings.Contains(err.Error(), "it was removed") {
		t.Errorf("it writes: %v", err)
	}
	if err := errors.Join(put(loopback), put(theirs)); err != nil {
		t.Error(err)
	}
	_ = cli.RequestProgress(ctx) // which is refused, and ends the watch
	for r := range watch {
		if len(r.Events) > 0 {
			t.Errorf("it still hears of %v", r.Events)
		}
	}
}
