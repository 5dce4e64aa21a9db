package zk_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/storetest/server"
	"weft/store/zk"
)

func clientTLS(t *testing.T, opts map[string]string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(opts["kv.certfile"], opts["kv.keyfile"])
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(opts["kv.cacertfile"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

// secret is a password that can be changed, as a file can.
type secret struct {
	mu    sync.Mutex
	value string
}

func (s *secret) set(v string) { s.mu.Lock(); s.value = v; s.mu.Unlock() }
func (s *secret) get() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value, nil
}

// logged is a log that several goroutines write.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// secure is a cluster with TLS and a user, and a log that its clients write.
type secure struct {
	c   *server.Cluster
	log logged
}

func (x *secure) open(t *testing.T, conf *tls.Config, password *secret) store.Store {
	t.Helper()
	s, err := zk.New(zk.Config{
		Endpoints: x.c.Endpoints(), Prefix: "a/b", TLS: conf, User: server.User, Password: password.get,
		Log: slog.New(slog.NewTextHandler(&x.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestASecureServer(t *testing.T) {
	t.Parallel()
	c, err := server.Start(t.Context(), server.Options{Kind: server.ZooKeeper, Dir: t.TempDir(), Secure: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	x := &secure{c: c}
	known := clientTLS(t, c.StoreOpts())
	t.Run("a client with all that it takes", func(t *testing.T) { x.works(t, x.open(t, known, &secret{value: server.Password})) })
	t.Run("a client without", func(t *testing.T) { x.refuses(t, known) })
	if text := x.log.String(); strings.Contains(text, mark) || !strings.Contains(text, "connected") {
		t.Errorf("a secret was logged, or nothing: %s", text)
	}
}

// mark is in all passwords here.
const mark = "nobody-must-see"

func (x *secure) works(t *testing.T, s store.Store) {
	rev := put(t, s, key("k"), "v")
	if b := next(t, s.Watch(t.Context(), store.Meta)); b.Rev != rev {
		t.Errorf("%+v", b)
	}
	if st, err := s.Status(t.Context()); err != nil || !strings.HasPrefix(st.Version, "3.") || st.Leader != x.c.Members[0].Endpoint {
		t.Errorf("%+v, %v", st, err)
	}
	old := session(t, s, "host", "")
	old.Leave()
	if y := session(t, s, "host", old.ID()); y.ID() != old.ID() {
		t.Error("the session was not taken over")
	} else if err := y.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for path, acls := range acls(t, bare(t, x.c), "/a") {
		if len(acls) != 1 || acls[0].Scheme != "digest" || !strings.HasPrefix(acls[0].ID, server.User+":") {
			t.Errorf("%s may be used by %+v", path, acls)
		}
	}
}

func (x *secure) refuses(t *testing.T, known *tls.Config) {
	unknown := known.Clone()
	unknown.Certificates = nil
	password := &secret{value: "another-password-that-" + mark}
	impostor := x.open(t, known, password)
	for name, s := range map[string]store.Store{"no certificate": x.open(t, unknown, &secret{value: server.Password}), "wrong password": impostor} {
		_, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(key("k"), nil)}})
		_, err2 := s.Get(t.Context(), key("k"))
		_, err3 := s.OpenSession(t.Context(), store.SessionConfig{Key: host("other"), TTL: 2 * time.Second})
		for call, err := range map[string]error{"transaction": err, "get": err2, "session": err3} {
			if !errors.Is(err, store.ErrRefused) || strings.Contains(err.Error(), mark) {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
	}
	password.set(server.Password)
	eventually(t, "the right password is not used", func() bool {
		_, err := impostor.Get(t.Context(), key("k"))
		return err == nil
	})
}
