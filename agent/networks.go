package agent

import (
	"context"
	"net/netip"

	"weft/agent/api"
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

// CreateNetwork makes a network and waits until this host has it in its picture.
func (a *Agent) CreateNetwork(ctx context.Context, r api.NetworkRequest) (record.NetworkID, []string, error) {
	if err := checkNetworkRequest(&r); err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	as, err := a.member.claim(ctx)
	if err != nil {
		return "", nil, err
	}
	n, rev, warnings, err := a.registry.CreateNetwork(ctx, as, r.Spec)
	if err != nil {
		return "", nil, kindOf(a.member.explain(err))
	}
	if err := a.follower.WaitRev(ctx, store.Meta, rev); err != nil {
		a.log.Debug("own network not seen yet", "network", n.Name, "error", err)
	}
	return n.ID, warnings, nil
}

func checkNetworkRequest(r *api.NetworkRequest) error {
	switch {
	case r.Spec.Driver == "" || r.Spec.Driver == "bridge":
		return api.Refuse(api.Unsupported, "the bridge driver is not supported yet: create the network with -d overlay")
	case r.Spec.Driver != "overlay":
		return api.Refuse(api.Invalid, "could not resolve driver %q: weft has overlay", r.Spec.Driver)
	case r.Ingress:
		return api.Refuse(api.Unsupported, "--ingress: this node is not in swarm mode; weft has no ingress network, publish ports on the sandboxes instead")
	case r.IPv6:
		return api.Refuse(api.Unsupported, "--ipv6: this version supports IPv4 only")
	case r.ConfigOnly || r.ConfigFrom != "":
		return api.Refuse(api.Unsupported, "--config-only and --config-from are not supported yet")
	case r.IPAMDriver != "" && r.IPAMDriver != "default":
		return api.Refuse(api.Unsupported, "could not resolve IPAM driver %q: weft has default", r.IPAMDriver)
	case r.Scope != "" && r.Scope != "global" && r.Scope != "local":
		return api.Refuse(api.Invalid, "invalid scope %q: it is local or global", r.Scope)
	case r.Scope == "local":
		return api.Refuse(api.Invalid, "an overlay network has scope global")
	}
	return nil
}

// RemoveNetwork removes a network that no endpoint uses.
func (a *Agent) RemoveNetwork(ctx context.Context, ref string) (*record.Network, error) {
	if builtin(ref) != nil || ref == "bridge" {
		return nil, api.Refuse(api.InUse, "%s is a pre-defined network and cannot be removed", ref)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := a.network(ctx, ref)
	if err != nil {
		return nil, err
	}
	for _, s := range a.boxes.snapshot() { // one that was created and never started has no endpoint yet
		if _, uses := s.Attachment(n.ID); uses {
			return nil, api.Refuse(api.InUse, "network %s id %s has active endpoints: %s on this host (%s)", n.Name, n.ID, s.Name, s.Status)
		}
	}
	as, err := a.member.claim(ctx)
	if err != nil {
		return nil, err
	}
	a.publisher.removing(n.ID, true)
	defer a.publisher.removing(n.ID, false)
	rev, err := a.registry.RemoveNetwork(ctx, as, n.ID)
	if err != nil {
		return nil, kindOf(a.member.explain(err))
	}
	if rev > 0 {
		_ = a.follower.WaitRev(ctx, store.Meta, rev) // it is gone; this host's picture will have it in a moment
	}
	return n, nil
}

// Connect adds a network to a sandbox; to one that is stopped, for its next start.
func (a *Agent) Connect(ctx context.Context, target string, r api.AttachmentRequest) (record.EndpointID, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := a.boxes.find(target)
	if err != nil {
		return "", err
	}
	done, err := a.boxes.lock(ctx, s.ID)
	if err != nil {
		return "", err
	}
	defer done()
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
	if _, twice := s.Attachment(n.ID); twice {
		return "", api.Refuse(api.Exists, "endpoint with name %s already exists in network %s", s.Name, n.Name)
	}
	if !s.Up {
		at.IfName = freeIfName(s)
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

// Disconnect takes a network from a sandbox of this host. force is for records that nobody answers for, which cannot be cleared yet.
func (a *Agent) Disconnect(ctx context.Context, ref, target string, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := a.network(ctx, ref)
	if err != nil {
		return err
	}
	s, err := a.boxes.find(target)
	if err != nil {
		return a.elsewhere(n, target, force, err)
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
	now, _ := a.boxes.get(s.ID)
	return a.serveNames(ctx, now)
}

// elsewhere says on which host a sandbox is that this host does not have.
func (a *Agent) elsewhere(n *record.Network, target string, force bool, err error) error {
	net, ok := a.follower.Picture().Net(n.ID)
	if !ok {
		return err
	}
	ep, ok := net.ByName(target)
	switch {
	case ok && force:
		return api.Refuse(api.Unsupported, "sandbox %s belongs to host %s: disconnecting it from here, with -f, is not supported yet", target, a.hostName(ep.Host))
	case ok:
		return api.Refuse(api.NotFound, "sandbox %s runs on host %s: run the command there", target, a.hostName(ep.Host))
	}
	return err
}

// builtin returns the record that stands for a pre-defined network.
func builtin(name string) *record.Network {
	switch name {
	case "host":
		return &record.Network{ID: "5ccb84048df26b652a5cb10ea96616fe3a6ff43ae6dbb192942035b8e42912dd", Name: "host", Driver: "host", Scope: "local", State: record.Active}
	case "none":
		return &record.Network{ID: "97491fe5baee80b1b82bd266ca596d7750a402baaf113e79fb5031f42c975253", Name: "none", Driver: "null", Scope: "local", State: record.Active}
	}
	return nil
}
