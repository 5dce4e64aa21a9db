package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/agent/registry"
	"weft/integrations/ipamplugin"
	"weft/ipam"
	"weft/store"
	"weft/store/record"
)

// giveBackTime is how long a command waits for a plugin to take something back; after that it is done later.
const giveBackTime = 2 * time.Second

// withPools asks an IPAM plugin for a network's pools and puts them into the request. done is called with the outcome of the creation: after an
// error the plugin has everything back.
func (a *Agent) withPools(ctx context.Context, r *api.NetworkRequest) (done func(error), err error) {
	if r.IPAMDriver == "" || r.IPAMDriver == ipamDefault || r.ConfigOnly {
		r.Spec.IPAMDriver = r.IPAMDriver
		return func(error) {}, nil
	}
	asked, err := (ipam.Request{Subnets: r.Spec.Subnets, Gateways: r.Spec.Gateways, Ranges: r.Spec.IPRanges, Aux: r.Spec.Aux}).Parse()
	if err != nil {
		return nil, api.Refuse(api.Invalid, "%w", err)
	}
	p, err := a.leases.plugin(ctx, r.IPAMDriver)
	if err != nil {
		return nil, err
	}
	local := r.Spec.Driver == bridgeDriver
	space, err := p.space(ctx, local)
	if err != nil {
		return nil, pluginRefusal(p.Name(), err)
	}
	r.Spec.ID, r.Spec.IPAMDriver = record.NetworkID(registry.NewID()), p.Name()
	g := &grant{l: a.leases, p: p, claim: journal.PoolClaim{Network: r.Spec.ID, Plugin: p.Name(), Local: local}}
	a.leases.setClaiming(r.Spec.ID, true)
	done = func(err error) { g.done(ctx, err) }
	for _, want := range wishes(asked, r.Spec) {
		pool, err := g.pool(ctx, space, want, r.Spec.IPAMOpts)
		if err != nil {
			done(err)
			return nil, fmt.Errorf("create network %s: %w", r.Spec.Name, pluginRefusal(p.Name(), err))
		}
		r.Spec.Pools = append(r.Spec.Pools, pool)
	}
	r.Spec.Subnets, r.Spec.Gateways, r.Spec.IPRanges, r.Spec.Aux = nil, nil, nil, nil
	return done, nil
}

// wish is a pool as it is asked for: with a subnet of zero, one that the plugin chooses; with a gateway of zero, likewise.
type wish struct {
	ipam.Pool
	v6 bool
}

// wishes are the pools that a network is to have: the user's, and one of each family that is to have some and was given none.
func wishes(asked []ipam.Pool, s registry.NetworkSpec) []wish {
	var out []wish
	if len(ipam.Family(asked, false)) == 0 {
		out = append(out, wish{})
	}
	for _, p := range asked {
		if !slices.Contains(s.Gateways, p.Gateway.String()) {
			p.Gateway = netip.Addr{}
		}
		out = append(out, wish{Pool: p, v6: p.Subnet.Addr().Is6()})
	}
	if s.IPv6 && len(ipam.Family(asked, true)) == 0 {
		out = append(out, wish{v6: true})
	}
	return out
}

// grant is what a plugin has given for one network, noted piece by piece.
type grant struct {
	l     *leases
	p     *plugin
	claim journal.PoolClaim
}

// pool asks for a pool with its gateway and auxiliary addresses.
func (g *grant) pool(ctx context.Context, space string, want wish, options map[string]string) (record.Pool, error) {
	got, err := g.p.RequestPool(ctx, ipamplugin.PoolRequest{Space: space, Pool: want.Subnet, Range: want.Range, Options: options, V6: want.v6})
	var lie *ipamplugin.LieError
	if errors.As(err, &lie) && got.ID != "" { // it has given something
		err = errors.Join(err, g.note(ctx, got.ID, netip.Addr{}))
	}
	if err != nil {
		return record.Pool{}, err
	}
	if err := g.note(ctx, got.ID, netip.Addr{}); err != nil {
		return record.Pool{}, err
	}
	out := record.Pool{Subnet: got.Prefix, Gateway: got.Gateway, IPRange: want.Range, Aux: want.Aux, Auto: !want.Subnet.IsValid(), Handle: got.ID}
	if want.Gateway.IsValid() || !got.Gateway.IsValid() {
		if out.Gateway, err = g.address(ctx, out, want.Gateway, gatewayRequest()); err != nil {
			return out, err
		}
	}
	for _, aux := range addrsOf(record.Pool{Aux: want.Aux}) {
		if _, err := g.address(ctx, out, aux, nil); err != nil {
			return out, err
		}
	}
	return out, sound(g.p.Name(), out)
}

// sound refuses a pool that no network can have.
func sound(plugin string, p record.Pool) error {
	r := ipam.Request{Subnets: []string{p.Subnet.String()}, Gateways: []string{p.Gateway.String()}}
	if _, err := r.Parse(); err != nil {
		return &ipamplugin.LieError{Plugin: plugin, Call: "IpamDriver.RequestPool", Text: err.Error()}
	}
	return nil
}

// address asks for one of a pool's own addresses.
func (g *grant) address(ctx context.Context, p record.Pool, want netip.Addr, options map[string]string) (netip.Addr, error) {
	a, err := g.p.RequestAddress(ctx, p.Handle, want, options)
	if err != nil {
		return a, err
	}
	if err := g.note(ctx, p.Handle, a); err != nil {
		return a, err
	}
	if !p.Subnet.Contains(a) || want.IsValid() && a != want {
		return a, &ipamplugin.LieError{Plugin: g.p.Name(), Call: "IpamDriver.RequestAddress", Text: fmt.Sprintf("it gave %s of %s, and was asked for %s", a, p.Subnet, orAny(want))}
	}
	return a, nil
}

func orAny(a netip.Addr) string {
	if a.IsValid() {
		return a.String()
	}
	return "any"
}

// note writes a pool, or an address of one, down.
func (g *grant) note(ctx context.Context, handle string, a netip.Addr) error {
	i := slices.IndexFunc(g.claim.Pools, func(p journal.ClaimedPool) bool { return p.Handle == handle })
	if i < 0 {
		g.claim.Pools, i = append(g.claim.Pools, journal.ClaimedPool{Handle: handle}), len(g.claim.Pools)
	}
	if a.IsValid() {
		g.claim.Pools[i].Addrs = append(g.claim.Pools[i].Addrs, a)
	}
	return g.l.journal.PutPoolClaim(context.WithoutCancel(ctx), g.claim)
}

// done ends the creation: of a network that there is, the claim is no more needed; of one that is not, everything goes back.
func (g *grant) done(ctx context.Context, failed error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTime)
	defer cancel()
	defer g.l.setClaiming(g.claim.Network, false)
	if failed == nil {
		g.p.mu.Lock()
		g.p.replayed[g.claim.Network] = true
		g.p.mu.Unlock()
		g.l.tell(g.p.Name(), g.l.journal.DeletePoolClaim(ctx, g.claim.Network))
		return
	}
	if len(g.claim.Pools) > 0 {
		g.l.tell(g.p.Name(), g.l.settle(ctx, g.claim))
	}
}

// leaving notes what a network that is being removed has of its plugin. done is called when it was removed, or not.
func (l *leases) leaving(ctx context.Context, n *record.Network) (done func(error), err error) {
	if !isPlugin(n) || n.ConfigOnly {
		return func(error) {}, nil
	}
	c := journal.PoolClaim{Network: n.ID, Plugin: n.IPAMDriver, Local: n.IsLocal()}
	for _, p := range n.Pools {
		c.Pools = append(c.Pools, journal.ClaimedPool{Handle: p.Handle, Addrs: addrsOf(p)})
	}
	l.flush(ctx) // addresses of sandboxes that have just gone
	l.setClaiming(n.ID, true)
	if err := l.journal.PutPoolClaim(ctx, c); err != nil {
		l.setClaiming(n.ID, false)
		return nil, err
	}
	return func(error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTime)
		defer cancel()
		defer l.setClaiming(n.ID, false)
		l.tell(c.Plugin, l.settle(ctx, c))
	}, nil
}

// settle looks whether the network of a claim is there, which then keeps what it has; what nobody has goes back to the plugin.
func (l *leases) settle(ctx context.Context, c journal.PoolClaim) error {
	there, err := l.exists(ctx, c.Network, c.Local)
	if err != nil || there {
		if err == nil {
			err = l.journal.DeletePoolClaim(ctx, c.Network)
		}
		return err
	}
	p, err := l.plugin(ctx, c.Plugin)
	if err != nil {
		return err
	}
	give := func(err error) error {
		var refused *ipamplugin.Refusal
		if errors.As(err, &refused) { // it has it already, or has forgotten it
			l.log.Warn("an IPAM plugin does not take back what a removed network had", "network", record.ShortID(c.Network), "error", err)
			return nil
		}
		return err
	}
	for i, pool := range c.Pools {
		for j, a := range pool.Addrs {
			if err := give(p.ReleaseAddress(ctx, pool.Handle, a)); err != nil {
				c.Pools[i].Addrs = c.Pools[i].Addrs[j:]
				return errors.Join(err, l.journal.PutPoolClaim(ctx, journal.PoolClaim{Network: c.Network, Plugin: c.Plugin, Local: c.Local, Pools: c.Pools[i:]}))
			}
		}
		c.Pools[i].Addrs = nil
		if err := give(p.ReleasePool(ctx, pool.Handle)); err != nil {
			return errors.Join(err, l.journal.PutPoolClaim(ctx, journal.PoolClaim{Network: c.Network, Plugin: c.Plugin, Local: c.Local, Pools: c.Pools[i:]}))
		}
	}
	return l.journal.DeletePoolClaim(ctx, c.Network)
}

func (l *leases) setClaiming(id record.NetworkID, yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if yes {
		l.claims[id] = true
	} else {
		delete(l.claims, id)
	}
}

func (l *leases) claiming(id record.NetworkID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.claims[id]
}

// networkExists asks the records themselves: a picture may be older.
func (a *Agent) networkExists(ctx context.Context, id record.NetworkID, local bool) (bool, error) {
	sc := a.global
	if local {
		sc = a.local
	}
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	if !sc.joined() {
		return false, fmt.Errorf("look for network %s: %w", record.ShortID(id), store.ErrUnreachable)
	}
	_, err := sc.store.Get(ctx, record.NetworkKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
