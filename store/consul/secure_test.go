package consul_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
	"weft/store/consul"
	"weft/store/storetest/server"
)

var guarded struct {
	sync.Once
	c   *server.Cluster
	dir string
	err error
}

// secure is a cluster that wants TLS with client certificates, and tokens. It is started at the first use.
func secure(t testing.TB) *server.Cluster {
	t.Helper()
	guarded.Do(func() {
		if guarded.dir, guarded.err = os.MkdirTemp("", "weft-consul-secure-"); guarded.err == nil {
			guarded.c, guarded.err = server.Start(context.Background(), server.Options{Kind: server.Consul, Dir: guarded.dir, Secure: true})
		}
	})
	if guarded.err != nil {
		t.Fatal(guarded.err)
	}
	return guarded.c
}

func stopSecure() error {
	if guarded.c == nil {
		return nil
	}
	return errors.Join(guarded.c.Stop(), os.RemoveAll(guarded.dir))
}

func clientTLS(t testing.TB, c *server.Cluster) *tls.Config {
	t.Helper()
	files := c.StoreOpts()
	pair, err := tls.LoadX509KeyPair(files["kv.certfile"], files["kv.keyfile"])
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(files["kv.cacertfile"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

// token makes one with these rules.
func token(t testing.TB, c *server.Cluster, rules string) *api.ACLToken {
	t.Helper()
	admin, err := c.ConsulClient(0)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()) + fmt.Sprint(time.Now().UnixNano())
	p, _, err := admin.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{ID: p.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func always(secret string) func() (string, error) {
	return func() (string, error) { return secret, nil }
}

// leastRights are those of the package's doc, without that for the version; withoutNode are those without the node.
func leastRights(prefix string) string {
	return fmt.Sprintf("key_prefix %q { policy = \"write\" }\nsession \"weft\" { policy = \"write\" }\nnode \"weft\" { policy = \"write\" }\n", prefix+"/")
}

func withoutNode(prefix string) string {
	return fmt.Sprintf("key_prefix %q { policy = \"write\" }\nsession_prefix \"\" { policy = \"write\" }\n", prefix+"/")
}

func as(t testing.TB, c *server.Cluster, prefix string, token func() (string, error)) store.Store {
	t.Helper()
	return with(t, consul.Config{Endpoints: c.Endpoints(), Prefix: prefix, TLS: clientTLS(t, c), Token: token})
}

func TestTheLeastRightsAreEnough(t *testing.T) {
	for name, rules := range map[string]func(string) string{"with a node": leastRights, "without": withoutNode} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := strings.ReplaceAll(t.Name(), "/", "-")
			rightsAreEnough(t, prefix, rules(prefix))
		})
	}
}

func rightsAreEnough(t *testing.T, prefix, rules string) {
	c := secure(t)
	s := as(t, c, prefix, always(token(t, c, rules).SecretID))
	w := s.Watch(t.Context(), store.Meta)
	next(t, w)
	rev, err := s.Txn(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	if b := next(t, w); b.Rev != rev {
		t.Errorf("%+v", b)
	}
	if e, err := s.Get(t.Context(), key("k")); err != nil || e.Rev != rev {
		t.Errorf("%+v, %v", e, err)
	}
	if l, err := s.List(t.Context(), store.Meta); err != nil || len(l.Entries) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
	var conflict *store.ConflictError
	if _, err := s.Txn(t.Context(), store.Txn{If: []store.Cond{{Key: key("k"), Rev: store.Absent}}, Then: txn.Then}); !errors.As(err, &conflict) || conflict.Have != rev {
		t.Errorf("%v, want a conflict", err)
	}
	x, err := s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}})
	if err != nil {
		t.Fatal(err)
	}
	x.Leave()
	if x, err = s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}, Resume: x.ID()}); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := consul.Forget(t.Context(), s, store.Meta); err != nil {
		t.Errorf("trim: %v", err)
	}
	st, err := s.Status(t.Context())
	if err != nil || st.ClusterID == "" || st.Rev < rev || st.Leader == "" || st.Version != "" {
		t.Errorf("%+v, %v", st, err)
	}
	more := as(t, c, prefix, always(token(t, c, rules+"agent_prefix \"\" { policy = \"read\" }").SecretID))
	if st, err := more.Status(t.Context()); err != nil || st.Version == "" {
		t.Errorf("with the right to read the agent: %+v, %v", st, err)
	}
}

// Who may not do a thing is told so, and is never told that nothing is there.
func TestRefusals(t *testing.T) {
	t.Parallel()
	c := secure(t)
	owner := as(t, c, "refusals", always(server.Token))
	rev, err := owner.Txn(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	const secret = "5ec4e700-0000-4000-8000-000000000001"
	reader := token(t, c, "key_prefix \"refusals/\" { policy = \"read\" }").SecretID
	for name, tc := range map[string]struct {
		token func() (string, error)
		reads bool
	}{
		"no token":                     {nil, false},
		"a token that nobody knows":    {always(secret), false},
		"a token without rights":       {always(token(t, c, "key_prefix \"other/\" { policy = \"write\" }").SecretID), false},
		"a token that may read":        {always(reader), true},
		"a token that cannot be read":  {func() (string, error) { return "", os.ErrNotExist }, false},
		"a token of another key's end": {always(token(t, c, "key_prefix \"refusals-\" { policy = \"write\" }").SecretID), false},
	} {
		t.Run(name, func(t *testing.T) {
			s := as(t, c, "refusals", tc.token)
			check := func(what string, err error, may bool) {
				t.Helper()
				switch {
				case may && err != nil:
					t.Errorf("%s: %v", what, err)
				case !may && (!errors.Is(err, store.ErrRefused) || errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrUnreachable)):
					t.Errorf("%s: %v, want refused", what, err)
				case err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), reader)):
					t.Errorf("%s: the token is in %q", what, err)
				}
			}
			e, err := s.Get(t.Context(), key("k"))
			check("get", err, tc.reads)
			if tc.reads && e.Rev != rev {
				t.Errorf("get: %+v", e)
			}
			_, err = s.Get(t.Context(), key("not there"))
			if tc.reads && errors.Is(err, store.ErrNotFound) {
				err = nil
			}
			check("get what is not there", err, tc.reads)
			l, err := s.List(t.Context(), store.Meta)
			check("list", err, tc.reads)
			if tc.reads && len(l.Entries) != 1 {
				t.Errorf("list: %+v", l)
			}
			ps, err := s.(store.Partitioner).Partitions(t.Context())
			check("partitions", err, tc.reads)
			if tc.reads && len(ps) != 1 {
				t.Errorf("partitions: %q", ps)
			}
			_, err = s.Status(t.Context())
			check("status", err, tc.reads)
			_, err = s.Txn(t.Context(), txn)
			check("transaction", err, false)
			_, err = s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}})
			check("session", err, false)
			watchBegins(t, s, tc.reads)
		})
	}
}

// watchBegins checks that a watch tells of the one key that there is, or nothing.
func watchBegins(t *testing.T, s store.Store, may bool) {
	t.Helper()
	w := s.Watch(t.Context(), store.Meta)
	if may {
		if b := next(t, w); len(b.Puts) != 1 {
			t.Errorf("watch: %+v", b)
		}
		return
	}
	select {
	case b := <-w:
		t.Errorf("watch: %+v", b)
	case <-time.After(300 * time.Millisecond):
	}
}

// A token is deleted and another one is in its file: calls, watches and sessions go on.
func TestATokenIsRotated(t *testing.T) {
	t.Parallel()
	c := secure(t)
	admin, err := c.ConsulClient(0)
	if err != nil {
		t.Fatal(err)
	}
	var now atomic.Pointer[api.ACLToken]
	var asked atomic.Int64
	now.Store(token(t, c, leastRights("rotated")))
	s := as(t, c, "rotated", func() (string, error) { asked.Add(1); return now.Load().SecretID, nil })
	w := s.Watch(t.Context(), store.Meta)
	next(t, w)
	x, err := s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}, Every: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		old := now.Swap(token(t, c, leastRights("rotated")))
		if _, err := admin.ACL().TokenDelete(old.AccessorID, nil); err != nil {
			t.Fatal(err)
		}
		rev, err := s.Txn(t.Context(), store.Txn{If: []store.Cond{x.Alive()}, Then: txn.Then})
		if err != nil {
			t.Fatal(err)
		}
		if b := next(t, w); b.Rev != rev || b.Resync {
			t.Errorf("%+v, want revision %d", b, rev)
		}
	}
	if n := asked.Load(); n < 3 || n > 20 {
		t.Errorf("the token was asked for %d times", n)
	}
	if err := x.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is wrong with a connection is said, and a write over it was surely not applied.
func TestTLSThatDoesNotFit(t *testing.T) {
	t.Parallel()
	c := secure(t)
	good := clientTLS(t, c)
	noCert, noCA := good.Clone(), good.Clone()
	noCert.Certificates, noCA.RootCAs = nil, x509.NewCertPool()
	otherName := good.Clone()
	otherName.ServerName = "elsewhere.example"
	for name, tc := range map[string]struct {
		tls       *tls.Config
		endpoints []string
		want      error
		text      string
	}{
		"no client certificate": {noCert, c.Endpoints(), store.ErrRefused, "certificate"},
		"another authority":     {noCA, c.Endpoints(), store.ErrUnreachable, "unknown authority"},
		"another name":          {otherName, c.Endpoints(), store.ErrUnreachable, "elsewhere.example"},
		"in clear":              {nil, c.Endpoints(), store.ErrRefused, "HTTPS"},
		"TLS to one in clear":   {good, single.Endpoints(), store.ErrUnreachable, "TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			s := with(t, consul.Config{Endpoints: tc.endpoints, Prefix: "tls", TLS: tc.tls, Token: always(server.Token)})
			_, err := s.Txn(t.Context(), txn)
			if !errors.Is(err, tc.want) || errors.Is(err, store.ErrUnknown) || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), server.Token) {
				t.Errorf("got %v, want %v that says %q", err, tc.want, tc.text)
			}
			if _, err := s.Status(t.Context()); !errors.Is(err, tc.want) {
				t.Errorf("status: %v", err)
			}
		})
	}
	named := good.Clone()
	named.ServerName = server.ServerName
	if _, err := with(t, consul.Config{Endpoints: c.Endpoints(), Prefix: "tls", TLS: named, Token: always(server.Token)}).Txn(t.Context(), txn); err != nil {
		t.Errorf("with the server's name: %v", err)
	}
}

// teapot is a server that is not Consul.
func teapot(t *testing.T) []string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	t.Cleanup(srv.Close)
	return []string{srv.Listener.(*net.TCPListener).Addr().String()}
}
