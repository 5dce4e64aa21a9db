package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft/agent/api"
	"weft/agent/event"
	"weft/agent/registry"
	"weft/store/record"
)

// clearEvery is how often this host looks for hosts to clear: those whose grace is over, and those that an agent which has died since had begun with.
const clearEvery = time.Second

// clearLost clears hosts that have been lost for the grace time. Every agent tries, and the fence lets one of them.
func (a *Agent) clearLost(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.clock.After(clearEvery):
		}
		if !a.member.joined() || a.follower.Doubt() != nil {
			continue
		}
		for _, id := range toClear(a.follower.Picture(), a.member.identity().Host, a.health.Due(a.cfg.StaleGrace)) {
			still := func() bool { return slices.Contains(a.health.Due(a.cfg.StaleGrace), id) }
			if _, err := a.clearHost(ctx, id, registry.Fencing{Still: still}); err != nil && ctx.Err() == nil {
				a.log.Warn("cannot clear a host that is lost; trying again", "host", a.hostName(id), "error", err)
			}
		}
	}
}

// toClear chooses the hosts to clear: of those whose grace is over the ones that nobody has cleared, and of those that are being cleared the ones
// whose clearer is not there, or is this host in an earlier life. It is pure.
func toClear(p *record.Snapshot, self record.HostID, due []record.HostID) []record.HostID {
	var out []record.HostID
	for _, id := range due {
		h, known := p.Host(id)
		if f, _ := p.Fence(id); known && (f == nil || f.Incarnation < h.Incarnation) {
			out = append(out, id)
		}
	}
	for f := range p.Fences() {
		if _, busy := p.Alive(f.By); f.Clearing && (f.By == self || !busy) && f.Host != self {
			out = append(out, f.Host)
		}
	}
	return out
}

// clearHost clears a host, or goes on with it, and returns how many endpoints went. 0 where another agent does it.
func (a *Agent) clearHost(ctx context.Context, id record.HostID, how registry.Fencing) (int, error) {
	as, err := a.member.claim(ctx)
	if err != nil {
		return 0, err
	}
	how.Busy = func(by record.HostID) bool { return a.sessionLasts(a.follower.Picture(), by) }
	name := a.hostName(id)
	fencing, cancel := context.WithTimeout(ctx, callTimeout) // what was decided on is not true for longer: the host may come back
	defer cancel()
	f, err := a.registry.FenceHost(fencing, as, id, how)
	if err != nil || f == nil {
		return 0, err
	}
	why := a.whyCleared(id, f)
	n := 0
	err = a.registry.ClearHost(ctx, as, f, func(ep *record.Endpoint) {
		n++
		a.tellCleared(ep, name, why)
	})
	if err != nil {
		return n, err
	}
	a.events.Emit(event.Event{Type: event.Host, Action: event.Clear, ID: string(id), Attributes: map[string]string{
		"name": name, "host": string(id), "host_name": name, "reason": why, "endpoints": fmt.Sprint(n), "incarnation": fmt.Sprint(f.Incarnation),
	}})
	return n, nil
}

// whyCleared says why a host is cleared.
func (a *Agent) whyCleared(id record.HostID, f *record.Fence) string {
	if f.Removing {
		return "its host was removed from the cluster"
	}
	if d, runs := a.health.Graced(id); runs {
		return fmt.Sprintf("its host has been lost for %s", d.Round(time.Second))
	}
	return "its host was lost for the grace time"
}

// tellCleared tells of an endpoint that was cleared.
func (a *Agent) tellCleared(ep *record.Endpoint, host, why string) {
	network := record.ShortID(ep.Network)
	if n, ok := a.picture().Network(ep.Network); ok {
		network = n.Name
	}
	a.events.Emit(event.Event{Type: event.Endpoint, Action: event.Clear, ID: string(ep.ID), Attributes: map[string]string{
		"name": ep.Name, "network": string(ep.Network), "network_name": network, "host": string(ep.Host), "host_name": host,
		"container": string(ep.Sandbox), "container_name": ep.Name, "reason": why,
	}})
}

// RemoveHost takes a host out of the cluster: what it has is cleared, and then its record goes. One that is there needs live.
func (a *Agent) RemoveHost(ctx context.Context, ref string, live bool) (api.RemovedHost, error) {
	h, err := a.removable(ref)
	if err != nil {
		return api.RemovedHost{}, err
	}
	out := api.RemovedHost{ID: h.ID, Name: h.Name}
	if h.ID == a.member.identity().Host {
		return out, api.Refuse(api.InUse, "host %s is this one: run the command on another host, after the end of the agent here", h.Name)
	}
	if a.health.Answers(a.follower.Picture(), h.ID) && !live {
		return out, api.Refuse(api.InUse, "host %s is %s: end its agent first, or add --live", h.Name, a.stateOf(a.follower.Picture(), h.ID))
	}
	n, err := a.clearHost(ctx, h.ID, registry.Fencing{Live: live, Remove: true})
	if err != nil {
		return out, kindOf(a.member.explain(err))
	}
	out.Endpoints = n
	seen, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for { // what is listed next does not have it any more
		changed := a.follower.Changed()
		if now, there := a.follower.Picture().Host(h.ID); !there || now.Incarnation > h.Incarnation {
			return out, nil
		}
		select {
		case <-changed:
		case <-seen.Done():
			return out, nil
		}
	}
}

// removable finds a host to remove. One that was removed before, by its ID, is no error.
func (a *Agent) removable(ref string) (*record.Host, error) {
	h, err := a.findHost(ref)
	var refused *api.Refusal
	if errors.As(err, &refused) && refused.Kind == api.NotFound {
		for f := range a.follower.Picture().Fences() {
			if string(f.Host) == ref || record.ShortID(f.Host) == ref {
				return &record.Host{ID: f.Host, Name: record.ShortID(f.Host)}, nil
			}
		}
	}
	return h, err
}
