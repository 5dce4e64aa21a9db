package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/ipam"
	"weft/store"
	"weft/store/record"
)

// Overhead is what VXLAN adds to a packet that goes to or from a VTEP: outer Ethernet 14, IP 20 or 40, UDP 8, VXLAN 8 (RFC 7348).
func Overhead(vtep netip.Addr) int {
	if vtep.Is6() {
		return 70
	}
	return 50
}

// CreateNetwork makes a network: its definition, name, VNI and pools in one transaction. Warnings are for the user.
func (r *Registry) CreateNetwork(ctx context.Context, as Actor, spec NetworkSpec) (n *record.Network, rev store.Rev, warnings []string, err error) {
	p, err := spec.check()
	if err != nil {
		return nil, 0, nil, err
	}
	id := cmp.Or(spec.ID, record.NetworkID(NewID()))
	if spec.Given != nil {
		id = spec.Given.ID
	}
	err = retry(ctx, func(fresh bool) (bool, error) {
		view := r.cfg.Picture()
		if fresh || view.Rev(store.Meta) == 0 {
			var err error
			if view, err = r.readMeta(ctx); err != nil {
				return false, err
			}
		}
		var again bool
		var err error
		n, rev, again, err = r.tryCreate(ctx, as, spec, p, id, view, fresh)
		return again, err
	})
	if err != nil {
		return nil, 0, nil, fmt.Errorf("create network %s: %w", spec.Name, err)
	}
	return n, rev, warnings, nil
}

func (r *Registry) tryCreate(ctx context.Context, as Actor, spec NetworkSpec, p plan, id record.NetworkID, view *record.Snapshot, fresh bool) (*record.Network, store.Rev, bool, error) {
	if made, ok := view.Network(id); ok { // an attempt whose outcome was unknown had been applied, or somebody else gave the same ID
		return made, view.NetworkRev(id), false, spec.sameAs(made, p.pools)
	}
	n, err := r.design(spec, p, id, view)
	if err != nil {
		return nil, 0, !fresh, err // the picture may be old: only a fresh look refuses for good
	}
	conds, err := r.conditions(ctx, as, fresh)
	if err != nil {
		return nil, 0, false, err
	}
	t := txn{}
	t.t.If = conds
	t.when(record.NetworkKey(id), store.Absent)
	t.claim(record.NetworkNameKey(n.Name), string(id))
	if n.VNI != 0 {
		t.claim(record.VNIKey(n.VNI), string(id))
	}
	t.when(record.PoolsGenKey(), view.PoolsGen())
	t.put(record.NetworkKey(id), n)
	t.t.Then = append(t.t.Then, store.Put(record.PoolsGenKey(), []byte(id)))
	rev, err := r.commit(ctx, t)
	_, lost := conflict(err)
	return n, rev, lost || errors.Is(err, store.ErrUnknown), err
}

// design chooses what the user left open, from a view of the cluster.
func (r *Registry) design(spec NetworkSpec, p plan, id record.NetworkID, view *record.Snapshot) (*record.Network, error) {
	if err := r.nameIsFree(spec.Name, view); err != nil {
		return nil, err
	}
	if spec.ConfigOnly {
		return r.configuration(spec, p, id), nil
	}
	taken, err := r.taken(view)
	if err != nil {
		return nil, err
	}
	pools, err := r.choosePools(spec, p, view, taken)
	if err != nil {
		return nil, err
	}
	n := &record.Network{
		ID: id, Name: spec.Name, Driver: spec.driver(), Created: r.created(spec.Given), MTU: p.mtu, Internal: spec.Internal, IPv6: spec.IPv6,
		Options: spec.Options, Labels: spec.Labels, IPAMOpts: spec.IPAMOpts, State: record.Active, Pools: pools, ConfigFrom: spec.ConfigFrom,
		Attachable: spec.Attachable, IPAMDriver: spec.IPAMDriver,
	}
	if err := r.forDriver(n, spec, view); err != nil {
		return nil, err
	}
	if n.IPv6 && n.MTU < minMTU6 {
		return nil, refuse(InUse, "the smallest underlay of the hosts leaves %d bytes for a packet, and IPv6 needs %d: raise the MTU of that host's interface", n.MTU, minMTU6)
	}
	return n, nil
}

// forDriver completes what each driver has of its own.
func (r *Registry) forDriver(n *record.Network, spec NetworkSpec, view *record.Snapshot) error {
	if r.cfg.Local {
		n.Scope = "local"
		if n.MTU == 0 {
			n.MTU = r.localMTU()
		}
		return checkBridge(n, view)
	}
	vni, err := chooseVNI(spec.Given, view)
	if err != nil {
		return refuse(InUse, "%s", err)
	}
	n.Scope, n.VNI = "global", vni
	if n.MTU == 0 {
		n.MTU = room(view)
	}
	return nil
}

// nameIsFree refuses a name that this scope has, or this host in the other.
func (r *Registry) nameIsFree(name string, view *record.Snapshot) error {
	_, taken := view.NetworkByName(name)
	if !taken && r.cfg.Beside != nil {
		_, taken = r.cfg.Beside().NetworkByName(name)
	}
	if taken {
		return refuse(Exists, "network with name %s already exists", name)
	}
	return nil
}

// takenPrefixes are what a new pool must not overlap.
type takenPrefixes struct{ pools, routes []ipam.Taken }

func (r *Registry) taken(view *record.Snapshot) (takenPrefixes, error) {
	t := takenPrefixes{pools: poolsOf(view)}
	if r.cfg.Beside != nil {
		t.pools = append(t.pools, poolsOf(r.cfg.Beside())...)
	}
	if r.cfg.Routes == nil {
		t.routes = routesOf(view)
		return t, nil
	}
	routes, err := r.cfg.Routes()
	for _, x := range routes {
		t.routes = append(t.routes, ipam.Taken{Prefix: x.Prefix, By: fmt.Sprintf("this host (interface %s)", x.Link)})
	}
	return t, err
}

// choosePools returns the pools that the user gave, and one of each family that is to have some and was given none.
func (r *Registry) choosePools(spec NetworkSpec, p plan, view *record.Snapshot, not takenPrefixes) ([]record.Pool, error) {
	if spec.Pools != nil {
		return spec.Pools, checkOverlaps(poolsIn(spec.Pools), not, p.allowOverlap)
	}
	if err := checkOverlaps(p.pools, not, p.allowOverlap); err != nil {
		return nil, err
	}
	var out []record.Pool
	taken := prefixes(append(not.pools, not.routes...))
	if len(ipam.Family(p.pools, false)) == 0 {
		subnet, err := ipam.ChooseSubnet(r.bases(view), taken)
		if err != nil {
			return nil, refuse(InUse, "%s", err)
		}
		out = append(out, automatic(subnet))
	}
	for _, x := range p.pools {
		out = append(out, record.Pool{Subnet: x.Subnet, Gateway: x.Gateway, IPRange: x.Range, Aux: x.Aux})
	}
	if spec.IPv6 && len(ipam.Family(p.pools, true)) == 0 {
		subnet, err := ipam.ChooseSubnet6(ipam.ULA(r.ulaName(view)), taken)
		if err != nil {
			return nil, refuse(InUse, "%s", err)
		}
		out = append(out, automatic(subnet))
	}
	return out, nil
}

func automatic(subnet netip.Prefix) record.Pool {
	return record.Pool{Subnet: subnet, Gateway: ipam.Automatic(subnet).Gateway, Auto: true}
}

// ulaName is whose automatic IPv6 subnets these are: the cluster's, or, in a host's own records, the host's.
func (r *Registry) ulaName(view *record.Snapshot) string {
	if c := view.Cluster(); c != nil && r.cfg.ULA == "" {
		return c.ID
	}
	return r.cfg.ULA
}

// chooseVNI takes the one that the network brings along, unless another network has it.
func chooseVNI(g *Given, view *record.Snapshot) (uint32, error) {
	taken := func(v uint32) bool { _, taken := view.VNIOwner(v); return taken }
	if g != nil && g.VNI != 0 && !taken(g.VNI) {
		return g.VNI, nil
	}
	return ipam.ChooseVNI(taken)
}

func (r *Registry) created(g *Given) time.Time {
	if g != nil && !g.Created.IsZero() {
		return g.Created.UTC()
	}
	return r.cfg.Now().UTC()
}

// sameAs refuses a network that has the ID that the spec brings along, and is not what the spec says.
func (s NetworkSpec) sameAs(n *record.Network, pools []ipam.Pool) error {
	if s.Given == nil {
		return nil
	}
	differs := func(what, have string) error {
		return refuse(Exists, "a network with ID %s is there already, and it is another: its %s %s", record.ShortID(n.ID), what, have)
	}
	switch {
	case record.Fold(n.Name) != record.Fold(s.Name):
		return differs("name is", n.Name)
	case len(n.Pools) != len(pools):
		return differs("subnets are", fmt.Sprint(len(n.Pools)))
	case n.State != record.Active:
		return refuse(InUse, "network %s is being removed", n.Name)
	}
	for i, p := range pools {
		if n.Pools[i].Subnet != p.Subnet || n.Pools[i].Gateway != p.Gateway {
			return differs("subnet is", fmt.Sprintf("%s with gateway %s", n.Pools[i].Subnet, n.Pools[i].Gateway))
		}
	}
	return nil
}

func checkOverlaps(pools []ipam.Pool, taken takenPrefixes, allowRoutes bool) error {
	if mine, other, yes := ipam.Overlap(pools, taken.pools); yes {
		return refuse(Invalid, "Pool overlaps with other one on this address space: %s overlaps %s of %s", mine.Subnet, other.Prefix, other.By)
	}
	if allowRoutes {
		return nil
	}
	if mine, other, yes := ipam.Overlap(pools, taken.routes); yes {
		return refuse(Invalid, "subnet %s overlaps the route to %s of %s: sandboxes there could not reach it any more; choose another subnet, or insist with -o %s=true", mine.Subnet, other.Prefix, other.By, OptRouteOverlap)
	}
	return nil
}

func poolsOf(view *record.Snapshot) []ipam.Taken {
	var out []ipam.Taken
	for n := range view.Networks() {
		if n.ConfigOnly {
			continue
		}
		for _, p := range n.Pools {
			out = append(out, ipam.Taken{Prefix: p.Subnet, By: "network " + n.Name})
		}
	}
	return out
}

func routesOf(view *record.Snapshot) []ipam.Taken {
	var out []ipam.Taken
	for h := range view.Hosts() {
		for _, x := range h.Routes {
			out = append(out, ipam.Taken{Prefix: x.Prefix, By: fmt.Sprintf("host %s (interface %s)", h.Name, x.Link)})
		}
	}
	return out
}

func prefixes(ts []ipam.Taken) []netip.Prefix {
	out := make([]netip.Prefix, len(ts))
	for i, t := range ts {
		out[i] = t.Prefix
	}
	return out
}

func (r *Registry) bases(view *record.Snapshot) []ipam.Base {
	if r.cfg.Local {
		return localBases()
	}
	var out []ipam.Base
	if c := view.Cluster(); c != nil {
		for _, p := range c.AddrPools {
			out = append(out, ipam.Base{Prefix: p.Base, Size: p.Size})
		}
	}
	if len(out) == 0 {
		return ipam.DefaultBases()
	}
	return out
}

// room is the largest packet that every host's tunnels carry.
func room(view *record.Snapshot) int {
	least := 0
	for h := range view.Hosts() {
		if r := min(h.MTU, 65535) - Overhead(h.VTEP); h.MTU > 0 && (least == 0 || r < least) {
			least = r
		}
	}
	if least == 0 {
		return 1500 - Overhead(netip.Addr{})
	}
	return least
}

// refuseIfUsed lists the network's partition. An endpoint whose record is corrupt counts.
func (r *Registry) refuseIfUsed(ctx context.Context, n *record.Network) error {
	l, err := r.cfg.Store.List(ctx, record.NetPartition(n.ID))
	if err != nil {
		return fmt.Errorf("list the endpoints of network %s: %w", n.Name, err)
	}
	var users, kept []string
	for _, e := range l.Entries {
		if name, ok := record.KeptName(e.Key); ok {
			kept = append(kept, name)
		}
		id, ok := strings.CutPrefix(e.Key.Name, "ep/")
		if !ok {
			continue
		}
		ep := &record.Endpoint{}
		if record.Decode(e.Value, ep) != nil {
			users = append(users, "corrupt record "+id[:min(12, len(id))])
			continue
		}
		users = append(users, fmt.Sprintf("%s on %s", ep.Name, r.hostName(ep.Host)))
	}
	switch {
	case len(users) > 0:
		return refuse(InUse, "network %s id %s has active endpoints: %s", n.Name, n.ID, FirstNames(users))
	case len(kept) > 0:
		return refuse(InUse, "network %s id %s keeps imported addresses for %s: release them with `weft import release --all %s`", n.Name, n.ID, FirstNames(kept), n.Name)
	}
	return nil
}

// FirstNames lists what a user can take in: names in their order, the first eight of many.
func FirstNames(names []string) string {
	slices.Sort(names)
	more := ""
	if len(names) > 8 {
		more = fmt.Sprintf(" and %d more", len(names)-8)
		names = names[:8]
	}
	return strings.Join(names, ", ") + more
}

func (r *Registry) hostName(id record.HostID) string {
	if r.cfg.HostName != nil {
		return r.cfg.HostName(id)
	}
	if h, ok := r.cfg.Picture().Host(id); ok {
		return h.Name
	}
	return record.ShortID(id)
}

// deletingWait is how long an attach waits for a network's removal to end before it looks again.
const deletingWait = 50 * time.Millisecond
