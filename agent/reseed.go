package agent

import (
	"context"
	"errors"
	"time"

	"weft/agent/api"
	"weft/agent/event"
	"weft/agent/registry"
	"weft/store"
	"weft/store/record"
)

// Times of a reseed.
const (
	reseedPatience = 5 * time.Second        // for hosts that do not tell what they know, after the last one that has
	retellEvery    = 500 * time.Millisecond // how often a store that is not believed is asked whether the hosts are to put its records back
	retellTimeout  = time.Minute
)

// doWhenLost is what a user may do about a store that is not believed.
const doWhenLost = "nothing of it is acted upon; weft store reseed puts back what the hosts know, weft restore a backup"

// ReseedStore puts what the hosts know into a store that has lost the cluster's records.
func (a *Agent) ReseedStore(ctx context.Context, r api.ReseedRequest) (registry.ReseedResult, error) {
	lost, err := a.storeLost(ctx)
	if err != nil {
		return registry.ReseedResult{}, kindOf(a.member.explain(err))
	}
	if !lost {
		return registry.ReseedResult{}, api.Refuse(api.Invalid, "the store holds the records of this host's cluster and is believed: there is nothing to put back (weft store check looks for single records that are wrong)")
	}
	out, err := a.registry.Reseed(ctx, registry.ReseedRequest{
		By: a.member.identity().Host, Force: r.Force, DryRun: r.DryRun, Settle: settleTime, Patience: reseedPatience,
	}, a.knowledge())
	if err != nil {
		return out, kindOf(a.member.explain(err))
	}
	if !r.DryRun {
		a.events.Emit(event.Event{Type: event.Store, Action: event.Reseed, ID: out.Cluster, Attributes: map[string]string{"reason": "the store had lost the cluster's records"}})
		a.log.Warn("what the hosts know was put back into the store", "cluster", out.Cluster, "networks", out.Networks, "hosts", out.Hosts, "endpoints", out.Endpoints, "pending", out.Pending)
	}
	return out, nil
}

// storeLost tells whether the store does not hold this host's cluster as it has seen it; it asks the store itself, since the picture may not have
// heard of it yet.
func (a *Agent) storeLost(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	e, err := a.store.Get(ctx, record.ClusterKey())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return true, nil
	case err != nil:
		return false, err
	case a.follower.Doubt() != nil:
		return true, nil
	}
	var c record.Cluster
	return c.Decode(e.Value) != nil || c.ID != a.member.identity().Cluster, nil
}

// knowledge is what this host can put back.
func (a *Agent) knowledge() registry.Knowledge {
	p, histories := a.follower.PictureToKeep()
	id := a.member.identity()
	k := registry.Knowledge{Picture: p, Histories: histories}
	for _, s := range a.boxes.snapshot() {
		for _, at := range s.Attachments {
			if at.Endpoint != "" && !at.Intent && !a.isLocal(at.Network) {
				k.Own = append(k.Own, endpointOf(id.Host, id.Incarnation, s, at))
			}
		}
	}
	return k
}

// retell tells a store that is being reseeded by another host what this one knows, as long as the store is not believed.
func (a *Agent) retell(ctx context.Context) {
	told, doubted := "", false
	for {
		changed := a.follower.Changed()
		var again <-chan time.Time
		before := doubted
		if doubted = a.follower.Doubt() != nil; before && !doubted {
			a.member.lookAgain() // this host is a member again as soon as it can be
		}
		if doubted {
			changed, again = nil, a.clock.After(retellEvery)
			told = a.retellOnce(ctx, told)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
		}
	}
}

// retellOnce returns the ID of the last reseed that this host has told what it knows.
func (a *Agent) retellOnce(ctx context.Context, told string) string {
	ctx, cancel := context.WithTimeout(ctx, retellTimeout)
	defer cancel()
	asking, stop := context.WithTimeout(ctx, callTimeout)
	move, rev, err := a.registry.Move(asking)
	stop()
	id := a.member.identity()
	if err != nil || move == nil || !move.Reseed || move.State != record.MoveRestoring || move.Cluster != id.Cluster || move.ID == told {
		return told
	}
	if move.By == id.Host { // the call itself does it
		return told
	}
	a.log.Info("telling the store what this host knows", "asked_by", a.hostName(move.By))
	if err := a.registry.Retell(ctx, id.Host, move, rev, a.knowledge()); err != nil {
		if ctx.Err() == nil {
			a.log.Warn("cannot tell the store what this host knows yet; trying again", "error", err)
		}
		return told
	}
	return move.ID
}
