package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Times of logging in. The server hashes the password each time, which costs it a tenth of a second of one core.
const (
	loginEvery     = 500 * time.Millisecond // at most once in this time, whatever becomes of the tokens
	loginWait      = 2 * time.Second        // for the answer: who waits at a frozen member keeps all others from logging in elsewhere
	firstLoginWait = time.Second            // after a refused password, before the same one is tried again
	lastLoginWait  = 30 * time.Second
)

// login carries a user's token into each call, and gets another where the server takes it no more: it has restarted (tokens are in its
// memory), the token is too old, or the user's password or roles were changed. The client's own user and password cannot do that with a
// password that changes, logs in for every stream, and leaves watches on a stream whose token is dead.
type login struct {
	user     string
	password func() (string, error)

	asking  chan struct{} // cap 1: who holds it logs in, and guards what follows
	next    time.Time     // no login before
	refused string        // the password that was refused last
	why     error         // in these words
	wait    time.Duration // before it is tried again
	again   time.Time     // when that is

	mu    sync.Mutex // guards what follows
	token string     // "": the server wants none
	in    bool       // token is good as far as is known
}

func newLogin(user string, password func() (string, error)) *login {
	return &login{user: user, password: password, asking: make(chan struct{}, 1)}
}

// options put the login into each call of a client.
func (l *login) options() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(l.unary), grpc.WithChainStreamInterceptor(l.stream)}
}

// unary is a call. One that was refused for its token was not carried out, and is made once more with a new one.
func (l *login) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if method == pb.Auth_Authenticate_FullMethodName {
		return call(ctx, method, req, reply, cc, opts...)
	}
	var err error
	for range 2 {
		var token string
		if token, err = l.get(ctx, cc); err != nil {
			return err
		}
		if err = call(with(ctx, token), method, req, reply, cc, opts...); !stale(err) {
			return err
		}
		l.drop(token)
	}
	return err
}

func (l *login) stream(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	token, err := l.get(ctx, cc)
	if err != nil {
		return nil, err
	}
	s, err := open(with(ctx, token), d, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &tokenStream{ClientStream: s, login: l, token: token}, nil
}

// tokenStream looks for the end of its token. A new watch on an old stream is refused in a message, and would be again and again: the stream
// ends instead, and the client opens another, on which it resumes all watches.
type tokenStream struct {
	grpc.ClientStream
	login *login
	token string
}

func (s *tokenStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if r, ok := m.(*pb.WatchResponse); ok && err == nil && r.Canceled && r.CancelReason != "" {
		if staleReason(r.CancelReason) {
			s.login.drop(s.token)
			return status.Error(codes.Unavailable, r.CancelReason)
		}
	}
	if stale(err) {
		s.login.drop(s.token)
	}
	return err
}

func with(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// staleErrors are the refusals that another login may get over.
var staleErrors = []error{rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCUserEmpty}

func stale(err error) bool {
	return err != nil && slices.ContainsFunc(staleErrors, func(e error) bool { return errors.Is(rpctypes.Error(err), rpctypes.Error(e)) })
}

// staleReason is stale for what a watch was cancelled for: the same words, without a code.
func staleReason(reason string) bool {
	return slices.ContainsFunc(staleErrors, func(e error) bool { return strings.Contains(reason, rpctypes.ErrorDesc(e)) })
}

func (l *login) drop(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == token {
		l.in = false
	}
}

func (l *login) current() (token string, in bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token, l.in
}

// noLogin begins the errors of calls that were not made for want of a token.
const noLogin = "not logged in: "

// get returns the token, after a login if need be; one login serves all that wait for it.
func (l *login) get(ctx context.Context, cc *grpc.ClientConn) (string, error) {
	if token, in := l.current(); in {
		return token, nil
	}
	select {
	case l.asking <- struct{}{}:
	case <-ctx.Done():
		return "", status.Error(status.FromContextError(ctx.Err()).Code(), noLogin+ctx.Err().Error())
	}
	defer func() { <-l.asking }()
	if token, in := l.current(); in {
		return token, nil
	}
	select {
	case <-time.After(time.Until(l.next)):
	case <-ctx.Done():
		return "", status.Error(status.FromContextError(ctx.Err()).Code(), noLogin+ctx.Err().Error())
	}
	token, err := l.ask(ctx, cc)
	if err != nil {
		return "", status.Error(status.Code(err), noLogin+status.Convert(err).Message())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.in = token, true
	return token, nil
}

// ask logs in. A password that was refused is not tried again at once; another one is.
func (l *login) ask(ctx context.Context, cc *grpc.ClientConn) (string, error) {
	password, err := l.password()
	if err != nil {
		return "", status.Error(codes.Unauthenticated, fmt.Sprintf("no password for user %s: %v", l.user, err))
	}
	if l.why != nil && password == l.refused && time.Now().Before(l.again) {
		return "", l.why
	}
	l.next = time.Now().Add(loginEvery)
	ctx, cancel := context.WithTimeout(ctx, loginWait)
	defer cancel()
	r, err := pb.NewAuthClient(cc).Authenticate(ctx, &pb.AuthenticateRequest{Name: l.user, Password: password})
	switch {
	case err == nil:
		l.why, l.refused, l.wait = nil, "", 0
		return r.Token, nil
	case errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled):
		return "", nil
	case refused(err):
		l.wait = min(max(2*l.wait, firstLoginWait), lastLoginWait)
		l.why, l.refused, l.again = err, password, time.Now().Add(l.wait/2+rand.N(l.wait))
	}
	return "", err
}
