// Package identity is who a host is to the others: a certificate that the cluster's authority has signed for its host ID. The authority is a
// key in the state directory of one host; a token, which it makes, lets a host get its first certificate; a Keeper has a host's own
// certificate and key, and makes of them the TLS configurations by which agents speak with each other, and with an embedded store.
//
// Times are compared where certificates are: a host whose clock is wrong by more than an hour is told so, and not let in.
package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Host is how a certificate may name a host.
type Host struct {
	ID   string
	Name string     // in the cluster; "": not known
	Addr netip.Addr // that it is reached at; the zero Addr: not known
}

// Named is whom a certificate names.
type Named struct {
	ID    string       // "": no host ID, in certificates that weft has not made
	DNS   []string     // names
	Addrs []netip.Addr // addresses
}

// Is tells whether the certificate is h's: by the host ID where it has one, else by a name or an address.
func (n Named) Is(h Host) bool {
	if n.ID != "" {
		return n.ID == h.ID
	}
	named := func(d string) bool { return h.Name != "" && strings.EqualFold(d, h.Name) }
	return slices.ContainsFunc(n.DNS, named) || h.Addr.IsValid() && slices.Contains(n.Addrs, h.Addr.Unmap())
}

func (n Named) String() string {
	if n.ID != "" {
		return "host " + short(n.ID)
	}
	words := slices.Clone(n.DNS)
	for _, a := range n.Addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}

// NamedBy reads whom a certificate names. A host ID that is not written as weft does it is an error, and no other name counts then.
func NamedBy(c *x509.Certificate) (Named, error) {
	n := Named{DNS: c.DNSNames}
	for _, u := range c.URIs {
		if u.Scheme != scheme {
			continue
		}
		id, err := readURI(u)
		if err != nil {
			return Named{}, err
		}
		if n.ID != "" {
			return Named{}, errors.New("the certificate names two hosts")
		}
		n.ID = id
	}
	for _, ip := range c.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			n.Addrs = append(n.Addrs, a.Unmap())
		}
	}
	if n.ID == "" && len(n.DNS) == 0 && len(n.Addrs) == 0 {
		return Named{}, errors.New("the certificate names no host")
	}
	return n, nil
}

const scheme = "weft"

// uri is how a host ID stands in a certificate: weft://host/ID.
func uri(id string) *url.URL { return &url.URL{Scheme: scheme, Host: "host", Path: "/" + id} }

func readURI(u *url.URL) (string, error) {
	id := strings.TrimPrefix(u.Path, "/")
	if err := checkID(id); err != nil || u.String() != uri(id).String() {
		return "", fmt.Errorf("the certificate has the URI %q, and it must be weft://host/ID", u)
	}
	return id, nil
}

const maxID = 64

func checkID(id string) error {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("%q is no host ID: it has 1 to %d letters, digits, hyphens and underscores", id, maxID)
	}
	return nil
}

func short(id string) string { return id[:min(len(id), 12)] }

// Print is the SHA-256 of a certificate's public key, in hex: it stays the same when the certificate is renewed.
func Print(c *x509.Certificate) string {
	sum := fingerprint(c)
	return hex.EncodeToString(sum[:])
}

func fingerprint(c *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(c.RawSubjectPublicKeyInfo)
}

// Describe tells in words whose a certificate is, how it is told from others, who has signed it, and when it is good.
func Describe(c *x509.Certificate) string {
	named, err := NamedBy(c)
	whose := named.String()
	if err != nil {
		whose = "nobody that weft knows"
	}
	return fmt.Sprintf("for %s, serial %x, key %s, signed by %q, good from %s until %s",
		whose, c.SerialNumber, Print(c)[:16], c.Issuer.CommonName, day(c.NotBefore), day(c.NotAfter))
}
