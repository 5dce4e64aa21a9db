package agent

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"weft/agent/api"
	"weft/ipam"
	"weft/store/record"
)

// addresses are what attaches of this host have chosen and the picture does not show yet, and what was released a moment ago.
type addresses struct {
	clock Clock

	mu      sync.Mutex // guards what follows
	chosen  map[netKey]record.EndpointID
	resting map[netKey]time.Time
	former  map[nameKey]former
}

type netKey struct {
	network record.NetworkID
	addr    netip.Addr
}

// restFor is how long a released address is given to nobody else while others are free: caches and connections of others still hold it.
const restFor = 10 * time.Second

func newAddresses(clock Clock) *addresses {
	return &addresses{clock: clock, chosen: map[netKey]record.EndpointID{}, resting: map[netKey]time.Time{}, former: map[nameKey]former{}}
}

// choose finds an address for an endpoint and reserves it. Of preferred, which is the one it had before, nothing is lost if it is taken.
func (d *addresses) choose(n *record.Network, net *record.Net, ep record.EndpointID, preferred netip.Addr, near bool) (netip.Addr, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock.Now()
	for k, since := range d.resting {
		if now.Sub(since) > restFor {
			delete(d.resting, k)
		}
	}
	taken := func(a netip.Addr) bool {
		by, chosen := d.chosen[netKey{n.ID, a}]
		return chosen && by != ep || net != nil && net.Taken(a) && !owns(net, ep, a)
	}
	pools := poolsOf(n)
	if preferred.IsValid() && ipam.Check(pools, preferred) == nil && !taken(preferred) {
		d.chosen[netKey{n.ID, preferred}] = ep
		return preferred, nil
	}
	var a netip.Addr
	var err error
	if near {
		a, err = ipam.ChooseNear(pools, taken, rand.IntN)
	} else {
		a, err = ipam.Choose(pools, taken, func(a netip.Addr) bool { _, rests := d.resting[netKey{n.ID, a}]; return rests })
	}
	if err != nil {
		return a, api.Refuse(api.InUse, "network %s: %w", n.Name, err)
	}
	d.chosen[netKey{n.ID, a}] = ep
	return a, nil
}

func owns(net *record.Net, ep record.EndpointID, a netip.Addr) bool {
	e, ok := net.ByAddr(a)
	return ok && e.ID == ep
}

// settle ends a reservation: the picture shows the address now, or nobody has it.
func (d *addresses) settle(n record.NetworkID, a netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.chosen, netKey{n, a})
}

func (d *addresses) rest(n record.NetworkID, as ...netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range as {
		d.resting[netKey{n, a}] = d.clock.Now()
	}
}

func poolsOf(n *record.Network) []ipam.Pool {
	out := make([]ipam.Pool, len(n.Pools))
	for i, p := range n.Pools {
		out[i] = ipam.Pool{Subnet: p.Subnet, Gateway: p.Gateway, Range: p.IPRange, Aux: p.Aux}
	}
	return out
}
