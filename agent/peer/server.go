package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"weft/identity"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// Bounds of what others may ask of this host's server, whoever they are.
const (
	maxRequest      = 4 << 20 // bytes: the largest are those that are passed on, an environment among them
	maxStreams      = 1024    // of one connection
	maxConns        = 4096
	handshakeBound  = 3 * time.Second
	unusedAfter     = 5 * time.Minute // a connection is closed
	leastPingPeriod = 5 * time.Second
	enrolmentBound  = 10 * time.Second
	lastCalls       = time.Second // for calls under way when the agent ends
)

// ServerConfig is what the server needs of the agent.
type ServerConfig struct {
	Log       *slog.Logger
	Identity  Identity
	Backend   Backend
	Enrolment weftv1.EnrolmentServer // nil: hosts join elsewhere
	// Member returns the host of the cluster that a certificate names, whose key has the given print (identity.Print). Its error says why that is none;
	// ErrUnsettled: nobody knows yet.
	Member func(ctx context.Context, n identity.Named, print string) (record.HostID, error)
	// Refused hears of everyone who was not let in: host is "" where it is not known.
	Refused func(host record.HostID, from net.Addr, why error)
	// Forwarded are more services, for hosts of the cluster only, with the interceptors that all calls but Enrolment pass.
	Forwarded func(grpc.ServiceRegistrar)
	Unary     []grpc.UnaryServerInterceptor
	Stream    []grpc.StreamServerInterceptor
}

// Serve answers other agents on l until ctx ends; calls under way then get a second. It returns when all of them have ended.
func Serve(ctx context.Context, l net.Listener, cfg ServerConfig) error {
	g := &guard{ServerConfig: cfg}
	s := grpc.NewServer(
		grpc.Creds(watched{credentials.NewTLS(g.listening()), g.turnedAway}),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeBound),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: unusedAfter, Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: leastPingPeriod}),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(append([]grpc.UnaryServerInterceptor{g.unary}, cfg.Unary...)...),
		grpc.ChainStreamInterceptor(append([]grpc.StreamServerInterceptor{g.stream}, cfg.Stream...)...),
	)
	weftv1.RegisterPeersServer(s, &answers{b: cfg.Backend})
	if cfg.Enrolment != nil {
		weftv1.RegisterEnrolmentServer(s, cfg.Enrolment)
	}
	if cfg.Forwarded != nil {
		cfg.Forwarded(s)
	}
	serving, cancel := context.WithCancel(ctx)
	var stopping sync.WaitGroup
	stopping.Go(func() {
		<-serving.Done()
		t := time.AfterFunc(lastCalls, s.Stop)
		defer t.Stop()
		s.GracefulStop()
	})
	err := s.Serve(netutil.LimitListener(l, maxConns))
	failed := ctx.Err() == nil
	cancel()
	stopping.Wait()
	if failed {
		return fmt.Errorf("serve other agents: %w", err)
	}
	return nil
}

// errOldTLS is why who speaks no TLS 1.3 is not let in. That end hears of it by an alert.
var errOldTLS = errors.New("it speaks an older TLS than 1.3")

// listening takes the identity as it is when somebody connects.
func (g *guard) listening() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if !slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
				g.Refused("", hello.Conn.RemoteAddr(), errOldTLS)
			}
			conf := g.Identity.ServerTLS()
			conf.NextProtos = []string{"h2"}
			return conf, nil
		},
	}
}

// watched tells of handshakes that came to nothing.
type watched struct {
	credentials.TransportCredentials
	failed func(from net.Addr, err error)
}

func (w watched) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := w.TransportCredentials.ServerHandshake(c)
	if err != nil {
		w.failed(c.RemoteAddr(), err)
	}
	return out, info, err
}

func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.failed}
}

// guard lets hosts of the cluster in.
type guard struct{ ServerConfig }

// turnedAway tells of a certificate that is not good enough, on either side. Who only connects and goes away is of no interest.
func (g *guard) turnedAway(from net.Addr, err error) {
	var remote *net.OpError
	switch {
	case refusedBy(err):
		g.Refused("", from, err)
	case errors.As(err, &remote) && remote.Op == "remote error":
		g.Refused("", from, fmt.Errorf("it does not take this host for one of its cluster: %w", remote.Err))
	default:
		g.Log.Debug("a connection of another host came to nothing", "from", from.String(), "error", err)
	}
}

type callerKey struct{}

// From is the host that a call came from, by its certificate.
func From(ctx context.Context) record.HostID {
	id, _ := ctx.Value(callerKey{}).(record.HostID)
	return id
}

// admit returns the context of a call with the host that it comes from.
func (g *guard) admit(ctx context.Context, method string) (context.Context, error) {
	if strings.HasPrefix(method, "/"+weftv1.Enrolment_ServiceDesc.ServiceName+"/") {
		return ctx, nil
	}
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "this call came by no connection")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "this call came by no connection that says who called")
	}
	named, err := identity.PeerOf(info.State) // its certificate was verified when it connected
	if err != nil {
		g.Refused("", p.Addr, err)
		return nil, status.Errorf(codes.Unauthenticated, "this agent answers hosts of its cluster only: %v", err)
	}
	id, err := g.Member(ctx, named, identity.PrintOf(info.State))
	switch {
	case errors.Is(err, ErrUnsettled):
		return nil, status.Error(codes.Unavailable, err.Error())
	case err != nil:
		g.Refused(record.HostID(named.ID), p.Addr, err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	return context.WithValue(ctx, callerKey{}, id), nil
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if bound := boundOf(info.FullMethod); bound > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, bound)
		defer cancel()
	}
	return next(ctx, req)
}

// boundOf is the time that a call may take at this end, whatever the caller says; 0: the caller's.
func boundOf(method string) time.Duration {
	switch service := strings.Split(method, "/")[1]; service {
	case weftv1.Enrolment_ServiceDesc.ServiceName:
		return enrolmentBound
	case weftv1.Peers_ServiceDesc.ServiceName:
		return callBound
	}
	return 0
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := g.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, admitted{ss, ctx})
}

type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (a admitted) Context() context.Context { return a.ctx }
