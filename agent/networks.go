package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/ipam"
	"weft/store"
	"weft/store/record"
)

func checkIP(n *record.Network, a netip.Addr) error {
	if err := ipam.Check(poolsOf(n), a); err != nil {
		return api.Refuse(api.Invalid, "%w", err)
	}
	return nil
}

// CreateNetwork makes a network and waits until this host has it in its picture, and a local one in its kernel. After an error there is none.
func (a *Agent) CreateNetwork(ctx context.Context, r api.NetworkRequest) (record.NetworkID, []string, error) {
	if err := checkNetworkRequest(&r); err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := a.copyConfig(&r); err != nil {
		return "", nil, err
	}
	done, err := a.withPools(ctx, &r)
	if err != nil {
		return "", nil, err
	}
	id, warnings, err := a.createNetwork(ctx, r)
	done(err)
	return id, warnings, err
}

func (a *Agent) createNetwork(ctx context.Context, r api.NetworkRequest) (record.NetworkID, []string, error) {
	if r.Spec.Driver == bridgeDriver || r.ConfigOnly {
		create := a.createLocal
		if r.ConfigOnly {
			create = a.createConfig
		}
		n, err := create(ctx, r.Spec)
		if err != nil {
			return "", nil, err
		}
		return n.ID, nil, nil
	}
	as, err := a.global.claim(ctx)
	if err != nil {
		return "", nil, err
	}
	n, rev, warnings, err := a.global.registry.CreateNetwork(ctx, as, r.Spec)
	if err != nil {
		return "", nil, kindOf(a.global.explain(err))
	}
	if err := a.global.follower.WaitRev(ctx, store.Meta, rev); err != nil {
		a.log.Debug("own network not seen yet", "network", n.Name, "error", err)
	}
	return n.ID, warnings, nil
}

// createLocal makes a network of this host alone, with its bridge.
func (a *Agent) createLocal(ctx context.Context, spec registry.NetworkSpec) (*record.Network, error) {
	if err := a.bridgeIsFree(spec); err != nil {
		return nil, err
	}
	n, err := a.recordLocal(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := a.loop.do(ctx, n.ID, ""); err != nil {
		return nil, a.undoLocal(ctx, n, fmt.Errorf("make the bridge of network %s: %w", n.Name, err))
	}
	return n, nil
}

// undoLocal takes back a network that could not be made whole.
func (a *Agent) undoLocal(ctx context.Context, n *record.Network, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	return errors.Join(why, a.dropLocal(ctx, n.ID))
}

// recordLocal writes a local network's record and follows it.
func (a *Agent) recordLocal(ctx context.Context, spec registry.NetworkSpec) (*record.Network, error) {
	n, rev, _, err := a.local.registry.CreateNetwork(ctx, a.localActor(), spec)
	if err != nil {
		return nil, kindOf(err)
	}
	a.local.follower.Follow(n.ID)
	err = a.local.follower.WaitRev(ctx, store.Meta, rev)
	if err == nil {
		err = a.local.follower.WaitSynced(ctx, record.NetPartition(n.ID))
	}
	if err != nil {
		return nil, a.undoLocal(ctx, n, fmt.Errorf("read network %s back: %w", n.Name, err))
	}
	a.member.lookAgain() // the other hosts are to leave its pools alone
	return n, nil
}

// bridgeIsFree refuses a bridge that something else in this host has the name of.
func (a *Agent) bridgeIsFree(spec registry.NetworkSpec) error {
	name := spec.Options[registry.OptBridgeName]
	if name == "" {
		return nil
	}
	l, taken, err := a.kernel.HostLink(name)
	if err != nil || !taken || l.Ours {
		return err
	}
	return api.Refuse(api.Exists, "bridge name %s (option %s) is taken: this host has an interface of that name (%s) that is not weft's", name, registry.OptBridgeName, l.Kind)
}

// RemoveNetwork removes a network that no endpoint uses.
func (a *Agent) RemoveNetwork(ctx context.Context, ref string) (*record.Network, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n := findBuiltin(ref)
	if n == nil {
		var err error
		if n, err = a.network(ctx, ref); err != nil {
			return nil, err
		}
	}
	if isBuiltin(n) {
		return nil, api.Refuse(api.InUse, "%s is a pre-defined network and cannot be removed", n.Name)
	}
	if err := a.refuseIfUsed(n); err != nil {
		return nil, err
	}
	if err := a.configUsers(n); err != nil {
		return nil, err
	}
	done, err := a.leases.leaving(ctx, n)
	if err != nil {
		return nil, err
	}
	err = a.removeNetwork(ctx, n)
	done(err)
	return n, err
}

// refuseIfUsed looks at this host's sandboxes, since one that was created and never started has no endpoint yet; others' endpoints are named with
// them as far as they are known here.
func (a *Agent) refuseIfUsed(n *record.Network) error {
	var users []string
	for _, s := range a.boxes.snapshot() {
		if _, uses := s.Attachment(n.ID); uses {
			users = append(users, fmt.Sprintf("%s on this host (%s)", s.Name, s.Status))
		}
	}
	if len(users) == 0 {
		return nil
	}
	if net, known := a.picture().Net(n.ID); known {
		self := a.member.identity().Host
		for ep := range net.Endpoints() {
			if ep.Host != self {
				users = append(users, fmt.Sprintf("%s on %s", ep.Name, a.hostName(ep.Host)))
			}
		}
	}
	return api.Refuse(api.InUse, "network %s id %s has active endpoints: %s", n.Name, n.ID, registry.FirstNames(users))
}

func (a *Agent) removeNetwork(ctx context.Context, n *record.Network) error {
	sc := a.scopeOf(n.ID)
	if sc == a.local {
		return a.dropLocal(ctx, n.ID)
	}
	as, err := sc.claim(ctx)
	if err != nil {
		return err
	}
	return a.removeFrom(ctx, sc, as, n.ID)
}

// removeFrom takes a network's record out of its scope.
func (a *Agent) removeFrom(ctx context.Context, sc *scope, as registry.Actor, id record.NetworkID) error {
	sc.publisher.removing(id, true)
	defer sc.publisher.removing(id, false)
	rev, err := sc.registry.RemoveNetwork(ctx, as, id)
	if err != nil {
		return kindOf(sc.explain(err))
	}
	if rev > 0 {
		_ = sc.follower.WaitRev(ctx, store.Meta, rev) // it is gone; this host's picture will have it in a moment
	}
	return nil
}

// dropLocal removes a network of this host, and its bridge.
func (a *Agent) dropLocal(ctx context.Context, id record.NetworkID) error {
	if err := a.removeFrom(ctx, a.local, a.localActor(), id); err != nil {
		return err
	}
	a.local.follower.Unfollow(id)
	a.member.lookAgain()
	return a.letGo(ctx, id)
}

// Connect adds a network to a sandbox; to one that is stopped, for its next start.
func (a *Agent) Connect(ctx context.Context, target string, r api.AttachmentRequest) (record.EndpointID, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := a.connectable(ctx, target)
	if err != nil {
		return "", err
	}
	done, err := a.boxes.lock(ctx, s.ID)
	if err != nil {
		return "", err
	}
	defer done()
	defer a.dropIdle(ctx, s.ID) // where it comes to nothing
	if s, err = a.boxes.find(string(s.ID)); err != nil {
		return "", err
	}
	switch s.NetworkMode {
	case "host":
		return "", api.Refuse(api.Invalid, "container sharing network namespace with another container or host cannot be connected to any other network")
	case "none":
		return "", api.Refuse(api.Invalid, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	n, at, err := a.attachment(ctx, s.Name, r)
	if err != nil {
		return "", err
	}
	if old, twice := s.Attachment(n.ID); twice && old.Isolated == "" {
		return "", api.Refuse(api.Exists, "endpoint with name %s already exists in network %s", s.Name, n.Name)
	} else if twice {
		at.IfName = old.IfName
	}
	if !s.Up {
		if err := nameInterface(s, n, &at); err != nil {
			return "", err
		}
		next := edited(s)
		setAttachment(next, at)
		return "", a.boxes.put(ctx, next)
	}
	id, err := a.attach(ctx, s.ID, n, at)
	if err != nil {
		return "", err
	}
	now, _ := a.boxes.get(s.ID)
	return id, a.serveNames(ctx, now)
}

// Disconnect takes a network from a sandbox of this host, or clears what another host that is gone has in it.
func (a *Agent) Disconnect(ctx context.Context, ref, target string, how api.Disconnection) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if n := findBuiltin(ref); n != nil {
		return a.leaveBuiltin(n, target)
	}
	n, err := a.network(ctx, ref)
	if err != nil {
		return err
	}
	s, err := a.boxes.find(target)
	if err != nil || !a.meansHere(s, n.ID, target) {
		return a.elsewhere(ctx, n, target, how)
	}
	done, err := a.boxes.lock(ctx, s.ID)
	if err != nil {
		return err
	}
	defer done()
	s, ok := a.boxes.get(s.ID)
	if ok {
		_, ok = s.Attachment(n.ID)
	}
	if !ok {
		return api.Refuse(api.InUse, "container %s is not connected to network %s", target, n.Name)
	}
	if err := a.detach(ctx, s, n.ID); err != nil {
		return err
	}
	a.dropIdle(ctx, s.ID)
	now, _ := a.boxes.get(s.ID)
	return a.serveNames(ctx, now)
}
