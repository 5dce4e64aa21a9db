package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"weft/ipam"
	"weft/store"
	"weft/store/record"
)

// Foreign is a network of another system, which weft is to have in its place: Spec.Given is set.
type Foreign struct {
	Spec      NetworkSpec
	Endpoints []ForeignEndpoint
}

// ForeignEndpoint is an endpoint of it, whose address is to be kept.
type ForeignEndpoint struct {
	ID   record.EndpointID
	Name string
	Addr netip.Addr // zero: it has none
	MAC  record.MAC
	Host string // in words for the user
}

// Action is what is to be done with a network or an address.
type Action uint8

// The actions: make or keep it; it is there as it should be; it cannot be.
const (
	Create Action = iota + 1
	Present
	Skip
)

// ImportPlan is what importing a network comes to.
type ImportPlan struct {
	ID        record.NetworkID
	Name      string
	Action    Action
	Reason    string          // why it is skipped
	Notes     []string        // what will not be as it was
	Network   *record.Network // as it is, or will be; nil where it is skipped
	Endpoints []EndpointPlan
	// Revisions of the last writes, where there were any: of the network, and of what is kept in it.
	Rev, KeptRev store.Rev
}

// EndpointPlan is what becomes of one endpoint's address.
type EndpointPlan struct {
	ForeignEndpoint
	Action Action
	Reason string
}

// PlanImport says what importing networks one after the other would do, on a picture of the cluster and of those partitions that nets has. It
// changes nothing.
func (r *Registry) PlanImport(view *record.Snapshot, nets func(record.NetworkID) *record.Net, in []Foreign) []ImportPlan {
	out := make([]ImportPlan, 0, len(in))
	for _, f := range in {
		p := r.planNetwork(view, f)
		if p.Action == Create {
			view = foresee(view, p.Network)
		}
		if p.Action != Skip {
			p.Endpoints = planEndpoints(p.Network, nets(p.ID), f.Endpoints)
		}
		out = append(out, p)
	}
	return out
}

func (r *Registry) planNetwork(view *record.Snapshot, f Foreign) ImportPlan {
	out := ImportPlan{Name: f.Spec.Name, Action: Skip}
	if f.Spec.Given == nil {
		out.Reason = "it has no ID"
		return out
	}
	out.ID = f.Spec.Given.ID
	p, err := f.Spec.check()
	if err == nil && len(p.pools) == 0 {
		err = refuse(Invalid, "it has no subnet")
	}
	if err != nil {
		out.Reason = err.Error()
		return out
	}
	if have, ok := view.Network(out.ID); ok {
		if err := f.Spec.sameAs(have, p.pools); err != nil {
			out.Reason = err.Error()
			return out
		}
		out.Action, out.Network = Present, have
		return out
	}
	n, err := r.design(f.Spec, p, out.ID, view)
	if err != nil {
		out.Reason = err.Error()
		return out
	}
	out.Action, out.Network = Create, n
	if given := f.Spec.Given.VNI; given != 0 && given != n.VNI {
		owner, _ := view.VNIOwner(given)
		out.Notes = append(out.Notes, fmt.Sprintf("VNI %d belongs to network %s: it gets another", given, nameOf(view, owner)))
	}
	return out
}

func nameOf(view *record.Snapshot, id record.NetworkID) string {
	if n, ok := view.Network(id); ok {
		return n.Name
	}
	return record.ShortID(id)
}

// foresee is the picture with a network in it that is not there yet.
func foresee(view *record.Snapshot, n *record.Network) *record.Snapshot {
	b, err := record.Encode(n)
	if err != nil { // it cannot be created either
		return view
	}
	rev := view.Rev(store.Meta) + 1
	entry := func(k store.Key, v []byte) store.Entry { return store.Entry{Key: k, Value: v, Rev: rev} }
	return view.Apply(store.Meta, store.Batch{Rev: rev, Puts: []store.Entry{
		entry(record.NetworkKey(n.ID), b), entry(record.NetworkNameKey(n.Name), []byte(n.ID)), entry(record.VNIKey(n.VNI), []byte(n.ID)),
	}})
}

// planEndpoints decides about each address. net is nil where the network is not there yet.
func planEndpoints(n *record.Network, net *record.Net, eps []ForeignEndpoint) []EndpointPlan {
	if net == nil {
		net, _ = record.Empty().Apply(record.NetPartition(n.ID), store.Batch{}).Net(n.ID)
	}
	pools := make([]ipam.Pool, len(n.Pools))
	for i, p := range n.Pools {
		pools[i] = ipam.Pool{Subnet: p.Subnet, Gateway: p.Gateway, Range: p.IPRange, Aux: p.Aux}
	}
	out := make([]EndpointPlan, 0, len(eps))
	names, addrs := map[string]bool{}, map[netip.Addr]string{}
	for _, ep := range eps {
		p := EndpointPlan{ForeignEndpoint: ep, Action: Create}
		switch why := obstacle(net, pools, ep); {
		case settled(net, ep):
			p.Action = Present
		case why != "":
			p.Action, p.Reason = Skip, why
		case names[record.Fold(ep.Name)]:
			p.Action, p.Reason = Skip, "another endpoint has the same name"
		case addrs[ep.Addr] != "":
			p.Action, p.Reason = Skip, fmt.Sprintf("%s has the same address", addrs[ep.Addr])
		}
		if p.Action != Skip {
			names[record.Fold(ep.Name)], addrs[ep.Addr] = true, ep.Name
		}
		out = append(out, p)
	}
	return out
}

// settled tells that a name has its address already: kept for it, or in use by a sandbox that has come.
func settled(net *record.Net, ep ForeignEndpoint) bool {
	if _, come := net.ByName(ep.Name); come {
		return true
	}
	k, _ := net.Kept(ep.Name)
	return k != nil && k.Has(ep.Addr)
}

// obstacle says why an address cannot be kept, "" if it can.
func obstacle(net *record.Net, pools []ipam.Pool, ep ForeignEndpoint) string {
	if !ep.Addr.IsValid() {
		return "it has no IPv4 address"
	}
	if err := errors.Join(CheckName("sandbox", ep.Name), ipam.Check(pools, ep.Addr)); err != nil {
		return err.Error()
	}
	if !idForm.MatchString(string(ep.ID)) {
		return fmt.Sprintf("its ID %.70q has not 64 hexadecimal digits", ep.ID)
	}
	if k, _ := net.Kept(ep.Name); k != nil {
		return fmt.Sprintf("another address is kept for it: %s", k.Addrs[0])
	}
	owner, taken := net.Owner(ep.Addr)
	if !taken {
		return ""
	}
	name := record.ShortID(owner)
	if o, ok := net.Endpoint(owner); ok {
		name = o.Name
	} else if alias, ok := record.VIPOf(owner); ok {
		name = "the alias " + alias
	}
	for k := range net.AllKept() {
		if k.ID == owner {
			name = cmp.Or(k.Name, name)
		}
	}
	return fmt.Sprintf("its address %s belongs to %s", ep.Addr, name)
}

// ImportNetwork makes a network that comes from elsewhere, in one transaction as any network, and then keeps its endpoints' addresses for
// their names. What is there already is left as it is. It returns what it found to be done, and has done.
func (r *Registry) ImportNetwork(ctx context.Context, as Actor, f Foreign) (ImportPlan, error) {
	view, err := r.readMeta(ctx)
	if err != nil {
		return ImportPlan{}, fmt.Errorf("import network %s: %w", f.Spec.Name, err)
	}
	out := r.planNetwork(view, f)
	switch out.Action {
	case Skip:
		return out, nil
	case Create:
		n, rev, _, err := r.CreateNetwork(ctx, as, f.Spec)
		if k := KindOf(err); k != 0 && k != Lost && k != Cleared { // somebody was quicker
			out.Action, out.Reason, out.Network = Skip, err.Error(), nil
			return out, nil
		}
		if err != nil {
			return ImportPlan{}, err
		}
		out.Network, out.Rev = n, rev
	}
	first := true
	out.KeptRev, err = r.keepAddrs(ctx, as, out.ID, func(net *record.Net) []*record.Kept {
		now := planEndpoints(out.Network, net, f.Endpoints)
		if first {
			out.Endpoints, first = now, false
		}
		return r.toKeep(out.Network, now)
	})
	if err != nil {
		return out, fmt.Errorf("import network %s: %w", f.Spec.Name, err)
	}
	return out, nil
}

func (r *Registry) toKeep(n *record.Network, plans []EndpointPlan) []*record.Kept {
	var out []*record.Kept
	for _, p := range plans {
		if p.Action != Create {
			continue
		}
		k := &record.Kept{ID: p.ID, Network: n.ID, Name: p.Name, Addrs: []netip.Addr{p.Addr}, From: p.Host, Created: r.cfg.Now().UTC()}
		if string(p.MAC) != ipam.MAC(p.Addr) { // else it follows from the address, as weft's own do
			k.MAC = p.MAC
		}
		out = append(out, k)
	}
	return out
}

func byName(a, b *record.Kept) int { return cmp.Compare(record.Fold(a.Name), record.Fold(b.Name)) }
