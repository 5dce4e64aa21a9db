package peer

import (
	"crypto/tls"
	"crypto/x509"

	"weft/store/record"
)

// Identity is what this host shows to other agents, and whom it takes for one of them. It is asked for each connection anew, since certificates
// are replaced while the agent runs.
type Identity interface {
	// Server is for a connection that comes in: this host's certificate, and verification of the other's where it shows one; none is demanded.
	Server() (*tls.Config, error)
	// Client is for a connection to a host: nobody else is taken for it. ErrNoIdentity: this host has nothing to show.
	Client(h *record.Host) (*tls.Config, error)
	// HostOf tells whose a verified certificate is.
	HostOf(cert *x509.Certificate) (record.HostID, error)
}
