package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Errors of certificates that callers branch on. Each comes with words that say whose certificate it is, and what to do.
var (
	ErrNone    = errors.New("no certificate")
	ErrExpired = errors.New("the certificate has expired")
	ErrNotYet  = errors.New("the certificate is not valid yet")
	ErrForeign = errors.New("the certificate is of another authority")
	ErrOther   = errors.New("the certificate is another host's")
	ErrUnfit   = errors.New("the certificate is not fit for this")
)

// verify checks another end's certificates: that an authority of roots has signed the first one, for a host, and for this use, and that it is good at this time.
func verify(certs []*x509.Certificate, roots *x509.CertPool, use x509.ExtKeyUsage, now time.Time) (Named, error) {
	if len(certs) == 0 {
		return Named{}, fmt.Errorf("%w was shown by the other end: it has to join the cluster first (`weft cluster token`, weftd --join)", ErrNone)
	}
	leaf := certs[0]
	named, err := NamedBy(leaf)
	if err != nil {
		return Named{}, fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err = leaf.Verify(opts); err == nil {
		return named, nil
	}
	return named, explain(leaf, named, opts, err)
}

// explain says in plain words why a certificate was refused. Whose authority it is comes first: times of a stranger's certificate mean nothing.
func explain(leaf *x509.Certificate, named Named, opts x509.VerifyOptions, err error) error {
	at := opts.CurrentTime
	opts.CurrentTime = leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	var unknown x509.UnknownAuthorityError
	if _, err := leaf.Verify(opts); errors.As(err, &unknown) {
		return fmt.Errorf("%w than this cluster's (%s): it is another cluster's, or the cluster's authority was made anew; the host that is wrong has to join again", ErrForeign, named)
	}
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) {
		return fmt.Errorf("%w (%s): %w", ErrUnfit, named, err)
	}
	switch {
	case invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("%w (%s): it must be for both ends of a connection (extended key usage serverAuth and clientAuth)", ErrUnfit, named)
	case at.Before(leaf.NotBefore):
		return fmt.Errorf("%w (%s): it is from %s on, and the clock of this host says %s: set the clocks of both right", ErrNotYet, named, day(leaf.NotBefore), day(at))
	case at.After(leaf.NotAfter):
		return fmt.Errorf("%w (%s): it was good until %s, and the clock of this host says %s: where that is right, that host has to join again (`weft cluster token`, weftd --join)",
			ErrExpired, named, day(leaf.NotAfter), day(at))
	}
	return fmt.Errorf("%w (%s): %w", ErrUnfit, named, err)
}

// PeerOf is whom the other end's certificate names, on a connection made with a Keeper's configuration, which has verified it; ErrNone where it has shown none.
func PeerOf(cs tls.ConnectionState) (Named, error) {
	if len(cs.PeerCertificates) == 0 {
		return Named{}, fmt.Errorf("%w was shown by the other end", ErrNone)
	}
	return NamedBy(cs.PeerCertificates[0])
}

// PrintOf is the Print of the key that the other end has shown; "" where it has shown none.
func PrintOf(cs tls.ConnectionState) string {
	if len(cs.PeerCertificates) == 0 {
		return ""
	}
	return Print(cs.PeerCertificates[0])
}
