package api

import (
	"context"
	"net/netip"
	"runtime"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
	"weft/store"
)

// Version of the contract. A change that an older client would misread raises it.
const Version = "1.0"

type cluster struct {
	weftv1.UnimplementedClusterServer
	b ClusterBackend
}

func (c *cluster) ListEndpoints(ctx context.Context, r *weftv1.ListEndpointsRequest) (*weftv1.ListEndpointsResponse, error) {
	match, err := endpointFilter(r.Filters)
	if err != nil {
		return nil, err
	}
	views, unknown, err := c.b.Endpoints(ctx, r.Stale)
	if err != nil {
		return nil, err
	}
	out := &weftv1.ListEndpointsResponse{UnknownNetworks: unknown}
	for _, v := range views {
		if match(v) {
			out.Endpoints = append(out.Endpoints, endpointProto(v))
		}
	}
	return out, nil
}

func (c *cluster) Version(ctx context.Context, _ *weftv1.VersionRequest) (*weftv1.VersionResponse, error) {
	a := c.b.About(ctx)
	out := &weftv1.VersionResponse{
		Version: a.Version, ApiVersion: Version, GoVersion: runtime.Version(), OsArch: runtime.GOOS + "/" + runtime.GOARCH,
		HostId: string(a.HostID), ClusterId: a.ClusterID, Store: a.Store, StoreReachable: a.StoreErr == nil,
		Goroutines: uint32(runtime.NumGoroutine()),
	}
	if a.StoreErr != nil {
		out.StoreError = a.StoreErr.Error()
	}
	return out, nil
}

func (c *cluster) WaitApplied(ctx context.Context, r *weftv1.WaitAppliedRequest) (*weftv1.WaitAppliedResponse, error) {
	if err := c.b.WaitApplied(ctx, r.Partition, store.Rev(r.Revision)); err != nil {
		return nil, err
	}
	return &weftv1.WaitAppliedResponse{}, nil
}

// tokenTTL is how long a token is good where its maker does not say.
const tokenTTL = 24 * time.Hour

func (c *cluster) CreateToken(ctx context.Context, r *weftv1.CreateTokenRequest) (*weftv1.CreateTokenResponse, error) {
	ttl := tokenTTL
	if r.Ttl != nil {
		ttl = r.Ttl.AsDuration()
	}
	t, err := c.b.CreateToken(ctx, ttl)
	if err != nil {
		return nil, err
	}
	return &weftv1.CreateTokenResponse{Token: t.Token, Expires: timestamppb.New(t.Expires), Join: t.Join}, nil
}

func endpointProto(v EndpointView) *weftv1.Endpoint {
	out := &weftv1.Endpoint{
		Id: string(v.ID), NetworkId: string(v.Endpoint.Network), HostId: string(v.Host), Host: v.HostName,
		SandboxId: string(v.Sandbox), Name: v.Name, Hostname: v.Hostname, Aliases: v.Aliases, VipAliases: v.VIPAliases, MacAddress: string(v.MAC),
		Running: v.Running, State: v.State, Static: v.Static, Stale: v.Stale,
	}
	if v.Network != nil {
		out.NetworkName = v.Network.Name
	}
	for _, a := range v.Addrs {
		p := v.Pool(a)
		out.Addresses = append(out.Addresses, netip.PrefixFrom(a, v.Bits(a)).String())
		switch gateway := p.Gateway; {
		case !gateway.IsValid():
		case a.Is4() && out.Gateway == "":
			out.Gateway = gateway.String()
		case a.Is6() && out.Gateway6 == "":
			out.Gateway6 = gateway.String()
		}
	}
	for _, l := range v.Links {
		out.Links = append(out.Links, &weftv1.Link{Target: l.Target, Alias: l.Alias})
	}
	return out
}
