package peer

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

const (
	maxJudged = 1000
	maxFound  = 10
)

// answers converts between the contract and the Backend, and does nothing else.
type answers struct {
	weftv1.UnimplementedPeersServer
	b Backend
}

func (a *answers) Hello(ctx context.Context, _ *weftv1.HelloRequest) (*weftv1.HelloResponse, error) {
	return helloReply(a.b.Greet(From(ctx))), nil
}

func (a *answers) Judge(ctx context.Context, q *weftv1.JudgeRequest) (*weftv1.JudgeResponse, error) {
	if len(q.HostIds) > maxJudged {
		return nil, status.Errorf(codes.InvalidArgument, "%d hosts are more than %d", len(q.HostIds), maxJudged)
	}
	about := make([]record.HostID, 0, len(q.HostIds))
	for _, id := range q.HostIds {
		about = append(about, record.HostID(id))
	}
	opinions, err := a.b.Judge(ctx, From(ctx), about)
	if err != nil {
		return nil, err
	}
	r := &weftv1.JudgeResponse{}
	for _, id := range about {
		o, ok := opinions[id]
		r.Opinions = append(r.Opinions, &weftv1.Opinion{HostId: string(id), Agent: o.Agent, Tunnel: o.Tunnel, Unknown: o.Unknown || !ok, Age: durationpb.New(o.Age)})
	}
	return r, nil
}

func (a *answers) Owns(ctx context.Context, q *weftv1.OwnsRequest) (*weftv1.OwnsResponse, error) {
	if len(q.EndpointIds) > maxAsked {
		return nil, status.Errorf(codes.InvalidArgument, "%d endpoints are more than %d", len(q.EndpointIds), maxAsked)
	}
	of := make([]record.EndpointID, 0, len(q.EndpointIds))
	for _, id := range q.EndpointIds {
		of = append(of, record.EndpointID(id))
	}
	has, unsure := a.b.Owns(From(ctx), of)
	r := &weftv1.OwnsResponse{Unsure: unsure}
	for _, id := range of {
		if has[id] {
			r.EndpointIds = append(r.EndpointIds, string(id))
		}
	}
	return r, nil
}

func (a *answers) Drop(ctx context.Context, q *weftv1.DropRequest) (*weftv1.DropResponse, error) {
	dropped, err := a.b.Drop(ctx, From(ctx), record.NetworkID(q.NetworkId), record.EndpointID(q.EndpointId), q.Live, q.Reason)
	if err != nil {
		return nil, err
	}
	return &weftv1.DropResponse{Dropped: dropped}, nil
}

func (a *answers) FindSandbox(ctx context.Context, q *weftv1.FindSandboxRequest) (*weftv1.FindSandboxResponse, error) {
	found := a.b.FindSandbox(From(ctx), q.Ref)
	r := &weftv1.FindSandboxResponse{}
	for _, f := range found[:min(len(found), maxFound)] {
		r.Found = append(r.Found, &weftv1.FoundSandbox{Id: string(f.ID), Name: f.Name, Exact: f.Exact})
	}
	return r, nil
}

func (a *answers) Renew(ctx context.Context, q *weftv1.RenewRequest) (*weftv1.RenewResponse, error) {
	certificate, authority, err := a.b.Renew(ctx, From(ctx), q.Csr)
	if err != nil {
		return nil, err
	}
	return &weftv1.RenewResponse{Certificate: certificate, Authority: authority}, nil
}
