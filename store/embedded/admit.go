package embedded

import (
	"context"
	"crypto/x509"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// admission asks about the certificate of each call from another host, and again for each message of a stream: a host that is removed hears
// nothing more, also on connections and watches that it had. Calls on loopback come without a certificate, and are this host's agent's.
type admission func(from net.Addr, c *x509.Certificate) error

func (a admission) options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(a.unary), grpc.ChainStreamInterceptor(a.stream)}
}

func (a admission) check(ctx context.Context) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 { // of TLS etcd demands one
		return nil
	}
	return a(p.Addr, info.State.PeerCertificates[0])
}

func (a admission) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := a.check(ctx); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (a admission) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := a.check(ss.Context()); err != nil {
		return err
	}
	return next(srv, admitted{ss, a})
}

type admitted struct {
	grpc.ServerStream
	by admission
}

func (s admitted) SendMsg(m any) error {
	if err := s.by.check(s.Context()); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s admitted) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.by.check(s.Context())
}
