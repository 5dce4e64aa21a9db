package agent

import (
	"context"
	"errors"

	"weft/agent/peer"
	"weft/identity"
	"weft/store/record"
)

// certificateOf describes a host's certificate: this host's own, or what another one shows now. Where it cannot be seen it says why.
func (a *Agent) certificateOf(ctx context.Context, h *record.Host) string {
	switch {
	case a.pki.keeper == nil:
		return ""
	case h.ID == a.member.identity().Host:
		return a.ownCertificate()
	case h.PublicKey == "":
		return "none"
	case a.clients == nil || !a.health.Answers(a.follower.Picture(), h.ID):
		return "not known: the host does not answer"
	}
	c, err := a.clients.Certificate(ctx, h)
	switch {
	case errors.Is(err, peer.ErrNoIdentity):
		return "not known: this host has none itself, and cannot ask"
	case err != nil:
		return "not known: " + oneLine(err)
	}
	return identity.Describe(c)
}

func (a *Agent) ownCertificate() string {
	c, err := a.pki.keeper.Current()
	if errors.Is(err, identity.ErrNone) {
		return "none"
	}
	if err == nil {
		err = a.pki.keeper.Valid()
	}
	if err != nil {
		return "not good: " + err.Error()
	}
	return identity.Describe(c.Leaf)
}

// certificateNotes says where this host's certificate is none that others take. A host without one works.
func (a *Agent) certificateNotes() []string {
	if a.pki.keeper == nil {
		return nil
	}
	if err := a.pki.keeper.Valid(); err != nil && !errors.Is(err, identity.ErrNone) {
		return []string{"this host's certificate is not good: " + err.Error()}
	}
	return nil
}
