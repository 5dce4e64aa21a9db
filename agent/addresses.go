package agent

import (
	"math/rand/v2"
	"net/netip"
	"slices"
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

// families are the indexes of what an attachment has one of for each: IPv4, IPv6.
const families = 2

func family(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// trial is what one try of an attach goes by, for each family: the address that the attachment had before, and whether it has lost one to
// another, and is to take a random one of the next.
type trial struct {
	preferred [families]netip.Addr
	lost      [families]bool
}

func trialOf(at record.Attachment) trial {
	var t trial
	for _, a := range at.Addrs {
		t.preferred[family(a)] = a
	}
	return t
}

// without is the next try, after an address was lost.
func (t trial) without(a netip.Addr) trial {
	t.preferred[family(a)], t.lost[family(a)] = netip.Addr{}, true
	return t
}

// asked is the address of a family that the user has asked for.
func asked(at record.Attachment, f int) netip.Addr { return [families]netip.Addr{at.IP, at.IP6}[f] }

// askedFor are the addresses that the user has asked for: an attachment's own also while it is down, whatever became of a start meanwhile.
// dynamic are the others that it has.
func askedFor(at record.Attachment) []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{at.IP, at.IP6}, func(a netip.Addr) bool { return !a.IsValid() })
}

func dynamic(at record.Attachment) []netip.Addr {
	var out []netip.Addr
	for _, a := range at.Addrs {
		if a != at.IP && a != at.IP6 {
			out = append(out, a)
		}
	}
	return out
}

// assign gives an attachment an address of each family that its network has: the one that is asked for, kept for the sandbox's name, had
// before, or else a chosen one. What was chosen is reserved until settle is called.
func (d *addresses) assign(n *record.Network, net *record.Net, name string, want *record.Attachment, t trial) (settle func(), err error) {
	var chosen, out []netip.Addr
	settle = func() {
		for _, a := range chosen {
			d.settle(n.ID, a)
		}
	}
	kept := !t.lost[0] && takeKept(net, name, want)
	if kept {
		d.remember(n.ID, name, want.Addrs[0], want.MAC)
	}
	for f := range families {
		pools := ipam.Family(poolsOf(n), f == 1)
		if len(pools) == 0 {
			continue
		}
		a := asked(*want, f)
		switch {
		case f == 0 && kept:
			a = want.Addrs[0]
		case !a.IsValid():
			was := former{t.preferred[f], want.MAC}
			if f == 0 && !t.lost[0] {
				was = d.recall(n.ID, name, *want, was.addr)
			}
			if a, err = d.choose(n, net, want.Endpoint, pools, was.addr, t.lost[f]); err != nil {
				settle()
				return nil, err
			}
			if chosen = append(chosen, a); a == was.addr {
				want.MAC = was.mac
			}
		}
		out = append(out, a)
	}
	want.Addrs = out
	return settle, nil
}

// choose finds an address of some pools for an endpoint and reserves it. Of preferred, which is the one it had before, nothing is lost if it
// is taken.
func (d *addresses) choose(n *record.Network, net *record.Net, ep record.EndpointID, pools []ipam.Pool, preferred netip.Addr, near bool) (netip.Addr, error) {
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
