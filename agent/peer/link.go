package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"weft/identity"
	"weft/store/record"
)

const (
	callBound    = 2 * time.Second // of a question to another agent, with the connection that it may need
	unackedBound = 3 * time.Second // a connection on which nothing was acknowledged for that long is given up
	pingEvery    = 10 * time.Second
	pingTimeout  = 3 * time.Second
	idleAfter    = time.Minute
	maxReply     = 16 << 20
)

// link is the connection to one host's agent. gRPC makes it again when it was lost; after the first attempt that fails the link is over, and
// the next question makes another: so nobody is told of an hour-old failure, nobody waits for a back-off, and a host that is gone is not
// called by anyone who has nothing to ask it.
type link struct {
	host record.HostID
	addr string
	cc   *grpc.ClientConn

	over context.Context // ends with the reason of the first attempt that failed
	fail context.CancelCauseFunc

	mu      sync.Mutex // guards what follows
	greeted *Greeting  // on the connection that is there now
}

func newLink(h *record.Host, id Identity) (*link, error) {
	over, fail := context.WithCancelCause(context.Background())
	l := &link{host: h.ID, addr: h.Advertise, over: over, fail: fail}
	known := *h
	cc, err := grpc.NewClient("passthrough:///"+h.Advertise,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the dialer gives a connection that is encrypted
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := l.dial(ctx, &known, id)
			if err != nil {
				fail(err)
			}
			return c, err
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: callBound,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.WithIdleTimeout(idleAfter),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)))
	if err != nil {
		fail(err)
		return nil, fmt.Errorf("prepare to speak to the agent at %s: %w", h.Advertise, err)
	}
	l.cc = cc
	return l, nil
}

// dial connects, and forgets what the other end said of itself on the connection before.
func (l *link) dial(ctx context.Context, h *record.Host, id Identity) (net.Conn, error) {
	t, err := secure(ctx, h, id)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.greeted = nil
	l.mu.Unlock()
	return open(ctx, t)
}

// secure connects and makes sure that the other end is that very host.
func secure(ctx context.Context, h *record.Host, id Identity) (*tls.Conn, error) {
	if _, err := id.Current(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoIdentity, err)
	}
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedBound.Milliseconds()))
		}), err)
	}}
	c, err := d.DialContext(ctx, "tcp", h.Advertise)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSilent, err)
	}
	conf := id.ClientTLS(NamedAs(h))
	conf.NextProtos = []string{"h2"} // gRPC's servers insist
	t := tls.Client(c, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(handshakeError(err), c.Close())
	}
	return t, nil
}

// open waits for the first word of the other end: in TLS 1.3 a client hears that its certificate is not good enough only when it reads, and
// what it writes meanwhile may end the connection before that. gRPC's servers speak first.
func open(ctx context.Context, t *tls.Conn) (net.Conn, error) {
	o := &opened{Conn: t, first: bufio.NewReader(t)}
	stop := context.AfterFunc(ctx, func() { _ = t.SetReadDeadline(time.Unix(1, 0)) })
	_, err := o.first.Peek(1)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(handshakeError(err), t.Close())
	}
	return o, nil
}

// opened is a connection of which some has been read.
type opened struct {
	net.Conn
	first *bufio.Reader
}

func (o *opened) Read(p []byte) (int, error) {
	if o.first.Buffered() > 0 {
		return o.first.Read(p)
	}
	return o.Conn.Read(p)
}

// handshakeError tells an end that is another one than it should be from one that says nothing.
func handshakeError(err error) error {
	var verify *tls.CertificateVerificationError
	var alert tls.AlertError
	var remote *net.OpError
	switch {
	case refusedBy(err), errors.As(err, &verify), errors.As(err, &alert), errors.As(err, &remote) && remote.Op == "remote error":
		return fmt.Errorf("%w: %w", ErrStranger, err)
	case errors.As(err, new(tls.RecordHeaderError)):
		return fmt.Errorf("%w: it speaks another protocol: %w", ErrStranger, err)
	}
	return fmt.Errorf("%w: %w", ErrSilent, err)
}

// refusedBy tells whether a certificate was not good enough for this host.
func refusedBy(err error) bool {
	return slices.ContainsFunc([]error{identity.ErrNone, identity.ErrExpired, identity.ErrNotYet, identity.ErrForeign, identity.ErrOther, identity.ErrUnfit},
		func(is error) bool { return errors.Is(err, is) })
}

// reach returns when there is a connection, or why there is none.
func (l *link) reach(ctx context.Context) error {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.over, cancel)()
	for s := l.cc.GetState(); s != connectivity.Ready; s = l.cc.GetState() {
		if s == connectivity.Idle {
			l.cc.Connect()
		}
		if l.cc.WaitForStateChange(wait, s) {
			continue
		}
		if l.over.Err() != nil {
			return context.Cause(l.over)
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("%w: no connection to %s within the time", ErrSilent, l.addr)
		}
		return ctx.Err()
	}
	return nil
}

func (l *link) close() {
	l.fail(fmt.Errorf("%w: the connection was given up", ErrSilent)) // others may wait for it
	_ = l.cc.Close()                                                 // its calls end with an error of their own
}

// met returns what the other end said of itself on this connection; nil where it has not been asked yet.
func (l *link) met() *Greeting {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.greeted
}

func (l *link) meet(g Greeting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.greeted = &g
}
