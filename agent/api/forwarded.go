package api

import (
	"context"
	"log/slog"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	weftv1 "weft/proto/weft/v1"
)

// Forwarded is what other hosts' agents pass on to this one: calls about its sandboxes, and about itself. Nothing else of the admin contract
// is for others.
type Forwarded struct {
	boxes  *sandboxes
	b      Backend
	log    *slog.Logger
	refuse string // this host's name, where it takes no commands from others; ""
}

// NewForwarded serves b to other hosts; refuse is "" or the name of this host, which takes no commands from others.
func NewForwarded(b Backend, log *slog.Logger, refuse string) *Forwarded {
	return &Forwarded{boxes: &sandboxes{b: b}, b: b, log: log, refuse: refuse}
}

// Register adds the services to a server that lets hosts of the cluster in, and nobody else.
func (f *Forwarded) Register(s grpc.ServiceRegistrar) {
	weftv1.RegisterNetworksServer(s, &networks{b: f.b})
	weftv1.RegisterSandboxesServer(s, f.boxes)
	weftv1.RegisterClusterServer(s, &cluster{b: f.b})
}

// Wait returns when nothing of a call is under way any more. The server has ended.
func (f *Forwarded) Wait() { f.boxes.inputs.Wait() }

// Unary and Stream hold what is for others, and give refusals their codes: also those of the server's other services.

func (f *Forwarded) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	err := f.admit(info.FullMethod, func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) })
	if err != nil {
		return nil, err
	}
	return unaryErrors(f.log)(ctx, req, info, next)
}

func (f *Forwarded) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := f.admit(info.FullMethod, ss.SetTrailer); err != nil {
		return err
	}
	return streamErrors(f.log)(srv, ss, info, next)
}

// admit marks the answer as this agent's own.
func (f *Forwarded) admit(method string, trailer func(metadata.MD)) error {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch service {
	case weftv1.Networks_ServiceDesc.ServiceName, weftv1.Sandboxes_ServiceDesc.ServiceName, weftv1.Cluster_ServiceDesc.ServiceName:
	default:
		return nil
	}
	trailer(metadata.Pairs(answeredHere, "1"))
	_, refers := referring[method]
	switch {
	case !refers && method != weftv1.Cluster_InspectHost_FullMethodName:
		return status.Error(codes.PermissionDenied, "this is for the host's own users only")
	case f.refuse != "" && refers:
		return status.Errorf(codes.PermissionDenied, "host %s takes no commands from other hosts (weftd --refuse-forwarded): run it there", f.refuse)
	}
	return nil
}
