package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/agent/registry"
	"weft/store"
	"weft/store/record"
)

// The attach, from top to bottom:
//
//	address   chosen on the picture, and reserved here against other attaches of this host
//	intent    the sandbox with its attachment, in the journal: a crash from here on undoes or completes it
//	kernel    the port works, though nobody knows of it yet
//	store     one transaction makes the endpoint, and announces it
//	picture   this host has seen its own announcement: what is asked next is answered with it
//
// A race lost for an address goes back to the first step.

// network finds a network of the cluster by reference. One that the picture does not have yet is looked for in the store, so that what
// another host has just made can be used here at once.
func (a *Agent) network(ctx context.Context, ref string) (*record.Network, error) {
	n, err := a.picture().FindNetwork(ref)
	if errors.Is(err, record.ErrNotFound) && a.learn(ctx, ref) {
		n, err = a.picture().FindNetwork(ref)
	}
	switch {
	case errors.Is(err, record.ErrNotFound):
		return nil, api.Refuse(api.NotFound, "network %s not found", ref)
	case err != nil:
		return nil, api.Refuse(api.Invalid, "%w", err)
	}
	return n, nil
}

// learn asks the store for the name and waits until the picture has what the store has.
func (a *Agent) learn(ctx context.Context, name string) bool {
	if a.member.away() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	e, err := a.store.Get(ctx, record.NetworkNameKey(name))
	if err != nil {
		return false
	}
	return a.follower.WaitRev(ctx, e.Key.Partition, e.Rev) == nil
}

// attach gives a sandbox that is up an endpoint in the attachment's network. want.Endpoint is the one that it had before, if any. After an
// error nothing is left of it. The caller has the sandbox's turn.
func (a *Agent) attach(ctx context.Context, id record.SandboxID, n *record.Network, want record.Attachment) (record.EndpointID, error) {
	sc := a.scopeOf(n.ID)
	as, err := sc.claim(ctx)
	if err != nil {
		return "", err
	}
	if err := a.fits(n); err != nil {
		return "", err
	}
	partition := record.NetPartition(n.ID)
	defer a.uses.hold(n.ID)()
	known, cancel := context.WithTimeout(ctx, joinPatience) // the session may not know yet that the store is gone
	defer cancel()
	if err := sc.follower.WaitSynced(known, partition); err != nil {
		return "", sc.explain(fmt.Errorf("read the endpoints of network %s: %w", n.Name, err))
	}
	first := want.Endpoint == ""
	if first {
		want.Endpoint = record.EndpointID(registry.NewID())
	}
	if s, ok := a.boxes.get(id); ok && sc == a.global {
		if err := a.makeWay(ctx, as, n, s.Name, want); err != nil {
			return "", err
		}
	}
	a.awaitReleases(ctx, sc, id, n.ID, want)
	for t := trialOf(want); ; {
		err := a.attachOnce(ctx, as, id, n, want, t)
		var lost *registry.AddrTakenError
		if !errors.As(err, &lost) || lost.Addr == want.IP || lost.Addr == want.IP6 {
			return want.Endpoint, err
		}
		t = t.without(lost.Addr)
		if first { // the one that lost is being released
			want.Endpoint = record.EndpointID(registry.NewID())
		}
	}
}

// attachOnce tries one address of each family.
func (a *Agent) attachOnce(ctx context.Context, as registry.Actor, id record.SandboxID, n *record.Network, want record.Attachment, t trial) error {
	net, _ := a.picture().Net(n.ID)
	s, ok := a.boxes.get(id)
	if !ok {
		return api.Refuse(api.NotFound, "No such sandbox: %s", id)
	}
	if err := a.free(n, net, s, want); err != nil {
		return err
	}
	settle, err := a.leaseOrAssign(ctx, n, net, s.Name, &want, t)
	if err != nil {
		return err
	}
	defer settle()
	want.Intent, want.Isolated = true, ""
	want.NoGateway = n.Internal || s.External != "" // whose ways out are its owner's
	if err := nameInterface(s, n, &want); err != nil {
		return err
	}
	next := edited(s)
	setAttachment(next, want)
	if err := a.boxes.put(ctx, next); err != nil {
		return err
	}
	if err := a.announce(ctx, as, n, next, want); err != nil {
		return errors.Join(err, a.unattach(ctx, s, n, want))
	}
	next = edited(next) // the other one is shown, and read by the loop
	want.Intent = false
	setAttachment(next, want)
	a.boxes.show(next)
	a.scopeOf(n.ID).publisher.confirm(id)
	err = a.moveDefault(ctx, s, next, n.ID)
	if now, ok := a.boxes.get(id); err != nil && ok && now.Status == record.SandboxRunning { // a start is undone as a whole
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		err = errors.Join(err, a.detach(undo, now, n.ID))
	}
	return err
}

// moveDefault brings those networks in line that a default route of the sandbox leaves or enters, or that come to need their routes by source,
// or need them no more, when another network, which has been dealt with, comes or goes.
func (a *Agent) moveDefault(ctx context.Context, before, after *record.Sandbox, done record.NetworkID) error {
	var errs []error
	for _, id := range turned(before, after) {
		if !a.follows(id) {
			continue
		}
		if at, stays := after.Attachment(id); id != done && stays {
			errs = append(errs, a.loop.turn(ctx, id, at.Endpoint))
		} else if id != done {
			errs = append(errs, a.loop.do(ctx, id, ""))
		}
	}
	if after.Status == record.SandboxRunning {
		errs = append(errs, a.publishPorts(ctx, after.ID))
	}
	return errors.Join(errs...)
}

// announce makes the port work, and then the endpoint known.
func (a *Agent) announce(ctx context.Context, as registry.Actor, n *record.Network, s *record.Sandbox, at record.Attachment) error {
	if err := a.loop.do(ctx, n.ID, at.Endpoint); err != nil {
		return fmt.Errorf("bring sandbox %s into network %s: %w", s.Name, n.Name, err)
	}
	ep := endpointOf(as.Host, as.Incarnation, s, at)
	claim, stop := context.WithTimeout(ctx, joinPatience) // what failed is undone within the five seconds too
	defer stop()
	rev, err := a.writeEndpoint(claim, as, ep)
	if err != nil {
		return kindOf(a.scopeOf(n.ID).explain(err))
	}
	seen, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := a.WaitApplied(seen, record.NetPartition(n.ID), rev); err != nil {
		a.log.Debug("own announcement not seen yet", "network", n.Name, "error", err)
	}
	return nil
}

// writeEndpoint creates the endpoint, or brings the one that a stopped sandbox had kept up to date.
func (a *Agent) writeEndpoint(ctx context.Context, as registry.Actor, ep *record.Endpoint) (store.Rev, error) {
	sc := a.scopeOf(ep.Network)
	if net, ok := sc.follower.Picture().Net(ep.Network); ok {
		if _, kept := net.Endpoint(ep.ID); kept {
			return sc.registry.UpdateEndpoint(ctx, as, ep.Network, ep.ID, func(r *record.Endpoint) { become(r, ep) })
		}
	}
	return sc.registry.CreateEndpoint(ctx, as, ep)
}

// become gives r what ep says; fields that this version does not know stay.
func become(r, ep *record.Endpoint) {
	r.Host, r.Incarnation, r.Sandbox, r.Name, r.Hostname = ep.Host, ep.Incarnation, ep.Sandbox, ep.Name, ep.Hostname
	r.Aliases, r.VIPAliases, r.Links, r.Addrs, r.Static, r.MAC, r.Running = ep.Aliases, ep.VIPAliases, ep.Links, ep.Addrs, ep.Static, ep.MAC, ep.Running
	r.StaticMAC = ep.StaticMAC
}

// free refuses early what the transaction would refuse: a name or an address that the picture shows as another's.
func (a *Agent) free(n *record.Network, net *record.Net, s *record.Sandbox, want record.Attachment) error {
	if o, taken := net.ByName(s.Name); taken && o.ID != want.Endpoint {
		if o.Sandbox == s.ID || o.Host == a.member.identity().Host {
			return api.Refuse(api.Exists, "endpoint with name %s already exists in network %s", s.Name, n.Name)
		}
		return api.Refuse(api.Exists, "endpoint with name %s already exists in network %s (on host %s)", s.Name, n.Name, a.hostName(o.Host))
	}
	if err := aliasesFit(n, net, want); err != nil {
		return err
	}
	if o, taken := net.ByMAC(want.MAC); taken && o.ID != want.Endpoint {
		return kindOf(&registry.MACTakenError{MAC: want.MAC, Owner: o.Name, Host: a.hostName(o.Host)})
	}
	for f := range families {
		addr := asked(want, f)
		if !addr.IsValid() {
			continue
		}
		if err := checkIP(n, addr); err != nil {
			return err
		}
		if o, taken := net.ByAddr(addr); taken && o.ID != want.Endpoint {
			return kindOf(&registry.AddrTakenError{Addr: addr, Owner: o.Name, Host: a.hostName(o.Host)})
		}
	}
	return nil
}

// fits refuses a network whose packets this host's underlay cannot carry.
func (a *Agent) fits(n *record.Network) error {
	self := a.member.self()
	if over := registry.Overhead(self.VTEP); n.Driver == "overlay" && self.MTU > 0 && n.MTU > self.MTU-over {
		return api.Refuse(api.InUse, "network %s has MTU %d, and this host's underlay carries %d only, of which tunnels need %d: raise the MTU of the interface, or make the network with -o %s=%d",
			n.Name, n.MTU, self.MTU, over, registry.OptMTU, self.MTU-over)
	}
	return nil
}

// unattach undoes an attachment that failed: the journal forgets it, the kernel follows, and the store is told should it have heard.
func (a *Agent) unattach(ctx context.Context, before *record.Sandbox, n *record.Network, at record.Attachment) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	during := edited(before)
	setAttachment(during, at) // as the loop may have seen it
	back, releases := undone(before, at)
	err := a.boxes.put(ctx, back, releases...)
	if err != nil { // the journal still calls it an intent, which the next life undoes; what the store has of it goes as an orphan
		a.boxes.show(back)
	}
	a.scopeOf(n.ID).publisher.kick()
	a.leases.kick()
	return errors.Join(err, a.letGo(ctx, n.ID), a.moveDefault(ctx, during, back, n.ID))
}

// undone is a sandbox as it was before an attachment that failed, and what the store may have of that: its outcome may be unknown.
func undone(before *record.Sandbox, at record.Attachment) (*record.Sandbox, []journal.Release) {
	back := edited(before)
	old, had := before.Attachment(at.Network)
	if had {
		old.Intent = false
		setAttachment(back, old)
	} else {
		dropAttachment(back, at.Network)
	}
	if had && old.Endpoint == at.Endpoint { // one that a stopped sandbox keeps: the publisher writes it as it was
		return back, nil
	}
	return back, []journal.Release{{Network: at.Network, Endpoint: at.Endpoint}}
}

// detach takes a sandbox out of a network, and lets the store hear of it where that can be.
func (a *Agent) detach(ctx context.Context, s *record.Sandbox, id record.NetworkID) error {
	if _, ok := s.Attachment(id); !ok {
		return nil
	}
	err := a.leave(ctx, s, id)
	a.scopeOf(id).publisher.flush(ctx)
	a.leases.flush(ctx)
	return err
}

// leave takes a sandbox out of a network. It works here at once, whatever the store does; the release is journalled with it.
func (a *Agent) leave(ctx context.Context, s *record.Sandbox, id record.NetworkID) error {
	at, ok := s.Attachment(id)
	if !ok {
		return nil
	}
	next := edited(s)
	dropAttachment(next, id)
	var releases []journal.Release
	if at.Endpoint != "" {
		releases = append(releases, journal.Release{Network: id, Endpoint: at.Endpoint})
	}
	if err := a.boxes.put(ctx, next, releases...); err != nil {
		return err
	}
	a.addresses.rest(id, at.Addrs...)
	defer a.uses.hold(id)()
	return errors.Join(a.letGo(ctx, id), a.moveDefault(ctx, s, next, id))
}

// follows tells whether the loop does what it is asked for in a network now. Before it has begun with the cluster's networks it would be waited for,
// and what it will see then is enough.
func (a *Agent) follows(id record.NetworkID) bool { return a.loop.open.Load() || a.isLocal(id) }

// letGo waits until the loop has looked at a network that a port has left. What the kernel refuses meanwhile, of this port or of others, the
// loop tries again and tells of: what was asked for is done, and is in the journal.
func (a *Agent) letGo(ctx context.Context, id record.NetworkID) error {
	if !a.follows(id) {
		return ctx.Err()
	}
	if err := a.loop.do(ctx, id, ""); err != nil {
		a.log.Debug("the kernel still has what was let go", "network", record.ShortID(id), "error", err)
	}
	return ctx.Err()
}

// hostName is a host's name as users know it.
func (a *Agent) hostName(id record.HostID) string {
	if h, ok := a.follower.Picture().Host(id); ok {
		return h.Name
	}
	if id == a.member.identity().Host {
		return a.cfg.HostName
	}
	return record.ShortID(id)
}

// uniqueAliases keeps the user's order, each alias once.
func uniqueAliases(in []string) []string {
	var out []string
	for _, a := range in {
		if !slices.ContainsFunc(out, func(o string) bool { return record.Fold(o) == record.Fold(a) }) {
			out = append(out, a)
		}
	}
	return out
}
