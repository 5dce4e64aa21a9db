package open_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft/store"
	"weft/store/open"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestURLs(t *testing.T) {
	for raw, want := range map[string]open.Config{
		"etcd://h1":                      {Scheme: "etcd", Endpoints: []string{"h1:2379"}, Prefix: "weft"},
		"etcd://h1:2379,10.0.0.2:1/a/b":  {Scheme: "etcd", Endpoints: []string{"h1:2379", "10.0.0.2:1"}, Prefix: "a/b"},
		"etcd://[fd00::1]:2379,[::1]/":   {Scheme: "etcd", Endpoints: []string{"[fd00::1]:2379", "[::1]:2379"}, Prefix: "weft"},
		"consul://h1":                    {Scheme: "consul", Endpoints: []string{"h1:8500"}, Prefix: "weft"},
		"consul://127.0.0.1:8501/dc1":    {Scheme: "consul", Endpoints: []string{"127.0.0.1:8501"}, Prefix: "dc1"},
		"zk://h1,h2:2182,[fd00::3]/a/b/": {Scheme: "zk", Endpoints: []string{"h1:2181", "h2:2182", "[fd00::3]:2181"}, Prefix: "a/b"},
	} {
		want.TTL = 15 * time.Second
		c, err := open.Parse(raw, nil)
		if d := cmp.Diff(want, c); d != "" || err != nil {
			t.Errorf("%s: %v %s", raw, err, d)
		}
	}
}

// Docker's spellings, and those that are new.
func TestOptions(t *testing.T) {
	ca, cert, key, password := files(t)
	type opts = map[string]string
	for _, tc := range []struct {
		raw  string
		opts opts
		want open.Config
	}{
		{"etcd://h", opts{"kv.path": "/docker/nodes/"}, open.Config{Prefix: "docker/nodes"}},
		{"etcd://h/a", opts{"kv.path": "a"}, open.Config{Prefix: "a"}},
		{"etcd://h", opts{"discovery.ttl": "30", "discovery.heartbeat": "5"}, open.Config{TTL: 30 * time.Second, Heartbeat: 5 * time.Second}},
		{"consul://h", opts{"discovery.ttl": "3"}, open.Config{TTL: 3 * time.Second}},
		{"consul://h", opts{"kv.tokenfile": password}, open.Config{TokenFile: password}},
		{"etcd://h", opts{"kv.user": "u", "kv.passwordfile": password}, open.Config{User: "u", PasswordFile: password}},
		{"zk://h", opts{"kv.user": "u", "kv.passwordfile": password}, open.Config{User: "u", PasswordFile: password}},
		{"zk://h", opts{"kv.cacertfile": ca}, open.Config{CAFile: ca}},
		{"consul://h", opts{"kv.certfile": cert, "kv.keyfile": key}, open.Config{CertFile: cert, KeyFile: key}},
		{"etcd://h", opts{"kv.cacertfile": ca, "kv.certfile": cert, "kv.keyfile": key, "kv.servername": "s.example"}, open.Config{CAFile: ca, CertFile: cert, KeyFile: key, ServerName: "s.example"}},
		{"etcd://h", opts{"kv.cacertfile": ca, "kv.servername": "fd00::1"}, open.Config{CAFile: ca, ServerName: "fd00::1"}},
	} {
		c, err := open.Parse(tc.raw, tc.opts)
		if tc.want.Prefix == "" {
			tc.want.Prefix = "weft"
		}
		if tc.want.TTL == 0 {
			tc.want.TTL = 15 * time.Second
		}
		tc.want.Scheme, tc.want.Endpoints = c.Scheme, c.Endpoints
		if d := cmp.Diff(tc.want, c); d != "" || err != nil {
			t.Errorf("%s %v: %v %s", tc.raw, tc.opts, err, d)
		}
	}
}

func TestTiming(t *testing.T) {
	type opts = map[string]string
	for _, tc := range []struct {
		opts           opts
		ttl, heartbeat time.Duration
	}{{nil, 15 * time.Second, 0}, {opts{"discovery.ttl": "60"}, time.Minute, 0}, {opts{"discovery.heartbeat": "2", "kv.user": "u"}, 15 * time.Second, 2 * time.Second}} {
		ttl, heartbeat, err := open.Timing(tc.opts)
		if ttl != tc.ttl || heartbeat != tc.heartbeat || err != nil {
			t.Errorf("%v: %v, %v, %v", tc.opts, ttl, heartbeat, err)
		}
	}
	if _, _, err := open.Timing(opts{"discovery.ttl": "1"}); err == nil {
		t.Error("a TTL of one second is taken")
	}
}

func TestRefusals(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	ca, cert, key, password := files(t)
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	type opts = map[string]string
	for _, tc := range []struct {
		raw  string
		opts opts
		want string
	}{
		{"", nil, "no URL"}, {"h1:2379", nil, "supported are etcd://, consul:// or zk://"}, {"redis://h", nil, "unknown cluster store scheme"},
		{"etcd2://h", nil, "unknown cluster store scheme"}, {"etcd://h,h:2379", nil, "twice"}, {"etcd://h/a/../b", nil, "plain path"}, {"zk://h/a//b", nil, "plain path"},
		{"consul://t0ken:secret@h", nil, "kv.tokenfile"}, {"zk://u:secret@h", nil, "kv.passwordfile"}, {"u:secret@etcd://h", nil, "unknown cluster store scheme"},
		{"etcd://h/a", opts{"kv.path": "b"}, "differ"},
		{"etcd://h", opts{"kv.tokenfile": password}, "etcd takes no token, give kv.user and kv.passwordfile"},
		{"zk://h", opts{"kv.tokenfile": password}, "ZooKeeper takes no token"},
		{"consul://h", opts{"kv.user": "u"}, "kv.user: Consul has no users"}, {"consul://h", opts{"kv.passwordfile": password}, "kv.passwordfile: Consul has no users"},
		{"consul://h", opts{"kv.tokenfile": missing}, "kv.tokenfile: stat " + missing}, {"etcd://h", opts{"kv.passwordfile": password}, "go together"},
		{"etcd://h", opts{"kv.servername": "s"}, "kv.servername is for TLS"}, {"etcd://h", opts{"kv.servername": "a b", "kv.cacertfile": ca}, "host's name"},
		{"etcd://h", opts{"kv.token": "secret"}, "known are discovery.heartbeat, discovery.ttl, kv.cacertfile, kv.certfile, kv.certificate, kv.keyfile, kv.passwordfile, kv.path, kv.servername, kv.tokenfile, kv.user"},
		{"etcd://h", opts{"kv.cacertfile": ""}, "kv.cacertfile=: it must not be empty"}, {"etcd://h", opts{"kv.user": "", "kv.passwordfile": ""}, "must not be empty"},
		{"etcd://", nil, "is empty"}, {"etcd:///p", nil, "is empty"}, {"etcd://h1,", nil, "is empty"}, {"etcd://h:0", nil, "no port"},
		{"etcd://h:x", nil, "no port"}, {"etcd://h:65536", nil, "no port"}, {"etcd://::1", nil, "HOST:PORT"}, {"etcd://[::1", nil, "HOST:PORT"},
		{"etcd://a b", nil, "no host"}, {"etcd://h/a?x", nil, "question mark"}, {"etcd://h:1?password=x", nil, "question mark"}, {"etcd://h/%41", nil, "plain path"},
		{"etcd://u:pa/ss@h", nil, "kv.passwordfile"}, {"etcd://u:secret@h", nil, "kv.passwordfile"},
		{"etcd://h", opts{"kv.nonsense": "1"}, "unknown --cluster-store-opt kv.nonsense"}, {"etcd://h", opts{"kv.path": "/"}, "kv.path"},
		{"etcd://h", opts{"kv.path": "a b"}, "plain path"}, {"etcd://h", opts{"discovery.ttl": "x"}, "number of seconds"},
		{"etcd://h", opts{"discovery.ttl": "2"}, "from 3 to 3600"}, {"etcd://h", opts{"discovery.ttl": "10", "discovery.heartbeat": "10"}, "less than"},
		{"etcd://h", opts{"kv.certfile": cert}, "go together"}, {"etcd://h", opts{"kv.keyfile": key}, "go together"},
		{"etcd://h", opts{"kv.user": "u"}, "go together"}, {"etcd://h", opts{"kv.user": "u", "kv.passwordfile": missing}, missing},
		{"etcd://h", opts{"kv.cacertfile": missing}, missing}, {"etcd://h", opts{"kv.cacertfile": bad}, "no certificate"},
		{"etcd://h", opts{"kv.certfile": bad, "kv.keyfile": key}, "kv.certfile"}, {"etcd://h", opts{"kv.certfile": cert, "kv.keyfile": ca}, "kv.keyfile"},
		{"etcd://h", opts{"kv.user": "u", "kv.passwordfile": os.DevNull}, "no regular file"},
	} {
		_, err := open.Parse(tc.raw, tc.opts)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %v: %v, want %q", tc.raw, tc.opts, err, tc.want)
		} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "u:pa") {
			t.Errorf("%s: the error tells the password: %v", tc.raw, err)
		}
	}
	if _, err := open.Parse("etcd://h", opts{"kv.cacertfile": ca, "kv.certfile": cert, "kv.keyfile": key, "kv.user": "u", "kv.passwordfile": password}); err != nil {
		t.Errorf("all of it right: %v", err)
	}
}

// files makes a certificate that signs itself, its key, and a password file.
func files(t *testing.T) (ca, cert, key, password string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err1 := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	private, err2 := x509.MarshalPKCS8PrivateKey(k)
	dir := t.TempDir()
	write := func(name string, b []byte) (string, error) {
		path := filepath.Join(dir, name)
		return path, os.WriteFile(path, b, 0o600)
	}
	cert, err3 := write("cert", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key, err4 := write("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	password, err5 := write("password", []byte("secret-word\n"))
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	return cert, cert, key, password
}

func TestOpenDoesNotWaitForTheServer(t *testing.T) {
	_, _, _, password := files(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for name, opts := range map[string]map[string]string{"plain": nil, "with a password": {"kv.user": "u", "kv.passwordfile": password}} {
		begin := time.Now()
		s, err := open.Open("etcd://"+l.Addr().String(), opts, open.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("%s: it waited %v", name, d)
		}
		if _, err := s.Get(t.Context(), store.Key{Partition: store.Meta, Name: "x"}); !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRedact(t *testing.T) {
	for raw, want := range map[string]string{"etcd://u:p@h/x": "etcd://h/x", "etcd://u:a@b@h": "etcd://h", "u:p@h": "h", "etcd://h": "etcd://h", "embedded": "embedded"} {
		if got := open.Redact(raw); got != want {
			t.Errorf("%s became %s, want %s", raw, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"etcd://h1:2379,h2/prefix", "etcd://[::1]:1", "consul://h", "etcd://a@b/c", "zk://", "etcd://h,h,/x//y", "\xff://", "zk://h:1,[fd00::1%eth0]/a/./b"} {
		f.Add(s, "kv.path", "a/b")
		f.Add(s, "discovery.ttl", "9")
		f.Add(s, "kv.servername", "x")
	}
	f.Fuzz(func(t *testing.T, raw, name, value string) {
		if strings.HasSuffix(name, "file") {
			return // it would be read
		}
		c, err := open.Parse(raw, map[string]string{name: value})
		if err != nil {
			if err.Error() == "" || c.Scheme != "" && strings.Contains(raw, "@") {
				t.Errorf("%q: %+v, %v", raw, c, err)
			}
			return
		}
		if !slices.Contains([]string{"etcd", "consul", "zk"}, c.Scheme) || !slices.Contains(open.Names(), name) || c.TTL <= c.Heartbeat {
			t.Fatalf("%q %s=%q became %+v", raw, name, value, c)
		}
		if len(c.Endpoints) == 0 || c.Prefix == "" || strings.HasPrefix(c.Prefix, "/") || strings.HasSuffix(c.Prefix, "/") || strings.Contains(c.Prefix, "//") {
			t.Fatalf("%q became %+v", raw, c)
		}
		for _, e := range c.Endpoints {
			if host, port, err := net.SplitHostPort(e); err != nil || host == "" || port == "" {
				t.Fatalf("%q: endpoint %q", raw, e)
			}
		}
		again, err := open.Parse(c.Scheme+"://"+strings.Join(c.Endpoints, ",")+"/"+c.Prefix, nil)
		if err != nil || !slices.Equal(again.Endpoints, c.Endpoints) || again.Prefix != c.Prefix || again.Scheme != c.Scheme {
			t.Fatalf("%q became %+v, and that %+v, %v", raw, c, again, err)
		}
	})
}

// What works and should not be left so is said once, at the beginning.
func TestWarnings(t *testing.T) {
	ca, cert, key, password := files(t)
	for _, path := range []string{key, password} {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		raw  string
		opts map[string]string
		want []string
	}{
		"nothing":         {"etcd://h", nil, nil},
		"a readable key":  {"zk://h", map[string]string{"kv.certfile": cert, "kv.keyfile": key}, []string{"kv.keyfile"}},
		"in clear":        {"etcd://h", map[string]string{"kv.user": "u", "kv.passwordfile": password}, []string{"kv.passwordfile", "in clear"}},
		"a token in TLS":  {"consul://h", map[string]string{"kv.cacertfile": ca, "kv.tokenfile": password}, []string{"kv.tokenfile"}},
		"a token without": {"consul://h", map[string]string{"kv.tokenfile": password}, []string{"kv.tokenfile", "in clear"}},
	} {
		out := &logged{}
		s, err := open.Open(tc.raw, tc.opts, open.Options{Log: slog.New(slog.NewTextHandler(out, nil)), Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network") }})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		text := out.String()
		if strings.Count(text, "level=WARN") != len(tc.want) || strings.Contains(text, "secret-word") {
			t.Errorf("%s: %s, want %d warnings", name, text, len(tc.want))
		}
		for _, w := range tc.want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in %s", name, w, text)
			}
		}
	}
}
