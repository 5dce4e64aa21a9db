package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAnAuthorityIsOneFileOfItsOwner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := LoadAuthority(dir, time.Now); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("before there is one: %v", err)
	}
	a, err := CreateAuthority(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateAuthority(dir, time.Now); err == nil {
		t.Error("a second one is made over the first")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the directory has %v, %v", entries, err)
	}
	if i, err := entries[0].Info(); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	moved := t.TempDir() // what moving the authority to another host comes to
	b, err := os.ReadFile(filepath.Join(dir, authorityFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(moved, authorityFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := LoadAuthority(moved, time.Now)
	if err != nil || again.Print() != a.Print() {
		t.Errorf("elsewhere: %v", err)
	}
	tok, err := a.Token(time.Hour)
	if err != nil || again.VerifyToken(tok) != nil {
		t.Errorf("it does not know its tokens there: %v, %v", err, again.VerifyToken(tok))
	}
	if err := os.WriteFile(filepath.Join(moved, authorityFile), b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(moved, time.Now); err == nil || errors.Is(err, ErrNoAuthority) {
		t.Errorf("half a file: %v", err)
	}
	path, err := a.SetAside(dir)
	if err != nil || filepath.Dir(path) != dir || !strings.Contains(filepath.Base(path), "unused") {
		t.Errorf("set aside: %s, %v", path, err)
	}
	if _, err := LoadAuthority(dir, time.Now); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("after it was set aside: %v", err)
	}
	if err := os.Rename(path, filepath.Join(dir, authorityFile)); err != nil {
		t.Error(err)
	}
	if back, err := LoadAuthority(dir, time.Now); err != nil || back.Print() != a.Print() {
		t.Errorf("and back: %v", err)
	}
	if err := RemoveAuthority(dir); err != nil {
		t.Error(err)
	}
	if _, err := LoadAuthority(dir, time.Now); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("after its removal: %v", err)
	}
	if err := RemoveAuthority(dir); err != nil {
		t.Errorf("once more: %v", err)
	}
}

func TestACertificateIsForOneHostAndOneTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.keeper("aaaa")
	c, err := k.Current()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Leaf.NotAfter.Sub(w.at); got > Lifetime || got < Lifetime-time.Second {
		t.Errorf("it lasts %s", got)
	}
	if n, err := NamedBy(c.Leaf); err != nil || n.ID != "aaaa" || n.DNS != nil || n.Addrs != nil {
		t.Errorf("it names %+v, %v", n, err)
	}
	csr, err := k.Request("aaaa")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := RequestPrint(csr, "aaaa"); err != nil || p != k.Print() {
		t.Errorf("the request has the key %s, %v", p, err)
	}
	w.at = w.at.Add(authorityLifetime - time.Hour)
	if _, err := w.auth.Issue(csr, "aaaa", Lifetime); err != nil {
		t.Error(err)
	}
	w.renew(k, "aaaa", Lifetime)
	if c, err = k.Current(); err != nil || c.Leaf.NotAfter.After(w.auth.cert.NotAfter) {
		t.Errorf("it outlives its authority: %v", err)
	}
	w.at = w.at.Add(2 * time.Hour)
	if _, err := w.auth.Issue(csr, "aaaa", Lifetime); err == nil {
		t.Error("an authority that has expired signs")
	}
}

func TestRequestsThatAreNotAsTheyMustBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	request := func(uris []*url.URL, key any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: uris}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := request([]*url.URL{uri("aaaa")}, key)
	broken := append([]byte(nil), good...)
	broken[len(broken)-1] ^= 1
	for name, tc := range map[string]struct {
		csr  []byte
		host string
	}{
		"another host":   {request([]*url.URL{uri("bbbb")}, key), "aaaa"},
		"no host":        {request(nil, key), "aaaa"},
		"two hosts":      {request([]*url.URL{uri("aaaa"), uri("bbbb")}, key), "aaaa"},
		"a weak key":     {request([]*url.URL{uri("aaaa")}, weak), "aaaa"},
		"no proof":       {broken, "aaaa"},
		"nothing":        {nil, "aaaa"},
		"a bad ID":       {good, "../aaaa"},
		"too long an ID": {good, string(make([]byte, 100))},
		"too much":       {make([]byte, maxCSR+1), "aaaa"},
	} {
		if _, err := w.auth.Issue(tc.csr, tc.host, time.Hour); err == nil {
			t.Errorf("%s: it is signed", name)
		}
	}
	if _, err := w.auth.Issue(good, "aaaa", time.Hour); err != nil {
		t.Error(err)
	}
}
