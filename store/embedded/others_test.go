package embedded_test

import (
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/identity"
	"weft/store"
	"weft/store/embedded"
	"weft/store/etcd"
)

// joined is a host with a certificate of an authority.
func joined(t *testing.T, auth *identity.Authority, host string) *identity.Keeper {
	t.Helper()
	k, err := identity.Open(filepath.Join(t.TempDir(), "pki"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	csr, err := k.Request(host)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := auth.Issue(csr, host, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Store(host, cert, auth.Certificate()); err != nil {
		t.Fatal(err)
	}
	return k
}

func authority(t *testing.T) *identity.Authority {
	t.Helper()
	a, err := identity.CreateAuthority(filepath.Join(t.TempDir(), "pki"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Others are served with a certificate of the cluster's authority, over TLS 1.3, and in no other way; this host's agent needs none.
func TestOthersNeedACertificateOfTheAuthority(t *testing.T) {
	t.Parallel()
	auth := authority(t)
	own, good, foreign := joined(t, auth, "h1"), joined(t, auth, "h2"), joined(t, authority(t), "h3")
	f, others := own.Files(), freePort(t)
	srv, err := embedded.Start(t.Context(), embedded.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
		Others: &embedded.Others{Listen: others, CAFile: f.CA, CertFile: f.Cert, KeyFile: f.Key},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	shows := func(k *identity.Keeper) *tls.Config { // also where the server asks for another authority's
		return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.Current() }}
	}
	old := shows(good)
	old.MaxVersion = tls.VersionTLS12
	k := store.Key{Partition: store.Meta, Name: "k"}
	put := func(t *testing.T, at string, conf *tls.Config) error {
		if conf != nil {
			at = "https://" + at
		}
		s, err := etcd.New(etcd.Config{Endpoints: []string{at}, Prefix: "p", TLS: conf})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		_, err = s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(k, []byte("v"))}})
		return err
	}
	for name, tc := range map[string]struct {
		at   string
		conf *tls.Config
	}{
		"this host's agent, on loopback":   {srv.Endpoint(), nil},
		"a certificate of the authority's": {others, good.ClientTLS(identity.Host{})},
		"this host's own":                  {others, own.ClientTLS(identity.Host{ID: "h1"})},
	} {
		t.Run(name, func(t *testing.T) {
			if err := put(t, tc.at, tc.conf); err != nil {
				t.Error(err)
			}
		})
	}

	// With TLS 1.3 a client hears of its refusal when it reads: it is the server's alert, and no end of the connection.
	for name, tc := range map[string]struct {
		conf *tls.Config
		want string
	}{
		"no certificate":              {&tls.Config{InsecureSkipVerify: true}, "certificate required"},
		"one of another authority":    {shows(foreign), "unknown certificate authority"},
		"TLS 1.2, with the right one": {old, "protocol version not supported"},
		"the right one":               {shows(good), ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", others, tc.conf)
			if err == nil {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				_, err = conn.Read(make([]byte, 1)) // gRPC's server speaks first
			}
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	t.Run("in clear", func(t *testing.T) {
		if err := put(t, others, nil); err == nil {
			t.Error("it was served")
		}
	})

	// A certificate that was renewed counts from the next connection on, without a restart.
	t.Run("renewed", func(t *testing.T) {
		before, err := os.ReadFile(f.Cert)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := own.Request("h1")
		if err != nil {
			t.Fatal(err)
		}
		cert, err := auth.Issue(csr, "h1", 2*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if err := own.Store("h1", cert, auth.Certificate()); err != nil {
			t.Fatal(err)
		}
		if now, err := os.ReadFile(f.Cert); err != nil || string(now) == string(before) {
			t.Fatalf("nothing was renewed: %v", err)
		}
		conn, err := tls.Dial("tcp", others, shows(good))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		want, err := own.Current()
		if err != nil {
			t.Fatal(err)
		}
		if !conn.ConnectionState().PeerCertificates[0].Equal(want.Leaf) {
			t.Error("the server shows the certificate from before")
		}
	})
}
