package api

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

func (c *cluster) ListHosts(ctx context.Context, _ *weftv1.ListHostsRequest) (*weftv1.ListHostsResponse, error) {
	views, err := c.b.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	out := &weftv1.ListHostsResponse{}
	for _, v := range views {
		out.Hosts = append(out.Hosts, hostProto(v))
	}
	return out, nil
}

func (c *cluster) InspectHost(ctx context.Context, r *weftv1.InspectHostRequest) (*weftv1.InspectHostResponse, error) {
	v, err := c.b.Host(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	out := &weftv1.InspectHostResponse{Host: hostProto(v.HostView), UnknownNetworks: v.Unknown, Certificate: v.Certificate}
	for _, p := range v.Paths {
		out.Paths = append(out.Paths, pathProto(p))
	}
	for _, e := range v.Endpoints {
		out.Endpoints = append(out.Endpoints, endpointProto(e))
	}
	for _, route := range v.Routes {
		out.Routes = append(out.Routes, route.Prefix.String()+" via "+route.Link)
	}
	return out, nil
}

func (c *cluster) RemoveHost(ctx context.Context, r *weftv1.RemoveHostRequest) (*weftv1.RemoveHostResponse, error) {
	h, err := c.b.RemoveHost(ctx, r.Ref, r.Live)
	if err != nil {
		return nil, err
	}
	return &weftv1.RemoveHostResponse{Id: string(h.ID), Name: h.Name, Endpoints: uint32(h.Endpoints)}, nil
}

func hostProto(v HostView) *weftv1.Host {
	out := &weftv1.Host{
		Id: string(v.ID), Name: v.Name, Advertise: v.Advertise, Incarnation: v.Incarnation,
		Version: v.Version, State: v.State, Self: v.Self, Started: timestamppb.New(v.Started), Mtu: int32(v.MTU), Notes: v.Notes,
	}
	if v.VTEP.IsValid() {
		out.Vtep = v.VTEP.String()
	}
	return out
}

func pathProto(v PathView) *weftv1.Path {
	out := &weftv1.Path{HostId: string(v.Host), Host: v.Name, State: v.State, Mtu: int32(v.MTU), Why: v.Why, Age: durationpb.New(v.Age)}
	if v.RTT > 0 {
		out.Rtt = durationpb.New(v.RTT)
	}
	return out
}
