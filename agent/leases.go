package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/integrations/ipamplugin"
	"weft/store/record"
)

// leases is what this host has of IPAM plugins: addresses of its endpoints, and pools of networks that it is making or removing. What it should
// have follows from its sandboxes and from the networks that there are; what it has is in the journal. What it has and should not have, the plugin
// gets back: after each detach, stop and removal, after a crash, and as soon as a plugin that was away is there again.
//
// An address is noted when the plugin has given it, and forgotten when the plugin has it back. An agent that is killed between a plugin's answer
// and its own note leaves that one address in the plugin's books: the protocol has no way to ask for what was given.
type leases struct {
	leasesConfig
	*passes

	mu        sync.Mutex // guards what follows; never held across I/O
	held      map[string]journal.Lease
	returning map[string]bool           // of those held: on their way back
	busy      map[record.EndpointID]int // attaches under way: what they have been given is not looked at
	claims    map[record.NetworkID]bool // creations and removals under way
	open      map[string]*plugin
	said      map[string]bool // plugins that were said to be away
}

type leasesConfig struct {
	log     *slog.Logger
	clock   Clock
	journal *journal.Journal
	boxes   *boxes
	dirs    ipamplugin.Dirs
	exists  func(ctx context.Context, id record.NetworkID, local bool) (bool, error) // the network is in its scope's records
	network func(record.NetworkID) (*record.Network, bool)
}

// openLeases reads what the last life had of plugins.
func (a *Agent) openLeases(ctx context.Context) (err error) {
	dirs := ipamplugin.DockerDirs()
	if d := a.cfg.PluginDir; d != "" {
		dirs.Sockets, dirs.Specs = append([]string{d}, dirs.Sockets...), append([]string{d}, dirs.Specs...)
	}
	a.leases, err = newLeases(ctx, leasesConfig{
		log: a.log, clock: a.clock, journal: a.journal, boxes: a.boxes, dirs: dirs, exists: a.networkExists,
		network: func(id record.NetworkID) (*record.Network, bool) { return a.picture().Network(id) },
	})
	return err
}

const leaseEvery = 30 * time.Second

// newLeases reads what the last life had.
func newLeases(ctx context.Context, cfg leasesConfig) (*leases, error) {
	l := &leases{
		leasesConfig: cfg, passes: newPasses(), held: map[string]journal.Lease{}, returning: map[string]bool{}, busy: map[record.EndpointID]int{},
		claims: map[record.NetworkID]bool{}, open: map[string]*plugin{}, said: map[string]bool{},
	}
	all, err := cfg.journal.Leases(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		l.held[x.Key()] = x
	}
	return l, nil
}

// flush asks for a pass and waits for its end, at most flushTimeout: what is asked of the plugin next finds the release done.
func (l *leases) flush(ctx context.Context) {
	if l.idle() {
		return
	}
	l.await(ctx, l.kick(), func() bool { return true })
}

// idle tells that this host has nothing of any plugin.
func (l *leases) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held) == 0
}

func (l *leases) run(ctx context.Context) {
	every := l.clock.After(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-every:
		case <-l.wake:
		}
		every = l.clock.After(leaseEvery)
		l.do(func() { l.pass(ctx) })
	}
}

// pass gives back all that this host should not have. A plugin that does not answer is left alone until the next pass.
func (l *leases) pass(ctx context.Context) {
	silent := map[string]bool{}
	for _, x := range l.surplus() {
		if silent[x.Plugin] {
			continue
		}
		p, err := l.plugin(ctx, x.Plugin)
		if err == nil {
			if n, ok := l.network(x.Network); ok {
				err = p.replay(ctx, l, n)
			}
		}
		if err == nil {
			err = l.giveBack(ctx, p, x)
		}
		silent[x.Plugin] = err != nil
		l.tell(x.Plugin, err)
	}
	claims, err := l.journal.PoolClaims(ctx)
	for _, c := range claims {
		if !l.claiming(c.Network) && !silent[c.Plugin] {
			l.tell(c.Plugin, l.settle(ctx, c))
		}
	}
	l.tell("", err)
}

// tell says once that a plugin cannot be given back what is its own, and that it can again.
func (l *leases) tell(plugin string, err error) {
	l.mu.Lock()
	before := l.said[plugin]
	l.said[plugin] = err != nil
	l.mu.Unlock()
	if err != nil && !before {
		l.log.Warn("an IPAM plugin cannot be given back what this host has of it; trying again", "plugin", plugin, "error", err)
	}
}

// giveBack releases an address, unless an attach has come to need it since it was found to be too many. A plugin that refuses has it already, or does
// not know it: there is nothing more to give.
func (l *leases) giveBack(ctx context.Context, p *plugin, x journal.Lease) error {
	if !l.leave(x) {
		return nil
	}
	defer l.stay(x)
	done, err := p.turn(ctx) // or what it gives out again at once would still be held here
	if err != nil {
		return err
	}
	defer done()
	err = p.ReleaseAddress(ctx, x.Handle, x.Addr)
	var refused *ipamplugin.Refusal
	if errors.As(err, &refused) {
		l.log.Warn("an IPAM plugin does not take an address back", "address", x.Addr, "error", err)
		err = nil
	}
	if err != nil {
		return err
	}
	if err := l.journal.DeleteLease(ctx, x); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, x.Key())
	return nil
}

// leave marks a lease as one that no attach may count on any more; false: one does already.
func (l *leases) leave(x journal.Lease) bool {
	l.mu.Lock()
	busy := l.busy[x.Endpoint] > 0
	if !busy {
		l.returning[x.Key()] = true
	}
	l.mu.Unlock()
	if busy {
		return false
	}
	if needs(l.boxes.snapshot())(x) { // the attach that was busy has ended
		l.stay(x)
		return false
	}
	return true
}

func (l *leases) stay(x journal.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.returning, x.Key())
}

// surplus are the leases that nothing of this host's needs.
func (l *leases) surplus() []journal.Lease {
	needed := needs(l.boxes.snapshot())
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []journal.Lease
	for _, k := range slices.Sorted(maps.Keys(l.held)) {
		if x := l.held[k]; l.busy[x.Endpoint] == 0 && !needed(x) {
			out = append(out, x)
		}
	}
	return out
}

// needs tells which leases the sandboxes need: addresses of those that are up or come again, and those that a user has asked for. An attachment
// that is being made keeps all that it has been given.
func needs(all map[record.SandboxID]*record.Sandbox) func(journal.Lease) bool {
	type place struct {
		s  *record.Sandbox
		at record.Attachment
	}
	by := map[record.EndpointID]place{}
	for _, s := range all {
		for _, at := range s.Attachments {
			by[at.Endpoint] = place{s, at}
		}
	}
	return func(x journal.Lease) bool {
		p, ok := by[x.Endpoint]
		if !ok || x.Endpoint == "" {
			return false
		}
		up := p.s.Up || p.s.Status == record.SandboxRestarting
		return p.at.Intent || x.Addr == p.at.IP || x.Addr == p.at.IP6 || up && slices.Contains(p.at.Addrs, x.Addr)
	}
}

// attaching keeps what an endpoint is given until done is called: its attachment says so then, or it has failed.
func (l *leases) attaching(ep record.EndpointID) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy[ep]++
	return func() {
		l.mu.Lock()
		if l.busy[ep]--; l.busy[ep] == 0 {
			delete(l.busy, ep)
		}
		l.mu.Unlock()
		l.kick()
	}
}

// holder is the endpoint that has an address of a plugin here, if any.
func (l *leases) holder(plugin, handle string, a netip.Addr) (record.EndpointID, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x, ok := l.held[journal.Lease{Plugin: plugin, Handle: handle, Addr: a}.Key()]
	return x.Endpoint, ok
}

// has tells whether an endpoint has an address of a plugin here, and keeps it.
func (l *leases) has(ep record.EndpointID, plugin, handle string, a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := journal.Lease{Plugin: plugin, Handle: handle, Addr: a}.Key()
	x, held := l.held[k]
	return held && x.Endpoint == ep && !l.returning[k]
}

// note writes down what a plugin has given.
func (l *leases) note(ctx context.Context, x journal.Lease) error {
	if err := l.journal.PutLease(context.WithoutCancel(ctx), x); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[x.Key()] = x
	return nil
}

// isPlugin tells a network whose addresses a plugin gives out.
func isPlugin(n *record.Network) bool { return n.IPAMDriver != "" && n.IPAMDriver != ipamDefault }

// ipamDefault is weft's own choice of addresses, by Docker's name.
const ipamDefault = "default"

// pluginRefusal is a plugin's error for a user: one that is not there is no driver.
func pluginRefusal(name string, err error) error {
	var refused *ipamplugin.Refusal
	var lie *ipamplugin.LieError
	switch {
	case errors.Is(err, ipamplugin.ErrNotFound):
		return api.Refuse(api.NotFound, "could not resolve driver %q of IPAM: %w; weft's own is %s", name, err, ipamDefault)
	case errors.As(err, &refused), errors.As(err, &lie):
		return api.Refuse(api.InUse, "%w", err)
	}
	return err
}
