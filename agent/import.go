package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/ipam"
	"weft/store"
	"weft/store/record"
)

// PlanImport says what importing networks would do. It needs the store: a plan on an old picture would promise what cannot be.
func (a *Agent) PlanImport(ctx context.Context, in []registry.Foreign) ([]registry.ImportPlan, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := a.member.claim(ctx); err != nil {
		return nil, err
	}
	a.awaitPicture(ctx)
	p := a.follower.Picture()
	nets := map[record.NetworkID]*record.Net{}
	for _, f := range in {
		if f.Spec.Given == nil {
			return nil, api.Refuse(api.Invalid, "import network %s: it has no ID", f.Spec.Name)
		}
		id := f.Spec.Given.ID
		if _, there := p.Network(id); !there {
			continue
		}
		net, known := a.readNet(ctx, id)
		if !known {
			return nil, a.member.explain(fmt.Errorf("read the endpoints of network %s: %w", f.Spec.Name, store.ErrUnreachable))
		}
		nets[id] = net
	}
	return a.registry.PlanImport(p, func(id record.NetworkID) *record.Net { return nets[id] }, in), nil
}

// ImportNetwork imports one network, and waits until this host has it in its picture.
func (a *Agent) ImportNetwork(ctx context.Context, f registry.Foreign) (registry.ImportPlan, error) {
	as, err := a.member.claim(ctx)
	if err != nil {
		return registry.ImportPlan{}, err
	}
	plan, err := a.registry.ImportNetwork(ctx, as, f)
	if err != nil {
		return plan, kindOf(a.member.explain(err))
	}
	seen, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := a.follower.WaitRev(seen, store.Meta, plan.Rev); err != nil {
		a.log.Debug("imported network not seen yet", "network", plan.Name, "error", err)
	}
	if slices.Contains(a.follower.Following(), plan.ID) {
		if err := a.follower.WaitRev(seen, record.NetPartition(plan.ID), plan.KeptRev); err != nil {
			a.log.Debug("kept addresses not seen yet", "network", plan.Name, "error", err)
		}
	}
	return plan, nil
}

// Kept returns what is kept in one network, or in all; networks that cannot be read now are named in unknown.
func (a *Agent) Kept(ctx context.Context, ref string) (views []api.KeptView, unknown []string, err error) {
	a.awaitPicture(ctx)
	nets := slices.Collect(a.follower.Picture().Networks())
	if ref != "" {
		n, err := a.network(ctx, ref)
		if err != nil {
			return nil, nil, err
		}
		nets = []*record.Network{n}
	}
	for _, n := range nets {
		net, known := a.readNet(ctx, n.ID)
		if !known {
			unknown = append(unknown, n.Name)
			continue
		}
		for k := range net.AllKept() {
			views = append(views, api.KeptView{Kept: k, Network: n})
		}
	}
	slices.SortFunc(views, func(x, y api.KeptView) int {
		return cmp.Or(cmp.Compare(x.Network.Name, y.Network.Name), cmp.Compare(x.Name, y.Name))
	})
	return views, unknown, nil
}

// ReleaseKept gives back what a network keeps for names, or for all where there are none.
func (a *Agent) ReleaseKept(ctx context.Context, ref string, names []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := a.network(ctx, ref)
	if err != nil {
		return nil, err
	}
	as, err := a.member.claim(ctx)
	if err != nil {
		return nil, err
	}
	released, err := a.registry.ReleaseKept(ctx, as, n.ID, names)
	return released, kindOf(a.member.explain(err))
}

// takeKept gives an attachment that never had an address the one that is kept for the sandbox's name, and the hardware address that was that
// sandbox's where it does not follow from the address. It tells whether it did: nothing may be kept, or the user wants another address.
func takeKept(net *record.Net, name string, want *record.Attachment) bool {
	k, _ := net.Kept(name)
	if k == nil || len(want.Addrs) > 0 || want.IP.IsValid() && !k.Has(want.IP) || !net.KeptFor(name, k.Addrs[0]) {
		return false
	}
	want.Addrs = k.Addrs[:1]
	if want.MAC == "" && k.MAC != "" && k.MAC != record.MAC(ipam.MAC(k.Addrs[0])) {
		want.MAC = k.MAC
	}
	return true
}

// former is what a name had by an import. Its kept address goes with the first join, also of a sandbox that then fails to start, or that is
// removed to be made again with better options: the next of that name on this host gets it back as long as nobody else has it.
type former struct {
	addr netip.Addr
	mac  record.MAC
}

type nameKey struct {
	network record.NetworkID
	name    string // folded
}

func (d *addresses) remember(n record.NetworkID, name string, a netip.Addr, mac record.MAC) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.former[nameKey{n, record.Fold(name)}] = former{a, mac}
}

// recall returns what an attachment is to have if it can: what it had itself, preferred, or else what its name had. The MAC address that goes
// with that is the wanted one, where there is one.
func (d *addresses) recall(n record.NetworkID, name string, want record.Attachment, preferred netip.Addr) former {
	d.mu.Lock()
	defer d.mu.Unlock()
	was, had := d.former[nameKey{n, record.Fold(name)}]
	if preferred.IsValid() || !had {
		return former{preferred, want.MAC}
	}
	if want.MAC != "" {
		was.mac = want.MAC
	}
	return was
}
