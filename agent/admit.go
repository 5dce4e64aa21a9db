package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/agent/registry"
	"weft/identity"
	"weft/store/record"
)

// errRemoved is what a host hears whose certificate went with its removal from the cluster.
var errRemoved = errors.New("this host " + registry.Untrusted)

// admitToStore tells whether another host's certificate, which the cluster's authority has signed, still opens the embedded store: a key that went
// with a host does not, whatever it asks for. A host that joins is not in the cluster yet, and must come in.
func (a *Agent) admitToStore(from net.Addr, c *x509.Certificate) error {
	f := a.pki.follower.Load()
	if f == nil {
		return status.Error(codes.Unavailable, "this agent is just starting")
	}
	if !f.Picture().Revoked(identity.Print(c)) {
		return nil
	}
	var host record.HostID
	if n, err := identity.NamedBy(c); err == nil {
		host = record.HostID(n.ID)
	}
	a.refusals.tell(host, from, fmt.Errorf("at the embedded store: %w", errRemoved))
	return status.Error(codes.PermissionDenied, errRemoved.Error())
}
