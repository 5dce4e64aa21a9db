package api

import (
	"cmp"
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/registry"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

type networks struct {
	weftv1.UnimplementedNetworksServer
	b NetworkBackend
}

func (n *networks) CreateNetwork(ctx context.Context, r *weftv1.CreateNetworkRequest) (*weftv1.CreateNetworkResponse, error) {
	id, warnings, err := n.b.CreateNetwork(ctx, NetworkRequest{
		Spec: registry.NetworkSpec{
			Name: r.Name, Driver: r.Driver, Internal: r.Internal, IPv6: r.Ipv6,
			Subnets: r.Subnets, Gateways: r.Gateways, IPRanges: r.IpRanges, Aux: r.AuxAddresses,
			Options: r.Options, Labels: r.Labels, IPAMOpts: r.IpamOptions,
		},
		Ingress: r.Ingress, ConfigOnly: r.ConfigOnly, ConfigFrom: r.ConfigFrom,
		IPAMDriver: r.IpamDriver, Scope: r.Scope, Attachable: r.Attachable,
	})
	if err != nil {
		return nil, err
	}
	return &weftv1.CreateNetworkResponse{Id: string(id), Warnings: warnings}, nil
}

func (n *networks) ListNetworks(ctx context.Context, r *weftv1.ListNetworksRequest) (*weftv1.ListNetworksResponse, error) {
	match, err := networkFilter(r.Filters)
	if err != nil {
		return nil, err
	}
	views, err := n.b.Networks(ctx, asks(r.Filters, "dangling"))
	if err != nil {
		return nil, err
	}
	out := &weftv1.ListNetworksResponse{}
	for _, v := range views {
		if match(v) {
			out.Networks = append(out.Networks, networkProto(v))
		}
	}
	return out, nil
}

func (n *networks) InspectNetwork(ctx context.Context, r *weftv1.InspectNetworkRequest) (*weftv1.InspectNetworkResponse, error) {
	v, err := n.b.Network(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	out := &weftv1.InspectNetworkResponse{Network: networkProto(v), EndpointsUnknown: !v.Known}
	for _, e := range v.Endpoints {
		out.Endpoints = append(out.Endpoints, endpointProto(e))
	}
	for _, h := range v.Peers {
		out.Peers = append(out.Peers, hostProto(h))
	}
	for _, p := range v.VIPs {
		out.VirtualAddresses = append(out.VirtualAddresses, vipProto(p))
	}
	return out, nil
}

func (n *networks) RemoveNetwork(ctx context.Context, r *weftv1.RemoveNetworkRequest) (*weftv1.RemoveNetworkResponse, error) {
	v, err := n.b.RemoveNetwork(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	return &weftv1.RemoveNetworkResponse{Id: string(v.ID), Name: v.Name}, nil
}

func (n *networks) Connect(ctx context.Context, r *weftv1.ConnectRequest) (*weftv1.ConnectResponse, error) {
	id, err := n.b.Connect(ctx, r.Target, attachmentRequest(r.Attachment))
	if err != nil {
		return nil, err
	}
	return &weftv1.ConnectResponse{EndpointId: string(id)}, nil
}

func (n *networks) Disconnect(ctx context.Context, r *weftv1.DisconnectRequest) (*weftv1.DisconnectResponse, error) {
	if err := n.b.Disconnect(ctx, r.Network, r.Target, Disconnection{Force: r.Force, Live: r.Live}); err != nil {
		return nil, err
	}
	return &weftv1.DisconnectResponse{}, nil
}

func networkProto(v NetworkView) *weftv1.Network {
	out := &weftv1.Network{
		Id: string(v.ID), Name: v.Name, Driver: v.Driver, Scope: v.Scope, Created: timestamppb.New(v.Created),
		Internal: v.Internal, Attachable: v.Attachable || v.Scope == "global", ConfigOnly: v.ConfigOnly, ConfigFrom: v.ConfigFrom, Options: v.Options, Labels: v.Labels, IpamOptions: v.IPAMOpts,
		Vni: v.VNI, Mtu: int32(v.MTU), State: string(v.State), Builtin: v.Builtin,
		EndpointCount: int32(len(v.Endpoints)), IpamDriver: cmp.Or(v.IPAMDriver, "default"),
	}
	if !v.Known {
		out.EndpointCount = -1
	}
	for _, p := range v.Pools {
		out.Pools = append(out.Pools, poolProto(p))
		if p.Subnet.Addr().Is4() {
			out.EnableIpv4 = true
		} else {
			out.EnableIpv6 = true
		}
	}
	return out
}

func poolProto(p record.Pool) *weftv1.Pool {
	out := &weftv1.Pool{Subnet: p.Subnet.String(), AuxAddresses: map[string]string{}}
	if p.Gateway.IsValid() {
		out.Gateway = p.Gateway.String()
	}
	if p.IPRange.IsValid() {
		out.IpRange = p.IPRange.String()
	}
	for name, a := range p.Aux {
		out.AuxAddresses[name] = a.String()
	}
	return out
}

func attachmentRequest(a *weftv1.Attachment) AttachmentRequest {
	out := AttachmentRequest{
		Network: a.GetNetwork(), IP: a.GetIp(), IP6: a.GetIp6(), MAC: a.GetMacAddress(), Aliases: a.GetAliases(), VIPAliases: a.GetVipAliases(),
		DriverOpts: a.GetDriverOptions(), GwPriority: int(a.GetGwPriority()),
	}
	for _, l := range a.GetLinks() {
		out.Links = append(out.Links, record.Link{Target: l.Target, Alias: l.Alias})
	}
	return out
}

func vipProto(v VIPView) *weftv1.VirtualAddress {
	out := &weftv1.VirtualAddress{Alias: v.Alias, Members: v.Members}
	for _, a := range v.Addrs {
		out.Addresses = append(out.Addresses, a.String())
	}
	return out
}
