package peer

import (
	"crypto/tls"
	"net/netip"

	"weft/identity"
	"weft/store/record"
)

// Identity is what this host shows to other agents, and whom it takes for one of them: an identity.Keeper. It is asked for each connection anew,
// since certificates are replaced while the agent runs.
type Identity interface {
	// ServerTLS verifies the certificate of who connects, and demands none.
	ServerTLS() *tls.Config
	// ClientTLS takes nobody else for the host.
	ClientTLS(to identity.Host) *tls.Config
	// Current is this host's certificate; identity.ErrNone where it has none.
	Current() (*tls.Certificate, error)
	// Changed is closed when there is another certificate, or the first one.
	Changed() <-chan struct{}
}

// NamedAs is how a certificate may name a host.
func NamedAs(h *record.Host) identity.Host {
	out := identity.Host{ID: string(h.ID), Name: h.Name}
	if at, err := netip.ParseAddrPort(h.Advertise); err == nil {
		out.Addr = at.Addr().Unmap()
	}
	return out
}
