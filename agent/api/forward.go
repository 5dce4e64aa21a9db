package api

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weft/store/record"
)

// Router tells where the sandbox of a call is.
type Router interface {
	// Route finds the host that has the sandbox that ref means, which may say on which: HOST/NAME. A reference that nobody knows is an error of kind NotFound.
	Route(ctx context.Context, ref string) (Way, error)
}

// Way is where a call goes.
type Way struct {
	Ref  string                   // what the sandbox is called there
	Conn grpc.ClientConnInterface // nil: it is this host's
	Host string                   // the other host's name
	Self record.HostID            // this one
}

// Metadata of calls that are passed on: who has passed it on; and, in the answer, that it is the other agent's own and not the way's.
const (
	forwardedBy  = "weft-forwarded"
	answeredHere = "weft-answered"
)

// forwarder passes calls about other hosts' sandboxes on to those hosts, as the bytes that they are. A call that was passed on is not passed on again.
type forwarder struct {
	r      Router
	inputs sync.WaitGroup // readers of callers' input, for Serve to wait for
}

func wasForwarded(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, forwardedBy)) > 0
}

// route returns where a call goes, with its reference as it is to be there.
func (f *forwarder) route(ctx context.Context, r reference, m proto.Message) (Way, error) {
	ref := r.get(m)
	if ref == "" {
		return Way{}, nil
	}
	w, err := f.r.Route(ctx, ref)
	var refusal *Refusal
	if r.unfound && errors.As(err, &refusal) && refusal.Kind == NotFound {
		return Way{}, nil
	}
	if err == nil && w.Ref != ref {
		r.set(m, w.Ref)
	}
	return w, err
}

func (f *forwarder) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	r, refers := referring[info.FullMethod]
	if !refers || wasForwarded(ctx) {
		return next(ctx, req)
	}
	w, err := f.route(ctx, r, req.(proto.Message))
	if err != nil {
		return nil, err
	}
	if w.Conn == nil {
		return next(ctx, req)
	}
	var out frame
	var trailer metadata.MD
	err = w.Conn.Invoke(w.outgoing(ctx), info.FullMethod, req, &out, grpc.ForceCodecV2(newPassing()), grpc.Trailer(&trailer))
	if err != nil {
		return nil, w.explain(err, trailer)
	}
	return &out, nil
}

func (f *forwarder) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	r, refers := referring[info.FullMethod]
	if !refers || wasForwarded(ss.Context()) {
		return next(srv, ss)
	}
	first := r.first()
	if err := ss.RecvMsg(first); err != nil {
		return next(srv, &begun{ServerStream: ss, err: err})
	}
	w, err := f.route(ss.Context(), r, first)
	if err != nil {
		return err
	}
	if w.Conn == nil {
		return next(srv, &begun{ServerStream: ss, first: first})
	}
	return f.relay(ss, w, info, first)
}

// begun is a stream whose first message has been read.
type begun struct {
	grpc.ServerStream
	first proto.Message
	err   error // of the first read
}

func (b *begun) RecvMsg(m any) error {
	first, err := b.first, b.err
	b.first, b.err = nil, nil
	switch {
	case err != nil:
		return err
	case first != nil:
		proto.Merge(m.(proto.Message), first)
		return nil
	}
	return b.ServerStream.RecvMsg(m)
}

// relay passes both directions of a stream until either end is done. gRPC ends the caller's RecvMsg when relay has returned, so Serve waits for
// the input, and not relay.
func (f *forwarder) relay(ss grpc.ServerStream, w Way, info *grpc.StreamServerInfo, first proto.Message) error {
	ctx, cancel := context.WithCancel(w.outgoing(ss.Context()))
	defer cancel()
	desc := &grpc.StreamDesc{ServerStreams: info.IsServerStream, ClientStreams: info.IsClientStream}
	cs, err := w.Conn.NewStream(ctx, desc, info.FullMethod, grpc.ForceCodecV2(newPassing()))
	if err != nil {
		return w.explain(err, nil)
	}
	if err := cs.SendMsg(first); err != nil && !errors.Is(err, io.EOF) { // what ended it is what RecvMsg says
		return w.explain(err, nil)
	}
	if info.IsClientStream {
		f.inputs.Go(func() { passInput(ss, cs, cancel) })
	} else if err := cs.CloseSend(); err != nil {
		return w.explain(err, nil)
	}
	if _, err := cs.Header(); err == nil && !info.IsClientStream {
		if err := ss.SendHeader(nil); err != nil {
			return err
		}
	}
	for {
		var m frame
		err := cs.RecvMsg(&m)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && ss.Context().Err() != nil:
			return ss.Context().Err()
		case err != nil:
			return w.explain(err, cs.Trailer())
		}
		if err := ss.SendMsg(&m); err != nil {
			return err
		}
	}
}

// passInput ends when the caller's side ends, or when the other host takes no more.
func passInput(ss grpc.ServerStream, cs grpc.ClientStream, cancel context.CancelFunc) {
	for {
		var m frame
		err := ss.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			if cs.CloseSend() == nil {
				return
			}
		}
		if err != nil {
			cancel()
			return
		}
		if cs.SendMsg(&m) != nil {
			return // what ended it is what the other direction says
		}
	}
}

// outgoing marks a call as one that was passed on.
func (w Way) outgoing(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, forwardedBy, string(w.Self))
}

// explain names the host in what went wrong there, or on the way there.
func (w Way) explain(err error, trailer metadata.MD) error {
	st := status.Convert(err)
	own := len(trailer.Get(answeredHere)) > 0
	switch {
	case !own && st.Code() == codes.Unavailable:
		return status.Errorf(codes.Unavailable, "lost the agent of host %s before it had answered; whether it has done what was asked is not known (%s)", w.Host, st.Message())
	case !own && st.Code() == codes.Unimplemented:
		return status.Errorf(codes.FailedPrecondition, "the agent of host %s is of another version and does not know this command; compare versions: weft host ls", w.Host)
	}
	p := st.Proto()
	p.Message += " (on host " + w.Host + ")"
	return status.ErrorProto(p)
}
