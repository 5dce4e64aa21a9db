package open_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/open"
	"weft/store/storetest/server"
)

// secured is a cluster with TLS and authentication, and a client's files, as a user would have them.
type secured struct {
	t      *testing.T
	c      *server.Cluster
	tenant *server.Tenant
	dir    string
	opts   map[string]string // that work
}

const (
	prefix       = "team/weft"
	firstSecret  = "6f0b6e1e-0001-4cf1-9f3e-5ec2e7000001" // Consul's tokens are UUIDs
	secondSecret = "6f0b6e1e-0002-4cf1-9f3e-5ec2e7000002"
	wrongSecret  = "6f0b6e1e-0003-4cf1-9f3e-5ec2e7000003"
)

// patience is far above what anything takes here, for machines that are busy.
const patience = time.Minute

func secure(t *testing.T, kind server.Kind) *secured {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	c, err := server.Start(ctx, server.Options{Kind: kind, Dir: t.TempDir(), Secure: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	x := &secured{t: t, c: c, dir: t.TempDir(), opts: c.StoreOpts()}
	if kind != server.Consul {
		x.opts["kv.user"] = server.TenantName
	}
	x.opts[x.secretOpt()] = x.file("secret", firstSecret+"\n")
	if x.tenant, err = c.Grant(ctx, prefix, firstSecret); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *secured) secretOpt() string {
	if x.c.Kind == server.Consul {
		return "kv.tokenfile"
	}
	return "kv.passwordfile"
}

// file writes a file whole.
func (x *secured) file(name, content string) string {
	x.t.Helper()
	path := filepath.Join(x.dir, name)
	if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path)); err != nil {
		x.t.Fatal(err)
	}
	return path
}

// with returns the options that work with some of them changed, or left out.
func (x *secured) with(kv ...string) map[string]string {
	out := maps.Clone(x.opts)
	for i := 0; i < len(kv); i += 2 {
		if out[kv[i]] = kv[i+1]; kv[i+1] == "" {
			delete(out, kv[i])
		}
	}
	return out
}

// open opens the cluster's store and collects what it logs.
func (x *secured) open(t *testing.T, opts map[string]string) (store.Store, *logged) {
	t.Helper()
	out := &logged{}
	s, err := open.Open(x.c.URL(prefix), opts, open.Options{Log: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		noSecret(t, "the log", out.String())
	})
	return s, out
}

// logged is a log.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
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

func noSecret(t *testing.T, where, text string) {
	t.Helper()
	for _, s := range []string{firstSecret, secondSecret, wrongSecret, server.Password, server.Token} {
		if strings.Contains(text, s) {
			t.Errorf("%s shows a secret: %s", where, text)
		}
	}
}

func key(name string) store.Key { return store.Key{Partition: store.Meta, Name: name} }

// put writes a key as soon as the store lets it.
func put(t *testing.T, s store.Store, name string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := s.Txn(ctx, store.Txn{Then: []store.Op{store.Put(key(name), []byte("value"))}})
		cancel()
		if err == nil {
			return
		}
		noSecret(t, "an error", err.Error())
		if time.Now().After(end) {
			t.Fatalf("put %s: %v", name, err)
		}
	}
}

// seen waits until a watch has delivered a key.
func seen(t *testing.T, w <-chan store.Batch, name string) {
	t.Helper()
	for end := time.After(patience); ; {
		select {
		case b := <-w:
			for _, e := range b.Puts {
				if e.Key == key(name) {
					return
				}
			}
		case <-end:
			t.Fatalf("the watch has not told of %s", name)
		}
	}
}

// use does all that a store does.
func use(t *testing.T, s store.Store) {
	t.Helper()
	w := s.Watch(t.Context(), store.Meta)
	put(t, s, "used")
	seen(t, w, "used")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if e, err := s.Get(ctx, key("used")); err != nil || string(e.Value) != "value" {
		t.Errorf("get: %q, %v", e.Value, err)
	}
	if l, err := s.List(ctx, store.Meta); err != nil || len(l.Entries) == 0 {
		t.Errorf("list: %v, %v", l, err)
	}
	x, err := s.OpenSession(ctx, store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: t.Name()}, Value: []byte("me"), TTL: 10 * time.Second})
	if err != nil {
		t.Fatalf("open a session: %v", err)
	}
	if _, err := s.Txn(ctx, store.Txn{If: []store.Cond{x.Alive()}, Then: []store.Op{store.Del(key("used"))}}); err != nil {
		t.Errorf("write under the session: %v", err)
	}
	if err := x.Close(ctx); err != nil {
		t.Errorf("end the session: %v", err)
	}
	if st, err := s.Status(ctx); err != nil || st.ClusterID == "" || st.Rev == 0 {
		t.Errorf("status: %+v, %v", st, err)
	}
}

// The whole life of a secure store on each kind of it.
func TestSecureStores(t *testing.T) {
	for _, kind := range server.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			x := secure(t, kind)
			t.Run("minimal rights are enough", func(t *testing.T) {
				s, _ := x.open(t, x.opts)
				use(t, s)
				if got, err := x.tenant.Foreign(t.Context()); err != nil || len(got) > 0 {
					t.Errorf("beside the prefix it made %q, %v", got, err)
				}
			})
			t.Run("refusals", x.refusals)
			t.Run("rotation", x.rotation)
		})
	}
}

// refusals are what each wrong option leads to, within seconds, as an error that says what is wrong.
func (x *secured) refusals(t *testing.T) {
	other, err := server.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := other.Issue(server.ClientCertificate())
	if err != nil {
		t.Fatal(err)
	}
	otherCA := x.file("other-ca", string(other.Cert))
	cert, key := x.file("stranger", string(stranger.Cert)), x.file("stranger-key", string(stranger.Key))
	wrong := x.file("wrong", wrongSecret)
	for name, tc := range map[string]struct {
		opts map[string]string
		want string // matches the error
	}{
		"no certificate":           {x.with("kv.certfile", "", "kv.keyfile", ""), "certificate"},
		"a stranger's certificate": {x.with("kv.certfile", cert, "kv.keyfile", key), "certificate"},
		"wrong CA":                 {x.with("kv.cacertfile", otherCA), "not trusted"},
		"wrong name":               {x.with("kv.servername", "other.example"), "not for other.example"},
		"wrong secret":             {x.with(x.secretOpt(), wrong), ""},
		"no secret":                {x.with("kv.user", "", x.secretOpt(), ""), ""},
		"no TLS":                   {x.with("kv.cacertfile", "", "kv.certfile", "", "kv.keyfile", ""), "TLS|HTTPS"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := x.open(t, tc.opts)
			for what, call := range map[string]func(context.Context) error{
				"read":  func(ctx context.Context) error { _, err := s.List(ctx, store.Meta); return err },
				"write": func(ctx context.Context) error { return write(ctx, s) },
				"session": func(ctx context.Context) error {
					_, err := s.OpenSession(ctx, store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "x"}, TTL: 10 * time.Second})
					return err
				},
			} {
				err := answer(t, call)
				if !errors.Is(err, store.ErrRefused) || !regexp.MustCompile(tc.want).MatchString(err.Error()) {
					t.Errorf("%s: %v; want it refused with %q", what, err, tc.want)
					continue
				}
				noSecret(t, "the error", err.Error())
			}
		})
	}
	x.names(t)
	t.Run("the name that it has", func(t *testing.T) {
		s, _ := x.open(t, x.with("kv.servername", server.ServerName))
		use(t, s)
	})
}

// names are those in the URL, which the servers' certificates must have.
func (x *secured) names(t *testing.T) {
	_, port, err := net.SplitHostPort(x.c.Members[0].Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	at := func(t *testing.T, hosts ...string) store.Store {
		t.Helper()
		url := string(x.c.Kind) + "://" + strings.Join(hosts, ":"+port+",") + ":" + port + "/" + prefix
		s, err := open.Open(url, x.opts, open.Options{Dial: func(ctx context.Context, network, _ string) (net.Conn, error) { // whatever the name
			return (&net.Dialer{}).DialContext(ctx, network, x.c.Members[0].Endpoint)
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	t.Run("right name in the URL", func(t *testing.T) { use(t, at(t, server.ServerName)) })
	t.Run("wrong name in the URL", func(t *testing.T) {
		s := at(t, "other.example")
		if err := answer(t, func(ctx context.Context) error { return write(ctx, s) }); !errors.Is(err, store.ErrRefused) || !strings.Contains(err.Error(), "not for other.example") {
			t.Errorf("%v, want it refused: the certificate is not for other.example", err)
		}
	})
	t.Run("one right name of two", func(t *testing.T) { use(t, at(t, "other.example", server.ServerName)) })
	t.Run("two right names", func(t *testing.T) { use(t, at(t, "localhost", server.ServerName)) })
}

func write(ctx context.Context, s store.Store) error {
	_, err := s.Txn(ctx, store.Txn{Then: []store.Op{store.Put(key("refused"), nil)}})
	return err
}

// answer calls until the store says something else than that it has not been reached yet: a busy machine may take its time.
func answer(t *testing.T, call func(context.Context) error) error {
	t.Helper()
	for end := time.Now().Add(patience / 3); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := call(ctx)
		cancel()
		if err == nil || errors.Is(err, store.ErrRefused) || time.Now().After(end) {
			return err
		}
	}
}

// rotation changes, under an open store, first the secret and then all certificates.
func (x *secured) rotation(t *testing.T) {
	s, log := x.open(t, x.opts)
	w := s.Watch(t.Context(), store.Meta)
	session, err := s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "rotating"}, TTL: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "before")
	seen(t, w, "before")

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := x.tenant.Change(ctx, secondSecret); err != nil {
		t.Fatal(err)
	}
	x.file("secret", secondSecret)
	put(t, s, "second secret")
	seen(t, w, "second secret")
	late := s.Watch(t.Context(), store.Meta) // begins on a connection that was made under the first one
	put(t, s, "second watch")
	seen(t, late, "second watch")
	seen(t, w, "second watch")

	if err := x.c.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	put(t, s, "new certificates")
	seen(t, w, "new certificates")
	seen(t, late, "new certificates")
	select {
	case <-session.Done():
		t.Error("the session has ended meanwhile")
	default:
	}
	if err := session.Close(ctx); err != nil {
		t.Errorf("end the session: %v", err)
	}
	noSecret(t, "the log", log.String())
}
