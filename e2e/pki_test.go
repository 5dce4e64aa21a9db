package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
)

// office is an authority of the user's own, as one of other make would be: its certificates know nothing of weft.
type office struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	made int64
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, dir: t.TempDir()}
	var err error
	o.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	o.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "office"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, o.cert, o.cert, &o.key.PublicKey, o.key)
	must(t, err)
	o.write("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: der})
	return o
}

func (o *office) write(name string, b *pem.Block) string {
	o.t.Helper()
	path := filepath.Join(o.dir, name)
	must(o.t, os.WriteFile(path, pem.EncodeToMemory(b), 0o600))
	return path
}

// issue makes the files of a host, under whatever name it has for others, and returns weftd's options for them.
func (o *office) issue(file, name string, lifetime time.Duration) []string {
	o.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(o.t, err)
	o.made++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1 + o.made), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, o.cert, &key.PublicKey, o.key)
	must(o.t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	must(o.t, err)
	return []string{
		"--peer-cacertfile", filepath.Join(o.dir, "ca.pem"),
		"--peer-certfile", o.write(file+".pem", &pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"--peer-keyfile", o.write(file+"-key.pem", &pem.Block{Type: "PRIVATE KEY", Bytes: raw}),
	}
}

// Given certificates of a PKI of the user's own on each host, then agents know each other by them, and the embedded store takes them, without any
// authority of weft's; wrong ones are refused at once; and new ones count without a restart.
func TestCertificatesOfAnotherPKI(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	h1, h2 := c.hosts[0], c.hosts[1]
	must(t, os.RemoveAll(h1.pki(""))) // the lab's authority
	o := newOffice(t)
	store := []string{"--cluster-store", "etcd://" + h1.Addr.String() + ":2379/weft", "--cluster-store-opt", "kv.certificate=host"}
	h1.NoJoin, h1.Args = true, o.issue("h1", "host1", time.Hour)
	h2.NoJoin, h2.Args = true, append(o.issue("h2", "host2", time.Hour), store...)
	h1.refusedEntry(o.issue("old", "host1", -time.Minute), "--peer-certfile", "the certificate has expired")
	h1.refusedEntry(newOffice(t).issue("h1", "host1", time.Hour)[2:], "--peer-certfile", "the certificate is of another authority")
	h1.refusedEntry([]string{"--peer-keyfile", "/no/such/file"}, "--peer-keyfile", "/no/such/file")
	c.start()
	networked(t, h1, h2)
	h1.refuses(1, "come from files (--peer-certfile): no token gives one", "cluster", "token")
	if _, err := os.Stat(h1.pki("authority.pem")); err == nil {
		t.Error("an authority of weft's was made beside it")
	}

	// Whoever has a certificate of the PKI under a name that is no host's is none.
	n, err := c.lab.AddNode("other")
	must(t, err)
	files := o.issue("other", "other", time.Hour)
	other, err := tls.LoadX509KeyPair(files[3], files[5])
	must(t, err)
	if err := hello(within(t, patience), n, h1, &tls.Config{Certificates: []tls.Certificate{other}}); err == nil || !strings.Contains(err.Error(), "not in the cluster") {
		t.Errorf("it is answered: %v", err)
	}

	shown := func() string { return h1.weft("host", "inspect", "-f", "{{.Certificate}}", "host2") }
	was := shown()
	o.issue("h2", "host2", 2*time.Hour) // with another key
	eventually(t, patience, func() error {
		if now := shown(); now == was || !strings.Contains(now, "good from") {
			return fmt.Errorf("host1 is shown %q", now)
		}
		return nil
	})
	commanded(t, h1, "b")
	commanded(t, h2, "a")
}
