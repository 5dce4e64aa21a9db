package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Lifetimes of certificates, and by how much the clocks of two hosts may differ.
const (
	Lifetime          = 90 * 24 * time.Hour // of a host's certificate
	authorityLifetime = 10 * 365 * 24 * time.Hour
	skew              = time.Hour
)

const authorityFile = "authority.pem"

// maxCSR bounds a request, in bytes.
const maxCSR = 8 << 10

// ErrNoAuthority: the directory has none.
var ErrNoAuthority = errors.New("this host has no authority's key")

// Authority signs the certificates of a cluster's hosts. It is one file, authority.pem, with its certificate and its key: who has that is the authority.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte // the certificate alone
	now  func() time.Time
}

// CreateAuthority makes one in a directory, which has none yet.
func CreateAuthority(dir string, now func() time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, at := serialNumber(), now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"weft"}, CommonName: fmt.Sprintf("authority %x", serial.Bytes()[:4])},
		NotBefore: at.Add(-skew), NotAfter: at.Add(authorityLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, authorityFile)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("make the cluster's authority: %s is there already", path), err)
	}
	if err := writeFile(path, append(pemOf(der), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)); err != nil {
		return nil, err
	}
	return LoadAuthority(dir, now)
}

// LoadAuthority returns a directory's; ErrNoAuthority where it has none.
func LoadAuthority(dir string, now func() time.Time) (*Authority, error) {
	path := filepath.Join(dir, authorityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoAuthority
	}
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority from %s: %w", path, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s holds no authority's certificate with its key", path)
	}
	return &Authority{cert: pair.Leaf, key: key, pem: pemOf(pair.Leaf.Raw), now: now}, nil
}

// RemoveAuthority takes a directory's away: it has lost against another one, and has signed nothing.
func RemoveAuthority(dir string) error {
	if err := removeFile(filepath.Join(dir, authorityFile)); err != nil {
		return fmt.Errorf("remove this host's authority: %w", err)
	}
	return nil
}

// SetAside renames a directory's authority, which is not the cluster's, so that its name says so, and returns the file that it is in now. It may have
// signed certificates: whoever wants it back renames it again.
func (a *Authority) SetAside(dir string) (path string, err error) {
	path = filepath.Join(dir, "unused-authority-"+a.Print()[:12]+".pem")
	if err := os.Rename(filepath.Join(dir, authorityFile), path); err != nil {
		return "", fmt.Errorf("set this host's authority aside: %w", err)
	}
	return path, syncDir(dir)
}

// Certificate is the authority's own, in PEM.
func (a *Authority) Certificate() []byte { return bytes.Clone(a.pem) }

// Print is that of its public key.
func (a *Authority) Print() string { return Print(a.cert) }

// Issue signs a certificate for a host, by a request (PKCS #10, DER) that the host has made with Keeper.Request, and returns it in PEM, the
// authority's own after it. The lifetime ends with the authority's at the latest.
func (a *Authority) Issue(csr []byte, host string, lifetime time.Duration) ([]byte, error) {
	req, err := parseRequest(csr, host)
	if err != nil {
		return nil, err
	}
	serial, at := serialNumber(), a.now()
	if !at.Before(a.cert.NotAfter) {
		return nil, fmt.Errorf("the cluster's authority itself has expired on %s: make a new one", day(a.cert.NotAfter))
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"weft"}, CommonName: "host " + short(host)},
		NotBefore: at.Add(-skew), NotAfter: at.Add(lifetime), URIs: []*url.URL{uri(host)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, req.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	return append(pemOf(der), a.pem...), nil
}

// RequestPrint checks a request for a host, and returns the Print of its key.
func RequestPrint(csr []byte, host string) (string, error) {
	req, err := parseRequest(csr, host)
	if err != nil {
		return "", err
	}
	return Print(&x509.Certificate{RawSubjectPublicKeyInfo: req.RawSubjectPublicKeyInfo}), nil
}

func parseRequest(csr []byte, host string) (*x509.CertificateRequest, error) {
	if err := checkID(host); err != nil {
		return nil, err
	}
	if len(csr) > maxCSR {
		return nil, fmt.Errorf("the request for a certificate has %d bytes, and at most %d are possible", len(csr), maxCSR)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("the request for a certificate cannot be read: %w", err)
	}
	if len(req.URIs) != 1 || req.URIs[0].String() != uri(host).String() {
		return nil, fmt.Errorf("the request for a certificate is not for host %s", host)
	}
	switch key := req.PublicKey.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 {
			return nil, fmt.Errorf("the request for a certificate has an RSA key of %d bits, and at least 2048 are needed", key.N.BitLen())
		}
	default:
		return nil, fmt.Errorf("the request for a certificate has a key of a kind that is not supported (%T)", key)
	}
	return req, nil
}

func serialNumber() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] |= 0x40           // always of the same length
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }
