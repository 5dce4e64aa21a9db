package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"weft/agent/about"
	"weft/agent/api"
	"weft/store"
	"weft/store/record"
)

// readsAtOnce is how many networks are listed in the store at a time.
const readsAtOnce = 16

// Networks returns all networks, by name, the built-in ones among them. With used, also what only the store knows of their endpoints.
func (a *Agent) Networks(ctx context.Context, used bool) ([]api.NetworkView, error) {
	a.awaitPicture(ctx)
	p := a.picture()
	nets := slices.Collect(p.Networks())
	out := make([]api.NetworkView, len(nets), len(nets)+2)
	var wg sync.WaitGroup
	turns := make(chan struct{}, readsAtOnce)
	for i, n := range nets {
		if _, known := p.Net(n.ID); known || !used {
			out[i] = a.networkView(ctx, p, n, false)
			continue
		}
		turns <- struct{}{}
		wg.Go(func() {
			out[i] = a.networkView(ctx, p, n, true)
			<-turns
		})
	}
	wg.Wait()
	for _, name := range []string{"host", "none"} {
		out = append(out, api.NetworkView{Network: a.asOld(builtin(name)), Builtin: true, Known: true})
	}
	slices.SortStableFunc(out, func(x, y api.NetworkView) int { return cmp.Compare(x.Name, y.Name) })
	return out, nil
}

// Network returns one network with its endpoints.
func (a *Agent) Network(ctx context.Context, ref string) (api.NetworkView, error) {
	if n := findBuiltin(ref); n != nil {
		return api.NetworkView{Network: a.asOld(n), Builtin: true, Known: true}, nil
	}
	a.awaitPicture(ctx)
	n, err := a.network(ctx, ref)
	if err != nil {
		return api.NetworkView{}, err
	}
	return a.networkView(ctx, a.picture(), n, true), nil
}

// networkView shows a network as this host follows it, or, where it does not, as the store lists it now if read is set.
func (a *Agent) networkView(ctx context.Context, p *record.Snapshot, n *record.Network, read bool) api.NetworkView {
	v := api.NetworkView{Network: n, Builtin: isDefault(n), Used: a.isUsed(n.ID)}
	net, known := p.Net(n.ID)
	if !known && read {
		net, known = a.readNet(ctx, n.ID)
	}
	if v.Known = known; !known {
		return v
	}
	peers := map[record.HostID]bool{}
	gone := a.givenUp(ctx, net)
	for ep := range net.Endpoints() {
		if gone[ep.ID] {
			continue
		}
		v.Endpoints = append(v.Endpoints, a.endpointView(p, ep))
		peers[ep.Host] = true
	}
	slices.SortFunc(v.Endpoints, func(x, y api.EndpointView) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID)) })
	for h := range p.Hosts() {
		if peers[h.ID] {
			v.Peers = append(v.Peers, a.hostView(p, h))
		}
	}
	v.VIPs = vipViews(net, v.Endpoints)
	return v
}

// givenUp are the endpoints of this host that its journal knows as released, and that the store has still: it has not heard of it, or is away.
func (a *Agent) givenUp(ctx context.Context, net *record.Net) map[record.EndpointID]bool {
	self, mine := a.member.identity().Host, map[record.EndpointID]bool{}
	for ep := range net.Endpoints() {
		if s, here := a.boxes.get(ep.Sandbox); ep.Host == self && (!here || !hasEndpoint(s, ep.ID)) {
			mine[ep.ID] = true
		}
	}
	if len(mine) == 0 {
		return nil
	}
	released, err := a.journal.Releases(ctx)
	if err != nil {
		return nil // it is shown as the store has it
	}
	out := map[record.EndpointID]bool{}
	for _, r := range released {
		out[r.Endpoint] = mine[r.Endpoint]
	}
	return out
}

// isUsed tells whether a sandbox of this host is attached to a network, or is to be at its next start.
func (a *Agent) isUsed(id record.NetworkID) bool {
	for _, s := range a.boxes.snapshot() {
		if _, uses := s.Attachment(id); uses {
			return true
		}
	}
	return false
}

// readNet lists a network that this host does not follow.
func (a *Agent) readNet(ctx context.Context, id record.NetworkID) (*record.Net, bool) {
	sc := a.scopeOf(id)
	if !sc.joined() {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	partition := record.NetPartition(id)
	l, err := sc.store.List(ctx, partition)
	if err != nil {
		return nil, false
	}
	return record.Empty().Apply(partition, store.Batch{Rev: l.Rev, Resync: true, Puts: l.Entries}).Net(id)
}

func (a *Agent) endpointView(p *record.Snapshot, ep *record.Endpoint) api.EndpointView {
	v := api.EndpointView{Endpoint: ep, HostName: a.hostName(ep.Host), State: "stopped"}
	v.Network, _ = p.Network(ep.Network)
	if ep.Running {
		v.State = "running"
		if ep.Host != a.member.identity().Host && !a.sessionLasts(p, ep.Host) {
			v.State = a.stateOf(p, ep.Host)
		}
	}
	return v
}

// About returns what the agent has to tell of itself.
func (a *Agent) About(ctx context.Context) api.About {
	id := a.member.identity()
	out := api.About{Version: about.Version, HostID: id.Host, ClusterID: id.Cluster, Store: a.storeName()}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := a.store.Status(ctx)
	out.StoreErr, out.StoreBackend = err, st.Backend
	return out
}

// WaitApplied waits until the picture of a partition is at rev and the kernel has followed it.
func (a *Agent) WaitApplied(ctx context.Context, partition string, rev store.Rev) error {
	for {
		changed := a.appliedSignal.wait()
		if p := a.appliedPicture.Load(); p != nil && p.Rev(partition) >= rev {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Sandboxes returns this host's sandboxes, newest first.
func (a *Agent) Sandboxes(context.Context) ([]api.SandboxView, error) {
	var out []api.SandboxView
	for _, s := range a.boxes.snapshot() {
		out = append(out, a.sandboxView(s))
	}
	slices.SortFunc(out, func(x, y api.SandboxView) int {
		return cmp.Or(y.Created.Compare(x.Created), cmp.Compare(x.ID, y.ID))
	})
	return out, nil
}

// Sandbox returns one of this host's sandboxes.
func (a *Agent) Sandbox(_ context.Context, ref string) (api.SandboxView, error) {
	s, err := a.boxes.find(ref)
	if err != nil {
		return api.SandboxView{}, err
	}
	return a.sandboxView(s), nil
}

func (a *Agent) sandboxView(s *record.Sandbox) api.SandboxView {
	p := a.picture()
	self := a.member.self()
	self.Name = cmp.Or(self.Name, a.cfg.HostName)
	shown := *s
	v := api.SandboxView{Sandbox: &shown, Host: &self, NetnsPath: a.runner.NetnsPath(string(s.ID)), LogPath: a.runner.LogPath(string(s.ID))}
	if s.Status == record.SandboxRunning {
		shown.PID = a.runner.PID(string(s.ID))
	}
	for _, at := range s.Attachments {
		n, _ := p.Network(at.Network)
		v.Networks = append(v.Networks, n)
		var ev *api.EndpointView
		if at.Endpoint != "" && n != nil {
			e := a.endpointView(p, endpointOf(self.ID, self.Incarnation, s, at))
			ev = &e
		}
		v.Endpoints = append(v.Endpoints, ev)
	}
	return v
}
