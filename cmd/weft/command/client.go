package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	weftv1 "weft/proto/weft/v1"
)

const (
	defaultHost = "unix:///run/weft/weftd.sock"
	dialTimeout = 5 * time.Second
	// callTimeout is for one answer: above the agent's own deadlines, whose errors say more than ours.
	callTimeout = 60 * time.Second
)

// client speaks to the agent.
type client struct {
	weftv1.NetworksClient
	weftv1.SandboxesClient
	weftv1.ClusterClient
	weftv1.StoresClient
	weftv1.ImportClient
	conn *grpc.ClientConn
	host string

	mu      sync.Mutex // guards dialErr, current and cut
	dialErr error      // of the last attempt to connect
	current *watched   // the newest connection
	cut     bool       // it has ended
}

// watched is a connection that tells the client when it ends: of its calls, gRPC says no more than that the agent is unavailable, which
// is also what an agent says whose store is out.
type watched struct {
	net.Conn
	a *client
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.a.mu.Lock()
		w.a.cut = w.a.cut || w.a.current == w
		w.a.mu.Unlock()
	}
	return n, err
}

// agent gives the client of this run; it connects with the first call.
func (c *cli) agent() (*client, error) {
	if c.once != nil {
		return c.once, nil
	}
	host := c.host
	if host == "" {
		host, _ = c.env.Lookup("WEFT_HOST")
	}
	if host == "" {
		host = defaultHost
	}
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok || path == "" {
		return nil, fmt.Errorf("the agent's address %q is not supported: weft speaks to the agent of its own host, at unix:///PATH (-H or WEFT_HOST)", host)
	}
	a := &client{host: host}
	conn, err := grpc.NewClient("passthrough:///weftd",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return a.dial(ctx, path) }),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)),
		grpc.WithUnaryInterceptor(a.explain))
	if err != nil {
		return nil, fmt.Errorf("prepare to speak to the agent at %s: %w", host, err)
	}
	a.conn = conn
	a.NetworksClient, a.SandboxesClient = weftv1.NewNetworksClient(conn), weftv1.NewSandboxesClient(conn)
	a.ClusterClient, a.StoresClient = weftv1.NewClusterClient(conn), weftv1.NewStoresClient(conn)
	a.ImportClient = weftv1.NewImportClient(conn)
	c.once = a
	return a, nil
}

func (a *client) close() { a.conn.Close() } // nothing is left to be sent, so nothing can be lost

func (a *client) dial(ctx context.Context, path string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dialErr = err
	if err != nil {
		return nil, err
	}
	a.current, a.cut = &watched{conn, a}, false
	return a.current, nil
}

func (a *client) explain(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return a.said(invoke(ctx, method, req, reply, cc, opts...))
}

// errLost marks an error that came from the way to the agent and not from the agent.
var errLost = errors.New("no connection to the agent")

// lost is such an error, with the text for the user.
type lost struct{ text string }

func (l *lost) Error() string        { return l.text }
func (l *lost) Is(target error) bool { return target == errLost }

// said tells an agent that cannot be reached from one that says that something else (the store) is unavailable.
func (a *client) said(err error) error {
	if err == nil {
		return nil
	}
	switch status.Code(err) {
	case codes.Unavailable:
		a.mu.Lock()
		dialErr, cut := a.dialErr, a.cut
		a.mu.Unlock()
		if dialErr != nil {
			return a.noAgent(dialErr)
		}
		if cut {
			return &lost{fmt.Sprintf("the weft agent at %s went away before it answered; whether it did what was asked is not known", a.host)}
		}
	case codes.DeadlineExceeded:
		if status.Convert(err).Message() == context.DeadlineExceeded.Error() {
			return fmt.Errorf("the weft agent at %s did not answer within %s", a.host, callTimeout)
		}
	case codes.Unimplemented:
		if m := status.Convert(err).Message(); strings.HasPrefix(m, "unknown service") || strings.HasPrefix(m, "unknown method") {
			return fmt.Errorf("the weft agent at %s is of another version and does not know this command (%s); compare `weft version`", a.host, m)
		}
	}
	return err
}

func (a *client) noAgent(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return &lost{fmt.Sprintf("Permission denied on the weft agent's socket at %s. Run weft as root, or as a member of the socket's group.", a.host)}
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return &lost{fmt.Sprintf("Cannot connect to the weft agent at %s. Is weftd running?", a.host)}
	}
	return &lost{fmt.Sprintf("Cannot connect to the weft agent at %s: %v. Is weftd running?", a.host, err)}
}

// call makes one call of the agent, with a deadline, and shows on a terminal that it is slow when it is.
func call[Q, R any](ctx context.Context, c *cli, what func(*client, context.Context, Q, ...grpc.CallOption) (R, error), req Q) (R, error) {
	return callWithin(ctx, c, callTimeout, what, req)
}

func callWithin[Q, R any](ctx context.Context, c *cli, limit time.Duration, what func(*client, context.Context, Q, ...grpc.CallOption) (R, error), req Q) (R, error) {
	var zero R
	a, err := c.agent()
	if err != nil {
		return zero, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer c.progress()()
	return what(a, ctx, req)
}
