package etcd

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc/connectivity"

	"weft/store"
)

// connectWait is how long a call waits for a connection. A call that never had one was surely not applied, and fails soon: left to itself
// the client would try until the caller's deadline, and could not say which.
const connectWait = time.Second

// connected returns nil once there is a connection.
func (s *Store) connected(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return store.ErrClosed
	}
	conn := s.cli.ActiveConnection()
	state := conn.GetState()
	if state == connectivity.Ready {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	if state == connectivity.TransientFailure {
		conn.ResetConnectBackoff()
	}
	conn.Connect()
	for tried := false; ; {
		if !conn.WaitForStateChange(ctx, state) {
			break
		}
		state = conn.GetState()
		if state == connectivity.Ready {
			return nil
		}
		if state == connectivity.TransientFailure && tried {
			break
		}
		tried = tried || state == connectivity.Connecting
	}
	return fmt.Errorf("etcd: %w (%s)", store.ErrUnreachable, s.why(ctx))
}

// why asks the endpoints themselves: gRPC keeps the reason to itself.
func (s *Store) why(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 300*time.Millisecond)
	defer cancel()
	for _, ep := range s.cli.Endpoints() {
		host := ep
		if u, err := url.Parse(ep); err == nil && u.Host != "" {
			host = u.Host
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", host)
		if err != nil {
			return err.Error()
		}
		_ = c.Close()
	}
	return "a server accepts connections and does not answer; are TLS options missing or wrong?"
}
