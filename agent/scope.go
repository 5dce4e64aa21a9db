package agent

import (
	"context"
	"fmt"
	"sync/atomic"

	"weft/agent/registry"
	"weft/store"
	"weft/store/follow"
	"weft/store/record"
)

// scope is where the records of some networks are, and who reads and changes them: the cluster's store (global), or a file of this host (local).
// A network is of one scope for good, and all that concerns it goes through that scope's parts.
type scope struct {
	name      string // as `network ls` shows it
	store     store.Store
	follower  *follow.Follower
	registry  *registry.Registry
	publisher *publisher
	claim     func(context.Context) (registry.Actor, error) // who may change the records, or why nobody can now
	joined    func() bool                                   // a claim would not wait
	explain   func(error) error                             // puts the store's name into an error
}

// Scopes by name.
const (
	globalScope = "global"
	localScope  = "local"
)

// scopeOf returns the scope that has a network. One that neither has is taken for the cluster's: it may have it in a moment, and a local network is
// known here from its first moment to its last.
func (a *Agent) scopeOf(id record.NetworkID) *scope {
	if a.isLocal(id) {
		return a.local
	}
	return a.global
}

func (a *Agent) isLocal(id record.NetworkID) bool {
	_, ok := a.local.follower.Picture().Network(id)
	return ok
}

// picture is what this host knows of both scopes.
func (a *Agent) picture() *record.Snapshot { return a.sight.Picture() }

// sight is what this host follows, in both scopes, as one. Revisions for conditions come from a scope's own follower.
type sight struct {
	global, local *follow.Follower
	last          *atomic.Pointer[union]
}

// union is two pictures as one. It is the same one as long as they are: what others keep with a picture, such as whose turn it is among the
// addresses of a name, goes with it.
type union struct{ global, local, both *record.Snapshot }

func newSight(global, local *follow.Follower) sight {
	return sight{global, local, &atomic.Pointer[union]{}}
}

func (s sight) Picture() *record.Snapshot {
	return s.union(s.global.Picture(), s.local.Picture())
}

func (s sight) union(global, local *record.Snapshot) *record.Snapshot {
	if u := s.last.Load(); u != nil && u.global == global && u.local == local {
		return u.both
	}
	u := &union{global, local, record.Union(global, local)}
	s.last.Store(u)
	return u.both
}

// TakeDirty returns what has changed in either since the last call, with a picture that has these changes.
func (s sight) TakeDirty() (follow.Dirty, *record.Snapshot) {
	d, global := s.global.TakeDirty()
	l, local := s.local.TakeDirty()
	d.Meta = d.Meta || l.Meta
	for id, n := range l.Nets {
		if d.Nets == nil {
			d.Nets = l.Nets
			break
		}
		d.Nets[id] = n
	}
	return d, s.union(global, local)
}

// openLocal reads this host's own networks. They are known when it returns, and the follower then hears of changes alone.
func (a *Agent) openLocal(ctx context.Context) (closeAll func(), err error) {
	disk, err := a.machine.disk(a.cfg.networksDB())
	if err != nil {
		return nil, fmt.Errorf("open this host's networks: %w", err)
	}
	fail := func(err error) (func(), error) {
		_ = disk.Close()
		return nil, fmt.Errorf("read this host's networks: %w", err)
	}
	parts := map[string]store.Snapshot{}
	if parts[store.Meta], err = disk.List(ctx, store.Meta); err != nil {
		return fail(err)
	}
	for n := range record.SeedFrom(parts).Networks() {
		p := record.NetPartition(n.ID)
		if parts[p], err = disk.List(ctx, p); err != nil {
			return fail(err)
		}
	}
	seed := record.SeedFrom(parts)
	for k, err := range seed.Corrupt() {
		a.log.Error("a record of this host's networks cannot be read; it is left out", "record", k.String(), "error", err)
	}
	f := follow.New(follow.Config{Store: disk, Seed: seed, Log: a.log})
	for n := range seed.Networks() {
		f.Follow(n.ID)
	}
	a.local = &scope{
		name: localScope, store: disk, follower: f,
		claim:   func(context.Context) (registry.Actor, error) { return a.localActor(), nil },
		joined:  func() bool { return true },
		explain: func(err error) error { return err },
	}
	return func() { _ = disk.Close() }, nil
}

// localActor changes this host's own networks: nobody else does, so that neither a session nor a cluster stands behind it.
func (a *Agent) localActor() registry.Actor {
	id := a.member.identity()
	return registry.Actor{Host: id.Host, Incarnation: id.Incarnation}
}

// wireLocal completes what openLocal began, once it is known who this host is.
func (a *Agent) wireLocal() {
	a.local.registry = registry.New(registry.Config{
		Store: a.local.store, Picture: a.local.follower.Picture, Now: a.clock.Now, Local: true, Beside: a.follower.Picture, ULA: string(a.member.identity().Host),
		Routes: a.hostRoutes, HostName: a.hostName, Underlay: func() int { _, mtu, _ := a.kernel.Underlay(a.underlay.vtep); return mtu },
	})
}

// flush lets the stores hear of what has become of a sandbox.
func (a *Agent) flush(ctx context.Context, s *record.Sandbox) {
	defer a.leases.flush(ctx)
	for _, sc := range []*scope{a.local, a.global} {
		for _, at := range s.Attachments {
			if a.scopeOf(at.Network) == sc {
				sc.publisher.flush(ctx)
				break
			}
		}
	}
}

// hostRoutes are the prefixes that this host has routes into now.
func (a *Agent) hostRoutes() ([]record.Route, error) {
	routes, err := a.kernel.Routes()
	if err != nil {
		return nil, fmt.Errorf("read this host's routes: %w", err)
	}
	out := make([]record.Route, 0, len(routes))
	for _, r := range routes {
		out = append(out, record.Route{Prefix: r.Prefix, Link: r.Link})
	}
	return out, nil
}

// routesTold is how many of its own networks' pools a host tells of, at most: its record is to fit the store (store.MaxValue).
const routesTold = 1000

// localRoutes are the pools of this host's own networks: nobody's overlay may have one, or sandboxes here could not reach it.
func (a *Agent) localRoutes() []record.Route {
	var out []record.Route
	for n := range a.local.follower.Picture().Networks() {
		if n.ConfigOnly {
			continue
		}
		for _, p := range n.Pools {
			out = append(out, record.Route{Prefix: p.Subnet, Link: n.Bridge()})
		}
	}
	if len(out) > routesTold {
		a.log.Warn("this host has more networks of its own than it tells the others of: give overlay networks subnets that overlap none", "pools", len(out), "told", routesTold)
		out = out[:routesTold]
	}
	return out
}
