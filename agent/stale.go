package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/agent/api"
	"weft/agent/health"
	"weft/agent/registry"
	"weft/store/record"
)

// Records whose host is gone. Nobody but a host changes its endpoints, with two exceptions: a user who insists (network disconnect -f), and
// somebody who wants the name of an endpoint whose host has been lost for longer than the grace time. Both delete the record and leave the word
// of it, which the host obeys when it is back: it drops the attachment.

// lostFor is how long a host has been lost with its grace running, as this host has seen it; 0 where it is there, or where that is not sure. A host
// that the cluster does not know is lost for good.
func (a *Agent) lostFor(host record.HostID) (lost time.Duration, unsure bool) {
	p := a.global.follower.Picture()
	if _, alive := p.Alive(host); alive {
		return 0, false
	}
	if _, known := p.Host(host); !known && a.member.joined() {
		return max(a.cfg.StaleGrace, 1), false
	}
	if d, runs := a.health.Graced(host); runs {
		return max(d, 1), false
	}
	s := a.health.Verdict(host).State
	return 0, s == health.Unknown || s == health.Lost
}

// watchStale looks now and then, so that the time of a loss is known when somebody asks, and that what was cleared is dropped soon.
func (a *Agent) watchStale(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.clock.After(time.Second):
			if len(a.global.follower.Picture().ClearedOf(a.member.identity().Host)) > 0 {
				a.global.publisher.kick()
			}
		}
	}
}

// returnPatience is how long a claim waits for what a host that may be coming back releases.
const returnPatience = 1500 * time.Millisecond

// makeWay deals with an endpoint of another host that has the name: where that host has been lost for longer than the grace time, its record
// goes; where it has not been for that long yet, this is what the error says. After a store was away, hosts come back one by one, and the
// releases that they kept for it with them: these are waited for.
func (a *Agent) makeWay(ctx context.Context, as registry.Actor, n *record.Network, name string, own record.EndpointID) error {
	wait, cancel := context.WithTimeout(ctx, returnPatience)
	defer cancel()
	for {
		changed := a.global.follower.Changed()
		net, ok := a.global.follower.Picture().Net(n.ID)
		if !ok {
			return nil
		}
		ep, taken := net.ByName(name)
		if !taken || ep.ID == own || ep.Host == as.Host {
			return nil
		}
		lost, unsure := a.lostFor(ep.Host)
		switch {
		case lost >= a.cfg.StaleGrace && lost > 0:
			return a.clearEndpoint(ctx, as, n, ep, false)
		case lost > 0:
			return api.Refuse(api.Exists, "container already connected to network %s: endpoint %s is of host %s, which has been lost for %s; its record goes by itself in %s, and at once with: weft network disconnect -f %s %s",
				n.Name, ep.Name, a.hostName(ep.Host), lost.Round(time.Second), (a.cfg.StaleGrace - lost).Round(time.Second), n.Name, ep.Name)
		case !unsure:
			return nil // it is alive, and the claim says what there is to say
		}
		select {
		case <-changed:
		case <-wait.Done():
			return nil
		}
	}
}

// clearEndpoint takes another host's endpoint out of its network.
func (a *Agent) clearEndpoint(ctx context.Context, as registry.Actor, n *record.Network, ep *record.Endpoint, live bool) error {
	rev, err := a.global.registry.ClearEndpoint(ctx, as, n.ID, ep.ID, live)
	if err != nil {
		return kindOf(a.global.explain(err))
	}
	a.log.Warn("cleared another host's endpoint", "network", n.Name, "name", ep.Name, "host", a.hostName(ep.Host))
	if rev == 0 {
		return nil
	}
	seen, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := a.global.follower.WaitRev(seen, record.NetPartition(n.ID), rev); err != nil {
		a.log.Debug("own clearing not seen yet", "network", n.Name, "error", err)
	}
	return nil
}

// elsewhere deals with a target that this host does not have: forced, another host's endpoint is cleared where that host is gone or, with live,
// in any case.
func (a *Agent) elsewhere(ctx context.Context, n *record.Network, target string, how api.Disconnection) error {
	connected := api.Refuse(api.InUse, "container %s is not connected to network %s", target, n.Name)
	sc := a.scopeOf(n.ID)
	if sc != a.global {
		return connected
	}
	as, err := sc.claim(ctx)
	if err != nil {
		return err
	}
	defer a.uses.hold(n.ID)()
	known, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	if err := sc.follower.WaitSynced(known, record.NetPartition(n.ID)); err != nil {
		return sc.explain(fmt.Errorf("read the endpoints of network %s: %w", n.Name, err))
	}
	net, _ := sc.follower.Picture().Net(n.ID)
	ep, ok := endpointByRef(net, target)
	switch {
	case !ok:
		return connected
	case !how.Force:
		return api.Refuse(api.NotFound, "sandbox %s runs on host %s: run the command there", target, a.hostName(ep.Host))
	}
	switch lost, unsure := a.lostFor(ep.Host); {
	case unsure && !how.Live:
		return api.Refuse(api.InUse, "whether host %s, which has sandbox %s, is alive will be known in a moment: try again, or add --live", a.hostName(ep.Host), target)
	case lost == 0 && !how.Live:
		return api.Refuse(api.InUse, "sandbox %s is of host %s, which is alive: run the command there, or add --live", target, a.hostName(ep.Host))
	}
	return a.clearEndpoint(ctx, as, n, ep, how.Live)
}

// endpointByRef finds an endpoint by its name, or by its sandbox's ID.
func endpointByRef(net *record.Net, ref string) (*record.Endpoint, bool) {
	if net == nil {
		return nil, false
	}
	if ep, ok := net.ByName(ref); ok {
		return ep, true
	}
	for ep := range net.Endpoints() {
		if string(ep.Sandbox) == ref || record.ShortID(ep.Sandbox) == ref {
			return ep, true
		}
	}
	return nil, false
}

// obey drops the attachments of this host whose endpoints were cleared by others.
func (a *Agent) obey(ctx context.Context, as registry.Actor) error {
	var errs []error
	for _, c := range a.global.follower.Picture().ClearedOf(as.Host) {
		err := a.dropCleared(ctx, c)
		if err == nil {
			err = a.global.registry.Obeyed(ctx, as, c.Endpoint)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// dropCleared drops the attachment, if there still is one, of an endpoint that was cleared. What the store has of it again goes with it: this
// host may have put it back before it heard.
func (a *Agent) dropCleared(ctx context.Context, c *record.Cleared) error {
	for id := range a.boxes.snapshot() {
		if s, ok := a.boxes.get(id); !ok || !hasEndpoint(s, c.Endpoint) {
			continue
		}
		done, free := a.boxes.tryLock(id)
		if !free {
			return fmt.Errorf("sandbox %s is being changed; its attachment to network %s is dropped after that", record.ShortID(id), record.ShortID(c.Network))
		}
		defer done()
		s, ok := a.boxes.get(id)
		if !ok || !hasEndpoint(s, c.Endpoint) {
			return nil
		}
		a.log.Warn("a sandbox was taken out of its network by another host", "sandbox", s.Name, "network", record.ShortID(c.Network), "by", a.hostName(c.By))
		if err := a.leave(ctx, s, c.Network); err != nil {
			return err
		}
		now, _ := a.boxes.get(id)
		return a.serveNames(ctx, now)
	}
	return nil
}

func hasEndpoint(s *record.Sandbox, id record.EndpointID) bool {
	for _, at := range s.Attachments {
		if at.Endpoint == id {
			return true
		}
	}
	return false
}
