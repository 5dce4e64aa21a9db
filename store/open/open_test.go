package open_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/store"
	"weft/store/open"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestURLs(t *testing.T) {
	for raw, want := range map[string]open.Config{
		"etcd://h1":                     {Endpoints: []string{"h1:2379"}, Prefix: "weft"},
		"etcd://h1:2379,10.0.0.2:1/a/b": {Endpoints: []string{"h1:2379", "10.0.0.2:1"}, Prefix: "a/b"},
		"etcd://[fd00::1]:2379,[::1]/":  {Endpoints: []string{"[fd00::1]:2379", "[::1]:2379"}, Prefix: "weft"},
	} {
		c, err := open.Parse(raw, nil)
		if err != nil || !slices.Equal(c.Endpoints, want.Endpoints) || c.Prefix != want.Prefix {
			t.Errorf("%s: %+v, %v", raw, c, err)
		}
		if c.TTL != 15*time.Second || c.Heartbeat != 0 {
			t.Errorf("%s: TTL %v, heartbeat %v", raw, c.TTL, c.Heartbeat)
		}
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
		{"etcd://", nil, "has no host"}, {"etcd:///p", nil, "has no host"}, {"etcd://h1,", nil, "has no host"}, {"etcd://h:0", nil, "no port"},
		{"etcd://h:x", nil, "no port"}, {"etcd://h:65536", nil, "no port"}, {"etcd://::1", nil, "HOST:PORT"}, {"etcd://[::1", nil, "HOST:PORT"},
		{"etcd://a b", nil, "no host"}, {"etcd://h/a?x", nil, "plain path"}, {"etcd://h/%41", nil, "plain path"},
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
	password, err5 := write("password", []byte("secret\n"))
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
	for _, s := range []string{"etcd://h1:2379,h2/prefix", "etcd://[::1]:1", "consul://h", "etcd://a@b/c", "zk://", "etcd://h,h,/x//y", "\xff://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		c, err := open.Parse(raw, nil)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		if len(c.Endpoints) == 0 || c.Prefix == "" || strings.HasPrefix(c.Prefix, "/") || strings.HasSuffix(c.Prefix, "/") {
			t.Fatalf("%q became %+v", raw, c)
		}
		for _, e := range c.Endpoints {
			if host, port, err := net.SplitHostPort(e); err != nil || host == "" || port == "" {
				t.Fatalf("%q: endpoint %q", raw, e)
			}
		}
		again, err := open.Parse("etcd://"+strings.Join(c.Endpoints, ",")+"/"+c.Prefix, nil)
		if err != nil || !slices.Equal(again.Endpoints, c.Endpoints) || again.Prefix != c.Prefix {
			t.Fatalf("%q became %+v, and that %+v, %v", raw, c, again, err)
		}
	})
}
