package credential_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/store"
	"weft/store/credential"
	"weft/store/storetest/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issued is what a test's own CA has signed.
type issued struct {
	t  *testing.T
	ca *server.Authority
}

func newCA(t *testing.T) issued {
	t.Helper()
	ca, err := server.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return issued{t, ca}
}

func (i issued) sign(c *x509.Certificate) server.Pair {
	i.t.Helper()
	p, err := i.ca.Issue(c)
	if err != nil {
		i.t.Fatal(err)
	}
	return p
}

// folder holds files that a test writes.
type folder struct {
	t   *testing.T
	dir string
}

func newFolder(t *testing.T) folder { return folder{t, t.TempDir()} }

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

// write writes a file in place, as an editor does that knows no better.
func (f folder) write(name string, content []byte) string {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), content, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return f.path(name)
}

// aServer shows a certificate, and tells what the client showed.
type aServer struct {
	t    *testing.T
	conf *tls.Config
}

func serverWith(t *testing.T, p server.Pair) aServer {
	t.Helper()
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return aServer{t, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}}
}

// shake connects with conf, which dials name, and returns what the client says of it and the serial number of the certificate that it showed.
func (s aServer) shake(conf *tls.Config, name string) (serial string, err error) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	if err := errors.Join(a.SetDeadline(deadline), b.SetDeadline(deadline)); err != nil {
		s.t.Fatal(err)
	}
	srv := tls.Server(b, s.conf)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _ = a.Close() }()
	wg.Go(func() {
		defer func() { _ = b.Close() }()
		if srv.Handshake() == nil {
			_, _ = srv.Write([]byte{1})
		}
	})
	conf = conf.Clone()
	if conf.ServerName == "" { // as gRPC and net/http do
		conf.ServerName = name
	}
	c := tls.Client(a, conf)
	if err := c.Handshake(); err != nil {
		return "", err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return "", err
	}
	if shown := srv.ConnectionState().PeerCertificates; len(shown) > 0 {
		serial = shown[0].SerialNumber.String()
	}
	return serial, nil
}

func serialOf(t *testing.T, p server.Pair) string {
	t.Helper()
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.SerialNumber.String()
}

func config(t *testing.T, c credential.TLS) *tls.Config {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	conf, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	return conf
}

// What crypto/tls would refuse by itself must be refused here, where it is told to leave that to us.
func TestServersAreVerified(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	caFile := newFolder(t).write("ca", ca.ca.Cert)
	expired := server.ServerCertificate("store.example")
	expired.NotBefore, expired.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	future := server.ServerCertificate("store.example")
	future.NotBefore, future.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	wrongUse := server.ServerCertificate("store.example")
	wrongUse.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	byName := ca.sign(server.ServerCertificate("store.example"))
	for name, tc := range map[string]struct {
		shown  server.Pair
		dialed string
		conf   credential.TLS
		want   string // of the error; "": none
	}{
		"right name":                      {byName, "store.example", credential.TLS{CAFile: caFile}, ""},
		"right address":                   {ca.sign(server.ServerCertificate("192.0.2.1")), "192.0.2.1", credential.TLS{CAFile: caFile, Hosts: []string{"192.0.2.1"}}, ""},
		"right address in IPv6":           {ca.sign(server.ServerCertificate("2001:db8::1")), "2001:db8::1", credential.TLS{CAFile: caFile, Hosts: []string{"2001:db8::1"}}, ""},
		"another member's address":        {ca.sign(server.ServerCertificate("192.0.2.2")), "192.0.2.1", credential.TLS{CAFile: caFile, Hosts: []string{"192.0.2.1", "192.0.2.2"}}, ""},
		"the name that the user tells":    {byName, "192.0.2.1", credential.TLS{CAFile: caFile, Hosts: []string{"192.0.2.1"}, ServerName: "store.example"}, ""},
		"wrong name":                      {byName, "other.example", credential.TLS{CAFile: caFile, Hosts: []string{"other.example"}}, "not for other.example"},
		"a listed name, not the dialled":  {byName, "other.example", credential.TLS{CAFile: caFile, Hosts: []string{"other.example", "store.example"}}, "not for other.example"},
		"wrong address":                   {ca.sign(server.ServerCertificate("192.0.2.2")), "192.0.2.1", credential.TLS{CAFile: caFile, Hosts: []string{"192.0.2.1"}}, "not for 192.0.2.1"},
		"a name for an address":           {byName, "192.0.2.1", credential.TLS{CAFile: caFile, Hosts: []string{"192.0.2.1"}}, "not for 192.0.2.1"},
		"an address, and no list":         {byName, "192.0.2.1", credential.TLS{CAFile: caFile}, "no name is known"},
		"not the name that the user told": {byName, "store.example", credential.TLS{CAFile: caFile, ServerName: "other.example"}, "not for other.example"},
		"wrong CA":                        {other.sign(server.ServerCertificate("store.example")), "store.example", credential.TLS{CAFile: caFile}, "not trusted"},
		"not a public CA":                 {byName, "store.example", credential.TLS{}, "not trusted"},
		"expired":                         {ca.sign(expired), "store.example", credential.TLS{CAFile: caFile}, "not trusted"},
		"not yet valid":                   {ca.sign(future), "store.example", credential.TLS{CAFile: caFile}, "not trusted"},
		"a client's certificate":          {ca.sign(wrongUse), "store.example", credential.TLS{CAFile: caFile}, "not trusted"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serverWith(t, tc.shown).shake(config(t, tc.conf), tc.dialed)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !errors.Is(err, store.ErrRefused)):
				t.Errorf("%v, want a refusal with %q", err, tc.want)
			}
		})
	}
}

func TestAnIntermediateCAIsFollowed(t *testing.T) {
	ca := newCA(t)
	mid := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	between, err := server.AuthorityOf(ca.sign(mid))
	if err != nil {
		t.Fatal(err)
	}
	leaf := issued{t, between}.sign(server.ServerCertificate("store.example"))
	conf := config(t, credential.TLS{CAFile: newFolder(t).write("ca", ca.ca.Cert)})
	if _, err := serverWith(t, leaf).shake(conf, "store.example"); !errors.Is(err, store.ErrRefused) {
		t.Errorf("without the certificate between: %v", err)
	}
	leaf.Cert = append(leaf.Cert, between.Cert...)
	if _, err := serverWith(t, leaf).shake(conf, "store.example"); err != nil {
		t.Errorf("with it: %v", err)
	}
}

func TestCertificatesAreReadAgain(t *testing.T) {
	f, old, now := newFolder(t), newCA(t), newCA(t)
	mine, next := old.sign(server.ClientCertificate()), now.sign(server.ClientCertificate())
	conf := config(t, credential.TLS{CAFile: f.write("ca", old.ca.Cert), CertFile: f.write("cert", mine.Cert), KeyFile: f.write("key", mine.Key)})
	oldServer, newServer := serverWith(t, old.sign(server.ServerCertificate("s"))), serverWith(t, now.sign(server.ServerCertificate("s")))
	if got, err := oldServer.shake(conf, "s"); err != nil || got != serialOf(t, mine) {
		t.Errorf("before: %v, showed %s", err, got)
	}
	if _, err := newServer.shake(conf, "s"); !errors.Is(err, store.ErrRefused) {
		t.Errorf("the new CA before it is there: %v", err)
	}
	f.write("ca", now.ca.Cert)
	f.write("cert", next.Cert)
	f.write("key", next.Key)
	if got, err := newServer.shake(conf, "s"); err != nil || got != serialOf(t, next) {
		t.Errorf("after: %v, showed %s", err, got)
	}
	if _, err := oldServer.shake(conf, "s"); !errors.Is(err, store.ErrRefused) {
		t.Errorf("the old CA when it is gone: %v", err)
	}
}

// Kubernetes mounts a secret as symbolic links through ..data, and switches that one alone.
func TestLinksThatAreSwitchedAreFollowed(t *testing.T) {
	f := newFolder(t)
	for dir, word := range map[string]string{"..1": "first", "..2": "other"} { // of one size
		if err := os.Mkdir(f.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		f.write(dir+"/secret", []byte(word))
		stamp := time.Now().Add(-time.Hour) // and of one age
		if err := os.Chtimes(f.path(dir+"/secret"), stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target string) {
		t.Helper()
		if err := errors.Join(os.Symlink(target, f.path("..tmp")), os.Rename(f.path("..tmp"), f.path("..data"))); err != nil {
			t.Fatal(err)
		}
	}
	link("..1")
	if err := os.Symlink("..data/secret", f.path("secret")); err != nil {
		t.Fatal(err)
	}
	get, err := credential.Secret(f.path("secret"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{"..1": "first", "..2": "other"} {
		link(target)
		if got, err := get(); err != nil || got != want {
			t.Errorf("through %s: %q, %v", target, got, err)
		}
	}
}

// One write after the other, faster than the clock of the file system.
func TestEveryChangeIsSeen(t *testing.T) {
	f := newFolder(t)
	get, err := credential.Secret(f.write("secret", []byte("0")), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		want := string(rune('a' + i%26))
		f.write("secret", []byte(want+"\n"))
		if got, err := get(); err != nil || got != want {
			t.Fatalf("%d: %q, %v; want %q", i, got, err, want)
		}
	}
}

func TestWhatCannotBeReadLeavesWhatItWas(t *testing.T) {
	f, ca := newFolder(t), newCA(t)
	mine, next := ca.sign(server.ClientCertificate()), ca.sign(server.ClientCertificate())
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	conf := config(t, credential.TLS{Log: log, CAFile: f.write("ca", ca.ca.Cert), CertFile: f.write("cert", mine.Cert), KeyFile: f.write("key", mine.Key)})
	get, err := credential.Secret(f.write("secret", []byte("hush")), log)
	if err != nil {
		t.Fatal(err)
	}
	srv := serverWith(t, ca.sign(server.ServerCertificate("s")))
	for _, tc := range []struct {
		what string
		do   func()
		log  string
	}{
		{"a CA half written", func() { f.write("ca", ca.ca.Cert[:len(ca.ca.Cert)/2]) }, "ca holds no certificate"},
		{"a second CA half written", func() { f.write("ca", append(bytes.Clone(ca.ca.Cert), ca.ca.Cert[:99]...)) }, "ca ends in the middle of a certificate"},
		{"a CA that is gone", func() { remove(t, f.path("ca")) }, "ca: no such file"},
		{"a certificate without its key", func() { f.write("cert", next.Cert) }, "private key does not match"},
		{"an empty key", func() { f.write("key", nil) }, "key is empty"},
		{"a secret that is gone", func() { remove(t, f.path("secret")) }, "secret: no such file"},
		{"a secret without end", func() { f.write("secret", bytes.Repeat([]byte("x"), 2<<20)) }, "more than 1048576 bytes"},
		{"a secret of two lines", func() { f.write("secret", []byte("hush\nhush\n")) }, "more than one line"},
		{"an empty secret", func() { f.write("secret", []byte("\n")) }, "secret is empty"},
	} {
		logged.Reset()
		tc.do()
		for range 3 {
			if got, err := srv.shake(conf, "s"); err != nil || got != serialOf(t, mine) {
				t.Errorf("%s: %v, showed %s", tc.what, err, got)
			}
			if got, err := get(); err != nil || got != "hush" {
				t.Errorf("%s: the secret is %q, %v", tc.what, got, err)
			}
		}
		if n := strings.Count(logged.String(), "level=WARN"); n != 1 || !strings.Contains(logged.String(), tc.log) {
			t.Errorf("%s: logged %d times, want once with %q: %s", tc.what, n, tc.log, logged.String())
		}
	}
	f.write("key", next.Key)
	if got, err := srv.shake(conf, "s"); err != nil || got != serialOf(t, next) {
		t.Errorf("when the key has come, too: %v, showed %s", err, got)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsWrongAtTheBeginningIsAnError(t *testing.T) {
	f, ca := newFolder(t), newCA(t)
	p := ca.sign(server.ClientCertificate())
	caFile, cert, key := f.write("ca", ca.ca.Cert), f.write("cert", p.Cert), f.write("key", p.Key)
	bad := f.write("bad", []byte("s3cret"))
	damaged := f.write("damaged", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	for name, tc := range map[string]struct {
		conf credential.TLS
		want string
	}{
		"no CA":                 {credential.TLS{CAFile: f.path("none")}, "none: no such file"},
		"a directory":           {credential.TLS{CAFile: f.dir}, "no regular file"},
		"not a CA":              {credential.TLS{CAFile: bad}, "bad holds no certificate"},
		"a key instead":         {credential.TLS{CAFile: key}, "key holds no certificate"},
		"a damaged CA":          {credential.TLS{CAFile: damaged}, "damaged: certificate 1"},
		"no certificate":        {credential.TLS{CAFile: caFile, CertFile: f.path("none"), KeyFile: key}, "none: no such file"},
		"not a key":             {credential.TLS{CAFile: caFile, CertFile: cert, KeyFile: bad}, "bad: tls: failed to find any PEM data"},
		"one file for the both": {credential.TLS{CertFile: cert, KeyFile: cert}, "found a certificate rather than a key"},
	} {
		_, err := tc.conf.Config()
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	for path, want := range map[string]string{f.path("none"): "no such file", f.dir: "no regular file", f.write("empty", nil): "empty is empty", f.write("nul", []byte("s3cret\x00")): "the secret alone"} {
		_, err := credential.Secret(path, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("secret %s: %v, want %q", path, err, want)
		}
	}
}

func TestASecretIsItsLine(t *testing.T) {
	f := newFolder(t)
	for content, want := range map[string]string{"a": "a", "a\n": "a", "a\r\n": "a", " a b \n": " a b ", "ä€\n": "ä€", "#x:y@z/\n": "#x:y@z/"} {
		get, err := credential.Secret(f.write("secret", []byte(content)), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Errorf("%q: %v", content, err)
			continue
		}
		if got, err := get(); err != nil || got != want {
			t.Errorf("%q: %q, %v", content, got, err)
		}
	}
}

func TestExposed(t *testing.T) {
	path := newFolder(t).write("secret", []byte("x"))
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true, 0o604: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if got := credential.Exposed(path); got != want {
			t.Errorf("mode %o: %v", mode, got)
		}
	}
}
