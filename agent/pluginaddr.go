package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/integrations/ipamplugin"
	"weft/ipam"
	"weft/store/record"
)

// leaseTries bounds how often a plugin is asked for another address in place of one that somebody has: each host asks its own plugin, and plugins
// that do not know of each other give the same ones.
const leaseTries = 64

// lease gives an attachment its addresses, as addresses.assign does, from the network's plugin: those that it holds, or new ones. What is given
// is noted before it is used. settle is called when the attachment stands in the journal, or has failed.
func (a *Agent) lease(ctx context.Context, n *record.Network, net *record.Net, want *record.Attachment, t trial) (settle func(), err error) {
	l := a.leases
	settle = l.attaching(want.Endpoint)
	p, err := l.plugin(ctx, n.IPAMDriver)
	if err == nil {
		err = p.replay(ctx, l, n)
	}
	if err != nil {
		settle()
		return nil, err
	}
	if p.caps.RequiresMACAddress && want.MAC == "" {
		want.MAC = randomMAC()
	}
	q := leaseQuest{l: l, p: p, n: n, net: net, ep: want.Endpoint, mac: want.MAC}
	var out []netip.Addr
	for f := range families {
		pools := familyPools(n, f)
		if len(pools) == 0 {
			continue
		}
		preferred := t.preferred[f]
		if !q.mine(preferred) {
			preferred = netip.Addr{}
		}
		got, err := q.one(ctx, pools, asked(*want, f), preferred)
		if err != nil {
			settle()
			return nil, pluginRefusal(p.Name(), err)
		}
		out = append(out, got)
	}
	want.Addrs = out
	return settle, nil
}

func familyPools(n *record.Network, f int) (out []record.Pool) {
	for _, p := range n.Pools {
		if family(p.Subnet.Addr()) == f {
			out = append(out, p)
		}
	}
	return out
}

// randomMAC is a unicast address of the locally administered kind, as Docker's.
func randomMAC() record.MAC {
	b := []byte{0x02, 0x42, 0, 0, 0, 0}
	_, _ = rand.Read(b[2:]) // never fails (crypto/rand)
	return record.MAC(net.HardwareAddr(b).String())
}

// leaseQuest is the search of one endpoint for its addresses.
type leaseQuest struct {
	l   *leases
	p   *plugin
	n   *record.Network
	net *record.Net
	ep  record.EndpointID
	mac record.MAC
}

// mine tells an address that the endpoint holds already.
func (q leaseQuest) mine(a netip.Addr) bool {
	for _, p := range q.n.Pools {
		if a.IsValid() && p.Subnet.Contains(a) {
			return q.l.has(q.ep, q.p.Name(), p.Handle, a)
		}
	}
	return false
}

// one finds an address of some pools: the one that is asked for or preferred, or what the plugin gives.
func (q leaseQuest) one(ctx context.Context, pools []record.Pool, asked, preferred netip.Addr) (netip.Addr, error) {
	want := asked
	if !want.IsValid() {
		want = preferred
	}
	if q.mine(want) {
		return want, nil
	}
	var last error
	for _, p := range pools {
		if asked.IsValid() && !p.Subnet.Contains(asked) {
			continue
		}
		for range leaseTries {
			got, err := q.ask(ctx, p, asked)
			if err == nil {
				return got, nil
			}
			last = err
			var taken *takenLease
			if !errors.As(err, &taken) || asked.IsValid() {
				break
			}
		}
		var refused *ipamplugin.Refusal
		if !errors.As(last, &refused) || asked.IsValid() {
			break // only a pool that is full is a reason to look into the next
		}
	}
	return netip.Addr{}, last
}

// takenLease says that a plugin has given what somebody has.
type takenLease struct{ text string }

func (t *takenLease) Error() string { return t.text }

// ask asks for one address, and looks whether the network can use it. One that it cannot use is noted as well: it goes back when the attach has
// ended.
func (q leaseQuest) ask(ctx context.Context, p record.Pool, asked netip.Addr) (netip.Addr, error) {
	done, err := q.p.turn(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	defer done()
	got, err := q.p.RequestAddress(ctx, p.Handle, asked, q.p.options(q.mac))
	if err != nil {
		return got, err
	}
	lie := func(format string, args ...any) error {
		return &ipamplugin.LieError{Plugin: q.p.Name(), Call: "IpamDriver.RequestAddress", Text: fmt.Sprintf(format, args...)}
	}
	if who, held := q.l.holder(q.p.Name(), p.Handle, got); held && who != q.ep { // its books have it once: it is not given back
		return got, &takenLease{fmt.Sprintf("IPAM plugin %s gave %s of network %s, which it had given to another endpoint of this host (%s)", q.p.Name(), got, q.n.Name, record.ShortID(who))}
	}
	if err := q.l.note(ctx, journal.Lease{Plugin: q.p.Name(), Handle: p.Handle, Addr: got, Network: q.n.ID, Endpoint: q.ep, MAC: q.mac}); err != nil {
		return got, err
	}
	switch {
	case !p.Subnet.Contains(got):
		return got, lie("%s is outside the pool %s of network %s", got, p.Subnet, q.n.Name)
	case asked.IsValid() && got != asked:
		return got, lie("%s was asked for, and %s came", asked, got)
	}
	if err := ipam.Check([]ipam.Pool{{Subnet: p.Subnet, Gateway: p.Gateway, Aux: p.Aux}}, got); err != nil {
		return got, lie("%v", err)
	}
	if q.net != nil && q.net.Taken(got) && !owns(q.net, q.ep, got) {
		owner := "another endpoint"
		if o, ok := q.net.ByAddr(got); ok {
			owner = o.Name
		}
		return got, &takenLease{fmt.Sprintf("Address already in use: IPAM plugin %s gave %s of network %s, which belongs to %s", q.p.Name(), got, q.n.Name, owner)}
	}
	return got, nil
}

// leaseOrAssign gives an attachment its addresses: from the network's plugin, or weft's own choice.
func (a *Agent) leaseOrAssign(ctx context.Context, n *record.Network, net *record.Net, name string, want *record.Attachment, t trial) (func(), error) {
	if !isPlugin(n) {
		return a.addresses.assign(n, net, name, want, t)
	}
	settle, err := a.lease(ctx, n, net, want, t)
	var taken *takenLease
	if errors.As(err, &taken) {
		err = api.Refuse(api.InUse, "%w", err)
	}
	return settle, err
}
