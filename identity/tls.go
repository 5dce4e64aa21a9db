package identity

import (
	"crypto/hmac"
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// All configurations verify the other end themselves (VerifyConnection, which crypto/tls calls for resumed sessions, too), for host IDs are no
// names that crypto/tls knows, whom to trust may change meanwhile, and a refusal is to say what is wrong. InsecureSkipVerify and RequestClientCert
// leave that to them.

// ServerTLS is what this host serves others with. A caller may show no certificate: PeerOf tells then, and only Enrolment is for it. One that is shown must be right.
func (k *Keeper) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.Current() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			_, err := k.verify(cs, x509.ExtKeyUsageClientAuth)
			return err
		},
	}
}

// ClientTLS is what this host calls another one with: the other end must be that very host. The zero Host: any host of the cluster.
func (k *Keeper) ClientTLS(to Host) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.Current() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			named, err := k.verify(cs, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
			if to != (Host{}) && !named.Is(to) {
				return fmt.Errorf("%w: %s answers where host %s (%s) should", ErrOther, named, to.Name, short(to.ID))
			}
			return nil
		},
	}
}

func (k *Keeper) verify(cs tls.ConnectionState, use x509.ExtKeyUsage) (Named, error) {
	_, roots, err := k.have()
	if err != nil {
		return Named{}, err
	}
	return verify(cs.PeerCertificates, roots(), use, k.now())
}

// TLS is what a host that has no certificate yet calls the one with that it joins at: the other end must be of the authority that the token tells.
func (t Token) TLS(k *Keeper) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			roots := x509.NewCertPool()
			for _, c := range cs.PeerCertificates[min(1, len(cs.PeerCertificates)):] {
				if print := fingerprint(c); c.IsCA && hmac.Equal(print[:], t.authority[:]) {
					roots.AddCert(c)
				}
			}
			_, err := verify(cs.PeerCertificates, roots, x509.ExtKeyUsageServerAuth, k.now())
			return err
		},
	}
}
