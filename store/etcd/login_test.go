package etcd_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft/store"
	"weft/store/etcd"
	"weft/store/storetest/server"
)

// secret is a password that its file may change.
type secret struct{ now atomic.Value }

func newSecret(s string) *secret {
	x := &secret{}
	x.now.Store(s)
	return x
}

func (s *secret) get() (string, error) { return s.now.Load().(string), nil }

func as(t *testing.T, c *server.Cluster, user string, password *secret) store.Store {
	t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: c.Endpoints(), Prefix: "p", User: user, Password: password.get})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// logins is how often a server was asked to check a password since it was started.
func logins(t *testing.T, c *server.Cluster) (n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Members[0].Endpoint+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = r.Body.Close() }()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if l := lines.Text(); strings.HasPrefix(l, "grpc_server_started_total{") && strings.Contains(l, `grpc_method="Authenticate"`) {
			if _, err := fmt.Sscanf(l[strings.LastIndex(l, " "):], "%d", &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// A login serves all calls, watches and renewals; after the server has lost its tokens there is one more.
func TestAUserLogsInOnce(t *testing.T) {
	t.Parallel()
	c := own(t, 1)
	withPassword(t, c)
	before := logins(t, c)
	s := as(t, c, "root", newSecret("secret"))
	w := s.Watch(t.Context(), store.Meta)
	x, err := s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}, TTL: 3 * time.Second, Every: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 2*time.Second; time.Sleep(100 * time.Millisecond) { // some renewals, each a stream
		rev := eventually(t, s)
		for b := next(t, w); b.Rev < rev; b = next(t, w) {
		}
	}
	if n := logins(t, c) - before; n != 1 {
		t.Errorf("%d logins, want one", n)
	}
	if err := errors.Join(c.Members[0].Kill(), c.Members[0].Start()); err != nil {
		t.Fatal(err)
	}
	rev := eventually(t, s)
	for b := next(t, w); b.Rev < rev; b = next(t, w) {
	}
	late := s.Watch(t.Context(), store.Meta)
	rev = eventually(t, s)
	for b := next(t, late); b.Rev < rev; b = next(t, late) {
	}
	if n := logins(t, c); n == 0 || n > 3 {
		t.Errorf("%d logins after a restart, want one, or a few", n)
	}
	if err := x.Close(t.Context()); err != nil {
		t.Errorf("end the session: %v", err)
	}
}

// A wrong password is refused at once, again and again, and the server is hardly troubled; the right one is taken as soon as it is there.
func TestAWrongPasswordIsNoStorm(t *testing.T) {
	t.Parallel()
	c := own(t, 1)
	withPassword(t, c)
	before := logins(t, c)
	password := newSecret("wrong")
	s := as(t, c, "root", password)
	w := s.Watch(t.Context(), store.Meta)
	calls := 0
	for begin := time.Now(); time.Since(begin) < 4*time.Second; calls++ {
		if _, err := s.Txn(t.Context(), txn); !errors.Is(err, store.ErrRefused) {
			t.Fatalf("call %d: %v", calls, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if n := logins(t, c) - before; n == 0 || n > 8 || calls < 3*n {
		t.Errorf("%d logins for %d calls", n, calls)
	}
	password.now.Store("secret")
	if _, err := s.Txn(t.Context(), txn); err != nil {
		t.Errorf("with the right one: %v", err)
	}
	for b := next(t, w); len(b.Puts) == 0; b = next(t, w) {
	}
}

// A user is named, and the server wants none yet; then it does.
func TestAuthenticationIsTurnedOn(t *testing.T) {
	t.Parallel()
	c := own(t, 1)
	s := as(t, c, "root", newSecret("secret"))
	w := s.Watch(t.Context(), store.Meta)
	eventually(t, s)
	withPassword(t, c)
	rev := eventually(t, s)
	for b := next(t, w); b.Rev < rev; b = next(t, w) {
	}
	late := s.Watch(t.Context(), store.Meta)
	for b := next(t, late); len(b.Puts) == 0; b = next(t, late) {
	}
}

// A server that stands still is given up in time, and nothing was done there.
func TestNobodyLogsInToAServerThatStandsStill(t *testing.T) {
	t.Parallel()
	c := own(t, 1)
	withPassword(t, c)
	s := as(t, c, "root", newSecret("secret"))
	eventually(t, s)
	if err := c.Members[0].Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Members[0].Resume(); err != nil {
			t.Error(err)
		}
	}()
	fresh := as(t, c, "root", newSecret("secret"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	begin := time.Now()
	if _, err := fresh.Txn(ctx, txn); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("to a server that stands still: %v, want it unreachable", err)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
}

// A server that was told to speak no TLS only ends such connections.
func TestAServerWithoutTLS(t *testing.T) {
	t.Parallel()
	s, err := etcd.New(etcd.Config{Endpoints: own(t, 1).Endpoints(), Prefix: "p", TLS: &tls.Config{MinVersion: tls.VersionTLS12}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, err := s.Txn(t.Context(), txn); !errors.Is(err, store.ErrUnreachable) || !strings.Contains(err.Error(), "does it speak TLS?") {
		t.Errorf("%v, want it unreachable, and the question whether it speaks TLS", err)
	}
}
