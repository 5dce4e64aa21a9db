package credential

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"weft/store"
)

// TLS says which files hold what a connection to the store needs.
type TLS struct {
	CAFile            string   // who may have signed the servers' certificates; "": whom the machine trusts
	CertFile, KeyFile string   // this host's own; "": none
	ServerName        string   // that the servers' certificates must have; "": the one that was dialled
	Hosts             []string // names and addresses that may be dialled
	Log               *slog.Logger
}

// Config reads the files, and returns a configuration of clients that reads them again at each connection.
//
// crypto/tls has such a hook for the own certificate; for the servers' it has none beside doing all of their verification: that is what
// InsecureSkipVerify is set for, and verify does it.
func (t TLS) Config() (*tls.Config, error) {
	v := verifier{names: []string{t.ServerName}, fixed: t.ServerName != ""}
	if !v.fixed {
		v.names = t.Hosts
	}
	var err error
	if t.CAFile != "" {
		if v.roots, err = Authorities(t.CAFile, t.Log); err != nil {
			return nil, err
		}
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: true, VerifyConnection: v.verify}
	if t.CertFile != "" {
		pair, err := Pair(t.CertFile, t.KeyFile, t.Log)
		if err != nil {
			return nil, err
		}
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair(), nil }
	}
	return out, nil
}

// Pair reads a certificate and its key, which may be in one file, and returns what tells them as the files have them at each time.
func Pair(certFile, keyFile string, log *slog.Logger) (func() *tls.Certificate, error) {
	f, err := read(log, func(c [][]byte) (*tls.Certificate, error) {
		p, err := tls.X509KeyPair(c[0], c[1])
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
		}
		return &p, nil
	}, certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return f.get, nil
}

// Authorities reads the certificates of those who may have signed others, and returns what tells them as the file has them at each time.
func Authorities(path string, log *slog.Logger) (func() *x509.CertPool, error) {
	f, err := read(log, func(c [][]byte) (*x509.CertPool, error) { return poolOf(path, c[0]) }, path)
	if err != nil {
		return nil, err
	}
	return f.get, nil
}

// poolOf takes whole certificates only: a bundle whose end is missing is one that is being written.
func poolOf(path string, content []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for {
		var b *pem.Block
		if b, content = pem.Decode(content); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, n+1, err)
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	if bytes.Contains(content, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("%s ends in the middle of a certificate", path)
	}
	return pool, nil
}

// verifier checks servers.
type verifier struct {
	roots func() *x509.CertPool // nil: the machine's
	names []string              // one of them must be the certificate's where the dialled name is not known
	fixed bool                  // names is what the user says it must have, whatever was dialled
}

// verify does what crypto/tls would: chain, times, purpose and name. Where the dialled name is an address, the connection does not tell it
// (there is no SNI for addresses): then any of the names that could have been dialled is right, all of which are servers of the same store.
func (v verifier) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return untrusted{errors.New("the store's server shows no certificate")}
	}
	opts := x509.VerifyOptions{Intermediates: x509.NewCertPool()}
	if v.roots != nil {
		opts.Roots = v.roots()
	}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	leaf := cs.PeerCertificates[0]
	if _, err := leaf.Verify(opts); err != nil {
		return untrusted{fmt.Errorf("the certificate of the store's server is not trusted: %w (kv.cacertfile must hold the CA that signed it)", err)}
	}
	names := v.names
	if !v.fixed && cs.ServerName != "" {
		names = []string{cs.ServerName}
	}
	var err error
	for _, name := range names {
		if err = leaf.VerifyHostname(name); err == nil {
			return nil
		}
	}
	if err == nil {
		err = errors.New("no name is known that it must have")
	}
	return untrusted{fmt.Errorf("the certificate of the store's server is not for %s: %w (kv.servername tells which name it has)", strings.Join(names, ", "), err)}
}

// untrusted is the refusal of a server.
type untrusted struct{ error }

func (u untrusted) Unwrap() []error { return []error{store.ErrRefused, u.error} }
