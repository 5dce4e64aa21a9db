package identity

import (
	"crypto/x509"
	"net/url"
	"testing"
)

// No bytes that a stranger shows as a certificate, or as its URI, name a host ID in another spelling than weft's.
func FuzzNamedBy(f *testing.F) {
	f.Add("weft://host/0123abcd", []byte{0x30})
	f.Add("weft://host/a%2fb", []byte(nil))
	f.Add("weft://user@host/a?x#y", []byte(nil))
	f.Fuzz(func(t *testing.T, s string, der []byte) {
		check := func(c *x509.Certificate) {
			n, err := NamedBy(c)
			if err == nil && n.ID != "" && (checkID(n.ID) != nil || !n.Is(Host{ID: n.ID})) {
				t.Errorf("%q names %q", s, n.ID)
			}
		}
		if u, err := url.Parse(s); err == nil {
			if n, err := NamedBy(&x509.Certificate{URIs: []*url.URL{u}}); err == nil && s != "weft://host/"+n.ID && u.String() != "weft://host/"+n.ID {
				t.Errorf("%q names %q", s, n.ID)
			}
			check(&x509.Certificate{URIs: []*url.URL{u}, DNSNames: []string{"x"}})
		}
		if c, err := x509.ParseCertificate(der); err == nil {
			check(c)
		}
	})
}
