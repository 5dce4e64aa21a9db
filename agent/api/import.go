package api

import (
	"context"
	"net/netip"

	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/registry"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// ImportBackend is what the Import service calls.
type ImportBackend interface {
	PlanImport(ctx context.Context, in []registry.Foreign) ([]registry.ImportPlan, error)
	ImportNetwork(ctx context.Context, f registry.Foreign) (registry.ImportPlan, error)
	Kept(ctx context.Context, network string) (views []KeptView, unknown []string, err error)
	ReleaseKept(ctx context.Context, network string, names []string) ([]string, error)
}

// KeptView is what is kept, with its network.
type KeptView struct {
	*record.Kept
	Network *record.Network
}

type importer struct {
	weftv1.UnimplementedImportServer
	b ImportBackend
}

func (i *importer) PlanImport(ctx context.Context, r *weftv1.PlanImportRequest) (*weftv1.PlanImportResponse, error) {
	in := make([]registry.Foreign, len(r.Networks))
	for k, n := range r.Networks {
		var err error
		if in[k], err = foreign(n, r.AllowRouteOverlap); err != nil {
			return nil, err
		}
	}
	plans, err := i.b.PlanImport(ctx, in)
	if err != nil {
		return nil, err
	}
	out := &weftv1.PlanImportResponse{}
	for _, p := range plans {
		out.Plans = append(out.Plans, importPlan(p))
	}
	return out, nil
}

func (i *importer) ImportNetwork(ctx context.Context, r *weftv1.ImportNetworkRequest) (*weftv1.ImportNetworkResponse, error) {
	f, err := foreign(r.Network, r.AllowRouteOverlap)
	if err != nil {
		return nil, err
	}
	p, err := i.b.ImportNetwork(ctx, f)
	if err != nil {
		return nil, err
	}
	return &weftv1.ImportNetworkResponse{Done: importPlan(p)}, nil
}

func (i *importer) ListKept(ctx context.Context, r *weftv1.ListKeptRequest) (*weftv1.ListKeptResponse, error) {
	views, unknown, err := i.b.Kept(ctx, r.Network)
	if err != nil {
		return nil, err
	}
	out := &weftv1.ListKeptResponse{UnknownNetworks: unknown}
	for _, v := range views {
		k := &weftv1.Kept{
			NetworkId: string(v.Network.ID), Network: v.Network.Name, Name: v.Name, MacAddress: string(v.MAC), Host: v.From, Created: timestamppb.New(v.Created),
		}
		for _, a := range v.Addrs {
			k.Addresses = append(k.Addresses, a.String())
		}
		out.Kept = append(out.Kept, k)
	}
	return out, nil
}

func (i *importer) ReleaseKept(ctx context.Context, r *weftv1.ReleaseKeptRequest) (*weftv1.ReleaseKeptResponse, error) {
	names, err := i.b.ReleaseKept(ctx, r.Network, r.Names)
	if err != nil {
		return nil, err
	}
	return &weftv1.ReleaseKeptResponse{Released: names}, nil
}

func foreign(n *weftv1.ForeignNetwork, allowOverlap bool) (registry.Foreign, error) {
	if n == nil {
		return registry.Foreign{}, Refuse(Invalid, "import: no network was given")
	}
	f := registry.Foreign{Spec: registry.NetworkSpec{
		Name: n.Name, Driver: "overlay", Internal: n.Internal, Aux: map[string]string{}, Options: map[string]string{}, Labels: n.Labels, IPAMOpts: n.IpamOptions,
		Given: &registry.Given{ID: record.NetworkID(n.Id), VNI: n.Vni},
	}}
	if n.Created != nil {
		f.Spec.Given.Created = n.Created.AsTime()
	}
	for k, v := range n.Options {
		f.Spec.Options[k] = v
	}
	if allowOverlap {
		f.Spec.Options[registry.OptRouteOverlap] = "true"
	}
	for _, p := range n.Pools {
		f.Spec.Subnets = append(f.Spec.Subnets, p.Subnet)
		if p.Gateway != "" {
			f.Spec.Gateways = append(f.Spec.Gateways, p.Gateway)
		}
		if p.IpRange != "" {
			r := p.IpRange
			if whole, err := netip.ParsePrefix(r); err == nil { // old daemons took host bits
				r = whole.Masked().String()
			}
			f.Spec.IPRanges = append(f.Spec.IPRanges, r)
		}
		for name, a := range p.AuxAddresses {
			if other, twice := f.Spec.Aux[name]; twice {
				return f, Refuse(Invalid, "import network %s: aux-address %s is given twice: as %s and as %s", n.Name, name, other, a)
			}
			f.Spec.Aux[name] = a
		}
	}
	for _, e := range n.Endpoints {
		ep := registry.ForeignEndpoint{ID: record.EndpointID(e.Id), Name: e.Name, MAC: record.MAC(e.MacAddress), Host: e.Host}
		if e.Address != "" {
			var err error
			if ep.Addr, err = netip.ParseAddr(e.Address); err != nil {
				return f, Refuse(Invalid, "import endpoint %s of network %s: invalid address %q", e.Name, n.Name, e.Address)
			}
		}
		f.Endpoints = append(f.Endpoints, ep)
	}
	return f, nil
}

// importActions are the words of the contract for the registry's.
var importActions = map[registry.Action]weftv1.ImportAction{
	registry.Create:  weftv1.ImportAction_IMPORT_ACTION_CREATE,
	registry.Present: weftv1.ImportAction_IMPORT_ACTION_PRESENT,
	registry.Skip:    weftv1.ImportAction_IMPORT_ACTION_SKIP,
}

func importPlan(p registry.ImportPlan) *weftv1.ImportPlan {
	out := &weftv1.ImportPlan{Id: string(p.ID), Name: p.Name, Action: importActions[p.Action], Reason: p.Reason, Notes: p.Notes}
	if p.Network != nil {
		out.Vni = p.Network.VNI
	}
	for _, e := range p.Endpoints {
		ep := &weftv1.ImportEndpointPlan{Id: string(e.ID), Name: e.Name, Action: importActions[e.Action], Reason: e.Reason}
		if e.Addr.IsValid() {
			ep.Address = e.Addr.String()
		}
		out.Endpoints = append(out.Endpoints, ep)
	}
	return out
}
