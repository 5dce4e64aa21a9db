package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// world is a cluster's authority and the time there.
type world struct {
	t    *testing.T
	auth *Authority
	at   time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, at: time.Now()}
	var err error
	if w.auth, err = CreateAuthority(t.TempDir(), w.now); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) now() time.Time { return w.at }

// keeper is a host that has joined.
func (w *world) keeper(host string) *Keeper {
	w.t.Helper()
	k, err := Open(w.t.TempDir(), w.now, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	w.renew(k, host, Lifetime)
	return k
}

func (w *world) renew(k *Keeper, host string, lifetime time.Duration) {
	w.t.Helper()
	csr, err := k.Request(host)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := w.auth.Issue(csr, host, lifetime)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := k.Store(host, cert, w.auth.Certificate()); err != nil {
		w.t.Fatal(err)
	}
}

// signed is a certificate that the authority has signed, of any kind.
func (w *world) signed(c *x509.Certificate, by *Authority) *tls.Certificate {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = w.at.Add(-time.Hour), w.at.Add(time.Hour)
	}
	if c.ExtKeyUsage == nil {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	c.SerialNumber = big.NewInt(7)
	parent, signer := c, any(key)
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		w.t.Fatal(err)
	}
	out := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if by != nil {
		out.Certificate = append(out.Certificate, by.cert.Raw)
	}
	return out
}

func hostCertificate(id string) *x509.Certificate {
	return &x509.Certificate{URIs: []*url.URL{uri(id)}}
}

// talk lets both ends shake hands and say a word each, and returns what each makes of it.
func talk(t *testing.T, server, client *tls.Config) (peer Named, atServer, atClient error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			raw, err := l.Accept()
			if err != nil {
				return err
			}
			defer func() { _ = raw.Close() }()
			c := tls.Server(raw, server)
			if err := c.Handshake(); err != nil {
				return err
			}
			peer, _ = PeerOf(c.ConnectionState())
			_, err = c.Write([]byte("x"))
			return err
		}()
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	c := tls.Client(raw, client)
	if atClient = c.Handshake(); atClient == nil {
		_, atClient = io.ReadFull(c, make([]byte, 1))
	}
	return peer, <-done, atClient
}

func TestHostsOfOneAuthorityKnowEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.keeper("aaaa"), w.keeper("bbbb")
	peer, atServer, atClient := talk(t, a.ServerTLS(), b.ClientTLS(Host{ID: "aaaa", Name: "alpha"}))
	if atServer != nil || atClient != nil || peer.ID != "bbbb" {
		t.Errorf("%v calls; server: %v, client: %v", peer, atServer, atClient)
	}
	if _, _, err := talk(t, a.ServerTLS(), b.ClientTLS(Host{})); err != nil {
		t.Errorf("any host: %v", err)
	}
	if a.Valid() != nil || len(a.Print()) != 64 || a.Print() == b.Print() {
		t.Errorf("valid: %v, prints %s and %s", a.Valid(), a.Print(), b.Print())
	}
}

// What each end makes of the other's certificate, of whatever kind: the reasons can be told apart, and their words say what to do.
func TestWrongCertificatesAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	w, foreign := newWorld(t), newWorld(t)
	old := hostCertificate("bbbb")
	old.NotBefore, old.NotAfter = w.at.Add(-48*time.Hour), w.at.Add(-24*time.Hour)
	early := hostCertificate("bbbb")
	early.NotBefore, early.NotAfter = w.at.Add(24*time.Hour), w.at.Add(48*time.Hour)
	strange := hostCertificate("bbbb")
	strange.NotBefore, strange.NotAfter = w.at.Add(-50*time.Minute), w.at.Add(-time.Minute)
	two := &x509.Certificate{URIs: []*url.URL{uri("bbbb"), uri("aaaa")}}
	odd := &x509.Certificate{URIs: []*url.URL{{Scheme: "weft", Host: "root", Path: "/bbbb"}}, DNSNames: []string{"beta"}}
	serverOnly := hostCertificate("bbbb")
	serverOnly.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	clientOnly := hostCertificate("bbbb")
	clientOnly.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for name, tc := range map[string]struct {
		cert                   *tls.Certificate
		want                   error // as a caller's; nil: it is let in
		asServer               error // as the one who is called
		words                  string
		neitherNorAsTheirOwnID bool
	}{
		"its own":                 {w.signed(hostCertificate("bbbb"), w.auth), nil, nil, "", false},
		"another host's":          {w.signed(hostCertificate("cccc"), w.auth), nil, ErrOther, "host cccc answers where host beta (bbbb) should", false},
		"another cluster's":       {w.signed(hostCertificate("bbbb"), foreign.auth), ErrForeign, ErrForeign, "another cluster's", false},
		"another one's, expired":  {w.signed(strange, foreign.auth), ErrForeign, ErrForeign, "another cluster's", false},
		"self-signed":             {w.signed(hostCertificate("bbbb"), nil), ErrForeign, ErrForeign, "join again", false},
		"expired":                 {w.signed(old, w.auth), ErrExpired, ErrExpired, "the clock of this host says " + day(w.at), false},
		"not valid yet":           {w.signed(early, w.auth), ErrNotYet, ErrNotYet, "set the clocks of both right", false},
		"for servers only":        {w.signed(serverOnly, w.auth), ErrUnfit, nil, "clientAuth", false},
		"for clients only":        {w.signed(clientOnly, w.auth), nil, ErrUnfit, "serverAuth", false},
		"of no host":              {w.signed(&x509.Certificate{}, w.auth), ErrUnfit, ErrUnfit, "names no host", false},
		"of two hosts":            {w.signed(two, w.auth), ErrUnfit, ErrUnfit, "two hosts", false},
		"with a URI of our own":   {w.signed(odd, w.auth), ErrUnfit, ErrUnfit, "weft://host/ID", false},
		"by name, from a PKI":     {w.signed(&x509.Certificate{DNSNames: []string{"Beta"}}, w.auth), nil, nil, "", true},
		"by address, from a PKI":  {w.signed(&x509.Certificate{IPAddresses: []net.IP{net.ParseIP("192.0.2.2")}}, w.auth), nil, nil, "", true},
		"another name's":          {w.signed(&x509.Certificate{DNSNames: []string{"gamma"}}, w.auth), nil, ErrOther, "gamma answers", true},
		"an ID counts, no name":   {w.signed(&x509.Certificate{URIs: []*url.URL{uri("cccc")}, DNSNames: []string{"beta"}}, w.auth), nil, ErrOther, "host cccc answers", false},
		"the authority's own key": {&tls.Certificate{Certificate: [][]byte{w.auth.cert.Raw}, PrivateKey: w.auth.key}, ErrUnfit, ErrUnfit, "names no host", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := w.keeper("aaaa")
			check := func(how string, got, want error) {
				t.Helper()
				if !errors.Is(got, want) || want != nil && !strings.Contains(got.Error(), tc.words) {
					t.Errorf("%s: %v; want %v with %q", how, got, want, tc.words)
				}
			}
			caller := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{*tc.cert}}
			peer, atServer, _ := talk(t, good.ServerTLS(), caller)
			check("it calls", atServer, tc.want)
			if atServer == nil && (peer.ID == "") != tc.neitherNorAsTheirOwnID {
				t.Errorf("it is taken for %+v", peer)
			}
			called := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*tc.cert}}
			_, _, atClient := talk(t, called, good.ClientTLS(Host{ID: "bbbb", Name: "beta", Addr: netip.MustParseAddr("192.0.2.2")}))
			check("it is called", atClient, tc.asServer)
		})
	}
}

func TestOldVersionsOfTLSGetNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.keeper("aaaa")
	c, err := k.Current()
	if err != nil {
		t.Fatal(err)
	}
	old := &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, Certificates: []tls.Certificate{*c}}
	if _, atServer, atClient := talk(t, k.ServerTLS(), old); atServer == nil || atClient == nil {
		t.Errorf("TLS 1.2 calls: %v, %v", atServer, atClient)
	}
	if _, atServer, atClient := talk(t, &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*c}}, k.ClientTLS(Host{})); atServer == nil || atClient == nil {
		t.Errorf("TLS 1.2 is called: %v, %v", atServer, atClient)
	}
}

// Enrolment needs it: who has no certificate is let in as nobody.
func TestACallerWithoutACertificateIsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer, atServer, atClient := talk(t, w.keeper("aaaa").ServerTLS(), &tls.Config{InsecureSkipVerify: true})
	if atServer != nil || atClient != nil || peer.ID != "" || peer.DNS != nil {
		t.Errorf("it is %v; %v, %v", peer, atServer, atClient)
	}
	if _, err := PeerOf(tls.ConnectionState{}); !errors.Is(err, ErrNone) {
		t.Errorf("PeerOf nobody: %v", err)
	}
}

func TestAHostThatHasNotJoinedServesAndCallsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, err := Open(t.TempDir(), w.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Current(); !errors.Is(err, ErrNone) || !errors.Is(k.Valid(), ErrNone) || k.Print() != "" {
		t.Errorf("it has %v, %v, %q", err, k.Valid(), k.Print())
	}
	if _, atServer, _ := talk(t, k.ServerTLS(), w.keeper("bbbb").ClientTLS(Host{})); !errors.Is(atServer, ErrNone) {
		t.Errorf("it serves: %v", atServer)
	}
	if _, _, atClient := talk(t, w.keeper("bbbb").ServerTLS(), k.ClientTLS(Host{})); !errors.Is(atClient, ErrNone) {
		t.Errorf("it calls: %v", atClient)
	}
}

func TestTheTokenTellsTheAuthority(t *testing.T) {
	t.Parallel()
	w, foreign := newWorld(t), newWorld(t)
	fresh, err := Open(t.TempDir(), w.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	token := func(a *Authority) Token {
		tok, err := a.Token(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	a := w.keeper("aaaa")
	if _, atServer, err := talk(t, a.ServerTLS(), token(w.auth).TLS(fresh)); err != nil || atServer != nil {
		t.Errorf("its own: %v, %v", err, atServer)
	}
	if _, _, err := talk(t, a.ServerTLS(), token(foreign.auth).TLS(fresh)); !errors.Is(err, ErrForeign) {
		t.Errorf("another cluster's: %v", err)
	}
	// A stranger shows the right authority's certificate beside one that it has not signed.
	liar := w.signed(hostCertificate("aaaa"), foreign.auth)
	liar.Certificate = append(liar.Certificate, w.auth.cert.Raw)
	if _, _, err := talk(t, &tls.Config{Certificates: []tls.Certificate{*liar}}, token(w.auth).TLS(fresh)); !errors.Is(err, ErrForeign) {
		t.Errorf("a liar: %v", err)
	}
}

// A long connection lives on over a rotation, and new ones have the new certificate, without anything made anew.
func TestACertificateIsRenewedUnderConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.keeper("aaaa"), w.keeper("bbbb")
	server, client := a.ServerTLS(), b.ClientTLS(Host{ID: "aaaa"})
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	dial := func() *tls.Conn {
		c, err := tls.Dial("tcp", l.Addr().String(), client)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	echo := func(c *tls.Conn) {
		t.Helper()
		if _, err := c.Write([]byte("word")); err != nil {
			t.Fatal(err)
		}
		if got := make([]byte, 4); !func() bool { _, err := io.ReadFull(c, got); return err == nil && bytes.Equal(got, []byte("word")) }() {
			t.Fatalf("no echo: %q", got)
		}
	}
	long := dial()
	defer func() { _ = long.Close() }()
	echo(long)
	before, print := long.ConnectionState().PeerCertificates[0], a.Print()
	changed := a.Changed()
	w.renew(a, "aaaa", Lifetime)
	w.renew(b, "bbbb", Lifetime)
	select {
	case <-changed:
	default:
		t.Error("Changed does not tell")
	}
	echo(long)
	next := dial()
	defer func() { _ = next.Close() }()
	echo(next)
	if after := next.ConnectionState().PeerCertificates[0]; after.SerialNumber.Cmp(before.SerialNumber) == 0 || Print(after) != print {
		t.Errorf("the certificate is the old one, or its key is new: serial %x, print %s", after.SerialNumber, Print(after))
	}
}

// Files that others keep are read again when they change.
func TestAPKIOfOthersIsFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	from := func(k *Keeper, dir string) Files {
		f := Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
		for to, path := range map[string]string{f.CA: k.Files().CA, f.Cert: k.Files().Cert, f.Key: k.Files().Key} {
			b, err := os.ReadFile(path)
			if err == nil {
				err = errors.Join(os.WriteFile(to+".new", b, 0o600), os.Rename(to+".new", to))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return f
	}
	dir := t.TempDir()
	k, err := OpenFiles(from(w.keeper("aaaa"), dir), w.now, slog.New(slog.DiscardHandler))
	if err != nil || !k.Given() {
		t.Fatal(err)
	}
	first := k.Print()
	from(w.keeper("aaaa"), dir)
	if k.Print() == first || k.Valid() != nil {
		t.Errorf("it goes on with %s; %v", k.Print(), k.Valid())
	}
	if err := k.Store("aaaa", nil, nil); err == nil {
		t.Error("it writes over files of others")
	}
	if _, err := OpenFiles(Files{CA: dir + "/none", Cert: dir + "/none", Key: dir + "/none"}, w.now, slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files that are not there: %v", err)
	}
}

func TestAKeeperTakesNoCertificateThatDoesNotFit(t *testing.T) {
	t.Parallel()
	w, foreign := newWorld(t), newWorld(t)
	k := w.keeper("aaaa")
	before := k.Print()
	issue := func(k *Keeper, w *world, host string) []byte {
		csr, err := k.Request(host)
		if err != nil {
			t.Fatal(err)
		}
		c, err := w.auth.Issue(csr, host, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, tc := range map[string]struct {
		cert, authorities []byte
		want              error
	}{
		"another host's":         {issue(k, w, "bbbb"), w.auth.Certificate(), ErrOther},
		"another key's":          {issue(w.keeper("aaaa"), w, "aaaa"), w.auth.Certificate(), nil},
		"another authority's":    {issue(k, foreign, "aaaa"), w.auth.Certificate(), ErrForeign},
		"without an authority":   {issue(k, w, "aaaa"), nil, nil},
		"what is no certificate": {[]byte("x"), w.auth.Certificate(), nil},
	} {
		if err := k.Store("aaaa", tc.cert, tc.authorities); err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if k.Print() != before || k.Valid() != nil {
		t.Error("what was before is gone")
	}
}
