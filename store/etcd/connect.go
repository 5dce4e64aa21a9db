package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"

	"weft/store"
)

// connectWait is how long a call waits for a connection. A call that never had one was surely not applied, and fails soon: left to itself
// the client would try until the caller's deadline, and could not say which.
const connectWait = time.Second

// whyWait is how long the question may take why there is none.
const whyWait = 400 * time.Millisecond

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
	s.seat.doubt()
	for tried := false; ; {
		if !conn.WaitForStateChange(ctx, state) {
			break
		}
		state = conn.GetState()
		if state == connectivity.Ready {
			return nil
		}
		if state == connectivity.TransientFailure && tried && s.seat.alone() {
			break // or the client may yet move to a member that answers
		}
		tried = tried || state == connectivity.Connecting
	}
	return s.why(ctx)
}

// why asks the endpoints themselves: gRPC keeps the reason to itself.
func (s *Store) why(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), whyWait)
	defer cancel()
	answers := make([]error, len(s.cfg.Endpoints))
	var wg sync.WaitGroup
	for i, ep := range s.cfg.Endpoints {
		if u, err := url.Parse(ep); err == nil && u.Host != "" {
			ep = u.Host
		}
		wg.Go(func() {
			if err := s.shake(ctx, ep); err != nil {
				answers[i] = fmt.Errorf("%s: %w", ep, err)
			}
		})
	}
	wg.Wait()
	for _, err := range answers {
		if errors.Is(err, store.ErrRefused) {
			return fmt.Errorf("etcd: %w", err)
		}
	}
	for _, err := range answers {
		if err != nil {
			return fmt.Errorf("etcd: %w (%w)", store.ErrUnreachable, err)
		}
	}
	return fmt.Errorf("etcd: %w (a server accepts connections and does not answer)", store.ErrUnreachable)
}

// shake connects to one server, and returns what is wrong with that. Refused is what another try would not change: a certificate that one
// end does not trust, or TLS at one end only.
func (s *Store) shake(ctx context.Context, host string) error {
	conn, err := s.cfg.Dial(ctx, "tcp", host)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		return err
	}
	if s.cfg.TLS == nil {
		return speaksTLS(ctx, conn)
	}
	conf := s.cfg.TLS.Clone()
	conf.NextProtos = []string{"h2"}
	if conf.ServerName == "" {
		conf.ServerName = name
	}
	c := tls.Client(conn, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		return refusedBy(err, conf)
	}
	// With TLS 1.3 a server tells only now what it thinks of this host's certificate.
	deadline, _ := ctx.Deadline()
	if err := c.SetReadDeadline(deadline); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return refusedBy(err, conf)
}

// speaksTLS returns an error if the server does. Nothing is sent to it but a greeting.
func speaksTLS(ctx context.Context, conn net.Conn) error {
	conf := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return errSpeaksTLS }}
	if err := tls.Client(conn, conf).HandshakeContext(ctx); errors.Is(err, errSpeaksTLS) {
		return err
	}
	return nil
}

var errSpeaksTLS = fmt.Errorf("%w: the server speaks TLS, and no TLS option is given", store.ErrRefused)

// refusedBy tells refusals from all else that may be wrong with a TLS connection; of that, what only says that the server waits is nothing.
func refusedBy(err error, conf *tls.Config) error {
	var plain tls.RecordHeaderError
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case errors.As(err, &plain):
		return fmt.Errorf("%w: the server does not speak TLS, and TLS options are given", store.ErrRefused)
	case errors.Is(err, io.EOF): // etcd does so without TLS, and any server that is on its way down
		return errors.New("the server ended the connection: does it speak TLS? TLS options are given")
	case !noCertificate(err):
		return err
	case conf.GetClientCertificate == nil && len(conf.Certificates) == 0:
		return fmt.Errorf("%w: the server wants a certificate of this host, and none is given (%w)", store.ErrRefused, err)
	}
	return fmt.Errorf("%w: the server does not take the certificate of this host (%w)", store.ErrRefused, err)
}

// certificateAlerts (RFC 8446, 6.2) are those of a server that does not take this host's certificate, or wants one. With TLS 1.3 they come
// after the handshake.
var certificateAlerts = []tls.AlertError{42, 43, 44, 45, 46, 48, 49, 116}

// noCertificate tells them. The other end's alerts are of a type that crypto/tls does not export: their words are the same.
func noCertificate(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && slices.ContainsFunc(certificateAlerts, func(a tls.AlertError) bool { return a.Error() == op.Err.Error() })
}
