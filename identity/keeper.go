package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"weft/store/credential"
)

const (
	hostFile  = "host.pem"
	trustFile = "authorities.pem"
)

// Files are where a host's identity is: those of a Keeper's directory, or those of a PKI that others keep. Certificate and key may be one file.
type Files struct{ CA, Cert, Key string }

// Keeper has a host's key and certificate, and knows whom the host trusts. Both are read again when their files change, and connections that
// are made from then on have what is new: nothing is to be restarted. Its methods may be called from any goroutine.
type Keeper struct {
	files Files
	own   bool // the files are this Keeper's to write
	now   func() time.Time
	log   *slog.Logger

	mu      sync.Mutex // guards what follows
	pair    func() *tls.Certificate
	roots   func() *x509.CertPool
	key     crypto.Signer // of a request that has no certificate yet
	changed chan struct{} // closed and replaced by each Store
}

// Open returns the Keeper of a directory, which need not hold a certificate yet.
func Open(dir string, now func() time.Time, log *slog.Logger) (*Keeper, error) {
	host := filepath.Join(dir, hostFile)
	k := newKeeper(Files{CA: filepath.Join(dir, trustFile), Cert: host, Key: host}, now, log)
	k.own = true
	if _, err := os.Stat(host); errors.Is(err, os.ErrNotExist) {
		return k, nil
	}
	return k, k.read()
}

// OpenFiles returns the Keeper of a PKI that others keep: the files must be there.
func OpenFiles(f Files, now func() time.Time, log *slog.Logger) (*Keeper, error) {
	k := newKeeper(f, now, log)
	return k, k.read()
}

func newKeeper(f Files, now func() time.Time, log *slog.Logger) *Keeper {
	return &Keeper{files: f, now: now, log: log, changed: make(chan struct{})}
}

func (k *Keeper) read() error {
	pair, err := credential.Pair(k.files.Cert, k.files.Key, k.log)
	if err != nil {
		return fmt.Errorf("read this host's certificate: %w", err)
	}
	roots, err := credential.Authorities(k.files.CA, k.log)
	if err != nil {
		return fmt.Errorf("read whom this host trusts: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pair, k.roots = pair, roots
	close(k.changed)
	k.changed = make(chan struct{})
	return nil
}

// Files are where the certificate, its key and the authorities are, also before there is a certificate.
func (k *Keeper) Files() Files { return k.files }

// Given tells that the certificate comes from a PKI that others keep: it is not this host's to renew.
func (k *Keeper) Given() bool { return !k.own }

// Changed is closed when a certificate is stored next.
func (k *Keeper) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// Current is this host's certificate with its key; ErrNone where it has none.
func (k *Keeper) Current() (*tls.Certificate, error) {
	pair, _, err := k.have()
	if err != nil {
		return nil, err
	}
	return pair(), nil
}

// Valid tells whether this host has a certificate that is good now, as far as its own clock and its own authorities say; nil: it has.
func (k *Keeper) Valid() error {
	pair, roots, err := k.have()
	if err != nil {
		return err
	}
	certs, err := chain(pair())
	if err != nil {
		return err
	}
	_, err = verify(certs, roots(), x509.ExtKeyUsageClientAuth, k.now())
	return err
}

// Life is when the certificate was made, and when it ends.
type Life struct{ Begin, End time.Time }

// Life is that of this host's certificate.
func (k *Keeper) Life() (Life, error) {
	c, err := k.Current()
	if err != nil {
		return Life{}, err
	}
	begin := c.Leaf.NotBefore
	if k.own {
		begin = begin.Add(skew)
	}
	return Life{Begin: begin, End: c.Leaf.NotAfter}, nil
}

func (k *Keeper) have() (func() *tls.Certificate, func() *x509.CertPool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pair == nil {
		return nil, nil, fmt.Errorf("%w: this host has not joined its cluster (`weft cluster token`, weftd --join)", ErrNone)
	}
	return k.pair, k.roots, nil
}

// Print is that of this host's key; "" where it has no certificate.
func (k *Keeper) Print() string {
	c, err := k.Current()
	if err != nil {
		return ""
	}
	return Print(c.Leaf)
}

// Request returns a request for a certificate (PKCS #10, DER). The key is this host's, or a new one that stays in memory until there is a certificate for it.
func (k *Keeper) Request(host string) ([]byte, error) {
	if err := checkID(host); err != nil {
		return nil, err
	}
	key, err := k.signer()
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri(host)}}, key)
}

func (k *Keeper) signer() (crypto.Signer, error) {
	if c, err := k.Current(); err == nil {
		if key, ok := c.PrivateKey.(crypto.Signer); ok {
			return key, nil
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		k.key = key
	}
	return k.key, nil
}

// Store takes a certificate that was signed for this host's Request, and the authorities to trust from now on, both in PEM, and puts them on the
// disk. What does not fit the key, the host or the authorities is refused, and what was before stays.
func (k *Keeper) Store(host string, certificate, authorities []byte) error {
	if !k.own {
		return errors.New("this host's certificate is kept by others")
	}
	key, err := k.signer()
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	content := append(bytes.Clone(certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)
	if err := k.check(host, content, authorities); err != nil {
		return fmt.Errorf("take this host's certificate: %w", err)
	}
	if err := writeFile(k.files.CA, authorities); err != nil {
		return err
	}
	if err := writeFile(k.files.Cert, content); err != nil {
		return err
	}
	return k.read()
}

func (k *Keeper) check(host string, content, authorities []byte) error {
	pair, err := tls.X509KeyPair(content, content)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authorities) {
		return errors.New("no authority comes with it")
	}
	certs, err := chain(&pair)
	if err != nil {
		return err
	}
	named, err := verify(certs, roots, x509.ExtKeyUsageClientAuth, k.now())
	if err != nil {
		return err
	}
	if named.ID != host {
		return fmt.Errorf("%w: it is for %s, and this is host %s", ErrOther, named, short(host))
	}
	return nil
}

// chain is a certificate with those that it brings along.
func chain(c *tls.Certificate) ([]*x509.Certificate, error) {
	certs := make([]*x509.Certificate, 0, len(c.Certificate))
	for _, der := range c.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// Authorities are those whom this host trusts, in PEM, as they are on the disk.
func (k *Keeper) Authorities() ([]byte, error) {
	b, err := os.ReadFile(k.files.CA)
	if err != nil {
		return nil, fmt.Errorf("read whom this host trusts: %w", err)
	}
	return slices.Clip(b), nil
}
