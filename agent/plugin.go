package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"weft/agent/journal"
	"weft/integrations/ipamplugin"
	"weft/store/record"
)

// plugin is an IPAM plugin with what this life of the agent knows of it.
type plugin struct {
	*ipamplugin.Plugin
	caps  ipamplugin.Capabilities
	turns chan struct{} // size 1: held while an address is asked for or given back, and that is written down

	mu       sync.Mutex // guards replayed; held across the calls of a replay, which nothing else waits for but calls of the same plugin
	replayed map[record.NetworkID]bool
}

// plugin finds a plugin, once in a life.
func (l *leases) plugin(ctx context.Context, name string) (*plugin, error) {
	l.mu.Lock()
	p := l.open[name]
	l.mu.Unlock()
	if p != nil {
		return p, nil
	}
	found, err := ipamplugin.Open(ctx, l.dirs, name)
	if err != nil {
		return nil, pluginRefusal(name, err)
	}
	p = &plugin{Plugin: found, turns: make(chan struct{}, 1), replayed: map[record.NetworkID]bool{}}
	if p.caps, err = found.Capabilities(ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := l.open[name]; first != nil { // who has the turns
		return first, nil
	}
	l.open[name] = p
	return p, nil
}

// turn waits until nobody else asks for an address or gives one back; the returned function ends it.
func (p *plugin) turn(ctx context.Context) (done func(), err error) {
	select {
	case p.turns <- struct{}{}:
		return func() { <-p.turns }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for IPAM plugin %s: %w", p.Name(), ctx.Err())
	}
}

// space is the address space of a scope.
func (p *plugin) space(ctx context.Context, local bool) (string, error) {
	l, g, err := p.Spaces(ctx)
	if local {
		return l, err
	}
	return g, err
}

// replay asks a plugin that keeps no books for all that this host has of a network, once in each life of this agent.
func (p *plugin) replay(ctx context.Context, l *leases, n *record.Network) error {
	if !p.caps.RequiresRequestReplay {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.replayed[n.ID] {
		return nil
	}
	space, err := p.space(ctx, n.IsLocal())
	if err != nil {
		return err
	}
	for _, pool := range n.Pools {
		if err := p.replayPool(ctx, l, n, pool, space); err != nil {
			return fmt.Errorf("ask again for pool %s of network %s: %w", pool.Subnet, n.Name, err)
		}
	}
	p.replayed[n.ID] = true
	return nil
}

func (p *plugin) replayPool(ctx context.Context, l *leases, n *record.Network, pool record.Pool, space string) error {
	got, err := p.RequestPool(ctx, ipamplugin.PoolRequest{Space: space, Pool: pool.Subnet, Range: pool.IPRange, Options: n.IPAMOpts, V6: pool.Subnet.Addr().Is6()})
	if err != nil {
		return err
	}
	if got.ID != pool.Handle {
		return fmt.Errorf("the plugin calls it %q now, and called it %q when the network was made", got.ID, pool.Handle)
	}
	var refused *ipamplugin.Refusal // one that has it in its books
	if _, err := p.RequestAddress(ctx, pool.Handle, pool.Gateway, gatewayRequest()); err != nil && !errors.As(err, &refused) {
		return err
	}
	for _, x := range l.of(n.ID, pool.Handle) {
		if _, err := p.RequestAddress(ctx, pool.Handle, x.Addr, p.options(x.MAC)); err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pool.Aux)) {
		if _, err := p.RequestAddress(ctx, pool.Handle, pool.Aux[name], nil); err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	return nil
}

// of lists the leases of a network's pool.
func (l *leases) of(id record.NetworkID, handle string) (out []journal.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(l.held)) {
		if x := l.held[k]; x.Network == id && x.Handle == handle {
			out = append(out, x)
		}
	}
	return out
}

// options are those of a request for an endpoint's address.
func (p *plugin) options(mac record.MAC) map[string]string {
	if !p.caps.RequiresMACAddress {
		return nil
	}
	return map[string]string{ipamplugin.OptMAC: string(mac)}
}

func gatewayRequest() map[string]string {
	return map[string]string{ipamplugin.OptRequestType: ipamplugin.OptGateway}
}

// addrsOf are the addresses of a pool that are its network's own.
func addrsOf(p record.Pool) []netip.Addr {
	var out []netip.Addr
	if p.Gateway.IsValid() {
		out = append(out, p.Gateway)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Aux)) {
		out = append(out, p.Aux[name])
	}
	return out
}
