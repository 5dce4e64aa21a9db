package agent

import (
	"context"
	"fmt"
	"slices"

	"weft/agent/registry"
	"weft/store/record"
)

// Records that were put back on purpose, out of a backup or from what hosts knew, may be older than what this host has released since, also in
// networks that it does not use any more and does not follow: nobody else would know that these endpoints are nobody's. So it looks once into
// every such network when the cluster's records have a new history.

// strays is what is left to be looked at of one history.
type strays struct {
	history string
	left    []record.NetworkID
}

func historyOf(p *record.Snapshot) string {
	if c := p.Cluster(); c != nil {
		return c.History
	}
	return ""
}

// sweepAtOnce is how many networks are looked into in one pass: after a restore all hosts do so.
const sweepAtOnce = 4

// sweep deletes this host's endpoints that no sandbox of it has, in the networks that it does not follow, a few in each pass.
func (p *publisher) sweep(ctx context.Context, as registry.Actor) error {
	if p.read == nil {
		return nil
	}
	picture := p.follower.Picture()
	if now := historyOf(picture); now != p.strays.history {
		p.strays = strays{history: now}
		for n := range picture.Networks() {
			p.strays.left = append(p.strays.left, n.ID)
		}
	}
	for range min(sweepAtOnce, len(p.strays.left)) {
		if err := p.sweepOne(ctx, as, p.strays.left[0]); err != nil {
			return fmt.Errorf("look for endpoints that this host has released: %w", err)
		}
		p.strays.left = slices.Delete(p.strays.left, 0, 1)
	}
	return nil
}

func (p *publisher) sweepOne(ctx context.Context, as registry.Actor, id record.NetworkID) error {
	if _, followed := p.follower.Picture().Net(id); followed {
		return nil // correct does it
	}
	net, err := p.read(ctx, id)
	if err != nil || net == nil {
		return err
	}
	for ep := range net.Endpoints() {
		if ep.Host != as.Host || p.wanted(ep.ID) {
			continue
		}
		p.log.Warn("the store has an endpoint again that this host had released; deleting it", "name", ep.Name)
		if _, err := p.registry.DeleteEndpoint(ctx, as, id, ep.ID); err != nil {
			return err
		}
	}
	return nil
}
