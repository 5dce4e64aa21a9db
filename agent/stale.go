package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"weft/agent/api"
	"weft/agent/health"
	"weft/agent/peer"
	"weft/agent/registry"
	"weft/store"
	"weft/store/record"
)

// Records whose sandbox or host is gone. Nobody but a host changes its endpoints, with three exceptions: a user who insists (network disconnect
// -f), somebody who wants the name or an address of an endpoint that its host does not have any more, or whose host has been lost for longer than the
// grace time, and the clearing of a host (healthclear.go). The first leaves the word of it where the host could not be told, which it obeys when
// it is back: it drops the attachment. After the others it puts the record back where nobody has taken what it had (return.go).

// lostFor is how long a host has been lost with its grace running, as this host has seen it; 0 where it is there, or where that is not sure. A host
// that the cluster does not know is lost for good.
func (a *Agent) lostFor(host record.HostID) (lost time.Duration, unsure bool) {
	p := a.global.follower.Picture()
	if a.sessionLasts(p, host) {
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

// watchStale looks now and then, so that what was cleared is dropped soon, and that a host which was fenced, or whose sign of life is gone, hears of it.
func (a *Agent) watchStale(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.clock.After(time.Second):
			p, id := a.global.follower.Picture(), a.member.identity()
			if len(p.ClearedOf(id.Host)) > 0 {
				a.global.publisher.kick()
			}
			if fenced(p, id.Host, id.Incarnation) || a.member.joined() && a.follower.Synced(store.Alive) && !a.member.signed(p) {
				a.member.lookAgain()
			}
			a.tellTwins(p)
		}
	}
}

// returnPatience is how long a claim waits for what a host that may be coming back releases.
const returnPatience = 1500 * time.Millisecond

// ownsTimeout is how long the host of a record has to say whether it has the sandbox.
const ownsTimeout = time.Second

// standing of a record: whether its sandbox is there.
type holding uint8

const (
	unsureHeld holding = iota // nobody can say yet
	held                      // its host says so, or cannot be asked and is there
	graced                    // its host is lost, and its grace runs
	vacant                    // its host says that it has no such sandbox, or is gone
)

// holdingOf asks whether a record's sandbox is there, and says why it is, or is not.
func (a *Agent) holdingOf(ctx context.Context, ep *record.Endpoint) (h holding, why string) {
	host, known := a.follower.Picture().Host(ep.Host)
	name := a.hostName(ep.Host)
	switch lost, unsure := a.lostFor(ep.Host); {
	case !known && lost > 0:
		return vacant, "host " + name + " is not in the cluster"
	case lost >= a.cfg.StaleGrace && lost > 0:
		return vacant, fmt.Sprintf("host %s has been lost for %s", name, lost.Round(time.Second))
	case lost > 0:
		return graced, fmt.Sprintf("host %s has been lost for %s", name, lost.Round(time.Second))
	case unsure || !known:
		return unsureHeld, "whether host " + name + " is there will be known in a moment"
	case host.PublicKey == "":
		return held, "host " + name + " is there"
	}
	ctx, cancel := context.WithTimeout(ctx, ownsTimeout)
	defer cancel()
	has, unsure, err := a.peers.Owns(ctx, host, []record.EndpointID{ep.ID})
	switch {
	case errors.Is(err, peer.ErrNoIdentity), errors.Is(err, peer.ErrOld):
		return held, "host " + name + " is there"
	case err != nil:
		return unsureHeld, "host " + name + " does not answer"
	case has[ep.ID]:
		return held, "host " + name + " has it"
	case unsure:
		return unsureHeld, "the agent of host " + name + " is just starting"
	}
	return vacant, "host " + name + " says that it has no such sandbox"
}

// rival is an endpoint of another host that has what an attachment wants.
type rival struct {
	*record.Endpoint
	has string // the address that is wanted, in words; "": the name
}

// says tells in Docker's words whose it is.
func (r rival) says(network, host string) string {
	if r.has == "" {
		return fmt.Sprintf("container already connected to network %s: endpoint %s is of host %s", network, r.Name, host)
	}
	return fmt.Sprintf("Address already in use: %s belongs to %s on host %s", r.has, r.Name, host)
}

// blocking returns what has the name or an address that an attachment wants, on another host. It is pure.
func blocking(net *record.Net, self record.HostID, name string, want record.Attachment) (rival, bool) {
	other := func(ep *record.Endpoint, taken bool) bool { return taken && ep.ID != want.Endpoint && ep.Host != self }
	if ep, taken := net.ByName(name); other(ep, taken) {
		return rival{Endpoint: ep}, true
	}
	if ep, taken := net.ByMAC(want.MAC); other(ep, taken) {
		return rival{ep, "hardware address " + string(want.MAC)}, true
	}
	for f := range families {
		addr := asked(want, f)
		if !addr.IsValid() {
			continue
		}
		if ep, taken := net.ByAddr(addr); other(ep, taken) {
			return rival{ep, addr.String()}, true
		}
	}
	return rival{}, false
}

// makeWay deals with endpoints of other hosts that have the name, or an address, that is wanted: one that its host does not have any more goes; where
// its host has not been lost for long enough yet, this is what the error says. After a store was away, hosts come back one by one, and the
// releases that they kept for it with them: these are waited for.
func (a *Agent) makeWay(ctx context.Context, as registry.Actor, n *record.Network, name string, want record.Attachment) error {
	wait, cancel := context.WithTimeout(ctx, returnPatience)
	defer cancel()
	for {
		changed := a.global.follower.Changed()
		net, ok := a.global.follower.Picture().Net(n.ID)
		if !ok {
			return nil
		}
		ep, blocks := blocking(net, as.Host, name, want)
		if !blocks {
			return nil
		}
		h, why := a.holdingOf(wait, ep.Endpoint)
		switch h {
		case held:
			return nil // and the claim says what there is to say
		case vacant:
			if err := a.clearStale(ctx, as, n, ep.Endpoint, why); err != nil {
				return err
			}
			continue
		case graced:
			lost, _ := a.lostFor(ep.Host)
			return api.Refuse(api.Exists, "%s, which has been lost for %s; its record goes by itself in %s, and at once with: weft network disconnect -f %s %s",
				ep.says(n.Name, a.hostName(ep.Host)), lost.Round(time.Second), max(a.cfg.StaleGrace-lost, time.Second).Round(time.Second), n.Name, ep.Name)
		}
		select {
		case <-changed:
		case <-a.clock.After(settleEvery):
		case <-wait.Done():
			return api.Refuse(api.Exists, "%s, and %s; once that host is lost its record goes by itself within %s, and at once with: weft network disconnect -f --live %s %s",
				ep.says(n.Name, a.hostName(ep.Host)), why, a.cfg.StaleGrace, n.Name, ep.Name)
		}
	}
}

// clearStale deletes a record whose sandbox is gone: its host does where it is there, this one otherwise.
func (a *Agent) clearStale(ctx context.Context, as registry.Actor, n *record.Network, ep *record.Endpoint, why string) error {
	if a.drop(ctx, n, ep, false, why) {
		return nil
	}
	return a.clearEndpoint(ctx, as, n, ep, registry.Clearing{Live: true}, why)
}

// drop lets an endpoint's host take it out of the network. False: it could not be asked, or refuses.
func (a *Agent) drop(ctx context.Context, n *record.Network, ep *record.Endpoint, live bool, why string) bool {
	h, ok := a.follower.Picture().Host(ep.Host)
	if !ok || h.PublicKey == "" || !a.health.Answers(a.follower.Picture(), ep.Host) {
		return false
	}
	asking, cancel := context.WithTimeout(ctx, ownsTimeout)
	defer cancel()
	if _, err := a.peers.Drop(asking, h, n.ID, ep.ID, live, why); err != nil {
		a.log.Debug("another host does not drop its endpoint itself", "name", ep.Name, "host", h.Name, "error", err)
		return false
	}
	if !a.awaitGone(asking, n.ID, ep.ID) {
		return false
	}
	a.tellCleared(ep, h.Name, why)
	return true
}

// awaitGone waits until the picture has an endpoint no more.
func (a *Agent) awaitGone(ctx context.Context, n record.NetworkID, id record.EndpointID) bool {
	for {
		changed := a.global.follower.Changed()
		net, known := a.global.follower.Picture().Net(n)
		if !known {
			return true
		}
		if _, there := net.Endpoint(id); !there {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// clearEndpoint takes another host's endpoint out of its network.
func (a *Agent) clearEndpoint(ctx context.Context, as registry.Actor, n *record.Network, ep *record.Endpoint, how registry.Clearing, why string) error {
	_, done, err := a.global.registry.ClearEndpoint(ctx, as, n.ID, ep.ID, how)
	if err != nil {
		return kindOf(a.global.explain(err))
	}
	if done {
		a.tellCleared(ep, a.hostName(ep.Host), why)
	}
	seen, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if !a.awaitGone(seen, n.ID, ep.ID) {
		a.log.Debug("own clearing not seen yet", "network", n.Name, "name", ep.Name)
	}
	return nil
}

// meansHere tells whether a reference that fits a sandbox of this host means it in a network.
func (a *Agent) meansHere(s *record.Sandbox, id record.NetworkID, ref string) bool {
	net, _ := a.scopeOf(id).follower.Picture().Net(id)
	return meant(s, fitOf(a.boxes.snapshot(), ref), net, id, ref)
}

// meant is meansHere, and pure: where a reference is a mere beginning of the sandbox's ID, what has that name there on another host goes before it. One of
// a namespace of others (docker:…) fits no sandbox's name or ID, and is this host's. net is nil where it is not known.
func meant(s *record.Sandbox, how fit, net *record.Net, id record.NetworkID, ref string) bool {
	if how != fitsPartly {
		return true
	}
	if _, in := s.Attachment(id); !in {
		return false
	}
	if net == nil {
		return true
	}
	ep, named := net.ByName(ref)
	return !named || ep.Sandbox == s.ID
}

// elsewhere deals with a target that this host does not have: forced, another host's endpoint is cleared where that host is gone or has no such
// sandbox or, with live, in any case. What waits for its host to hear of it is done already.
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
	ep, err := endpointByRef(net, target)
	switch {
	case err != nil:
		return err
	case ep == nil && how.Force && a.wasCleared(n.ID, target):
		return nil
	case ep == nil:
		return connected
	case !how.Force:
		return a.unasked(ep, n, target)
	}
	h, why := a.holdingOf(ctx, ep)
	switch {
	case how.Live && a.drop(ctx, n, ep, true, "network disconnect -f --live"):
		return nil
	case how.Live:
		return a.clearEndpoint(ctx, as, n, ep, registry.Clearing{Live: true, Word: true}, "network disconnect -f --live")
	case h == unsureHeld:
		return api.Refuse(api.InUse, "sandbox %s is of host %s, and %s: try again, or add --live", target, a.hostName(ep.Host), why)
	case h == held:
		return api.Refuse(api.InUse, "sandbox %s is of host %s, which is alive: leave -f out and it is asked to, or add --live", target, a.hostName(ep.Host))
	case h == graced:
		return a.clearEndpoint(ctx, as, n, ep, registry.Clearing{Word: true}, "network disconnect -f: "+why)
	}
	if a.drop(ctx, n, ep, false, "network disconnect -f: "+why) {
		return nil
	}
	return a.clearEndpoint(ctx, as, n, ep, registry.Clearing{Live: true, Word: true}, "network disconnect -f: "+why)
}

// wasCleared tells whether an endpoint of a network, by what users know of it, was cleared, and its host has not heard of it yet.
func (a *Agent) wasCleared(n record.NetworkID, ref string) bool {
	for c := range a.follower.Picture().AllCleared() {
		if c.Network != n || ref == "" {
			continue
		}
		if record.Fold(c.Name) == record.Fold(ref) || strings.HasPrefix(string(c.Endpoint), ref) || strings.HasPrefix(string(c.Sandbox), ref) {
			return true
		}
	}
	return false
}

// endpointByRef finds an endpoint by its name, by its sandbox's ID or its own, or by the only such ID that begins so. It is nil where there is none.
func endpointByRef(net *record.Net, ref string) (*record.Endpoint, error) {
	if net == nil || ref == "" {
		return nil, nil
	}
	if ep, ok := net.ByName(ref); ok {
		return ep, nil
	}
	var found *record.Endpoint
	for ep := range net.Endpoints() {
		switch {
		case string(ep.Sandbox) == ref || string(ep.ID) == ref:
			return ep, nil
		case !strings.HasPrefix(string(ep.Sandbox), ref) && !strings.HasPrefix(string(ep.ID), ref):
		case found != nil:
			return nil, api.Refuse(api.Invalid, "multiple endpoints found with the ID prefix %q: %s and %s", ref, found.Name, ep.Name)
		default:
			found = ep
		}
	}
	return found, nil
}

// staleTimeout is how long the hosts of records have to say which sandboxes they have, when all are asked.
const staleTimeout = 1500 * time.Millisecond

// staleAmong returns those endpoints whose sandbox or host is gone, with the reason. The hosts are asked, all at once; what is of one that
// cannot be asked stays out, unless that host is lost.
func (a *Agent) staleAmong(ctx context.Context, views []api.EndpointView) []api.EndpointView {
	ctx, cancel := context.WithTimeout(ctx, staleTimeout)
	defer cancel()
	by := map[record.HostID][]record.EndpointID{}
	for _, v := range views {
		if v.Host != a.member.identity().Host {
			by[v.Host] = append(by[v.Host], v.ID)
		}
	}
	var mu sync.Mutex // guards why
	why := map[record.EndpointID]string{}
	var asking sync.WaitGroup
	for host, ids := range by {
		asking.Go(func() {
			found := a.staleOf(ctx, host, ids)
			mu.Lock()
			defer mu.Unlock()
			for id, w := range found {
				why[id] = w
			}
		})
	}
	asking.Wait()
	var out []api.EndpointView
	for _, v := range views {
		if w, stale := why[v.ID]; stale {
			v.Stale = w
			out = append(out, v)
		}
	}
	return out
}

// ownedAtOnce is how many endpoints one question may be about.
const ownedAtOnce = 1000

// staleOf tells which of a host's endpoints are stale, and why.
func (a *Agent) staleOf(ctx context.Context, host record.HostID, ids []record.EndpointID) map[record.EndpointID]string {
	out := map[record.EndpointID]string{}
	h, known := a.follower.Picture().Host(host)
	switch lost, _ := a.lostFor(host); {
	case !known && lost > 0:
		return all(ids, "host not in the cluster")
	case lost > 0:
		return all(ids, "host lost for "+lost.Round(time.Second).String())
	case !known || h.PublicKey == "" || !a.health.Answers(a.follower.Picture(), host):
		return out
	}
	for len(ids) > 0 {
		some := ids[:min(len(ids), ownedAtOnce)]
		ids = ids[len(some):]
		has, unsure, err := a.peers.Owns(ctx, h, some)
		if err != nil || unsure {
			return out
		}
		for _, id := range some {
			if !has[id] {
				out[id] = "no such sandbox there"
			}
		}
	}
	return out
}

func all(ids []record.EndpointID, why string) map[record.EndpointID]string {
	out := make(map[record.EndpointID]string, len(ids))
	for _, id := range ids {
		out[id] = why
	}
	return out
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
