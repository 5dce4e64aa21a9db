package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"weft/agent/journal"
	"weft/identity"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// Times of joining.
const (
	joinCall      = 4 * time.Second // one try, with the connection
	joinRetry     = 200 * time.Millisecond
	joinRetryMax  = 5 * time.Second
	joinSayEvery  = 10 * time.Second // that it still waits
	maxTokenBytes = 4096
)

// openKeeper opens this host's certificate, or that of a PKI by files.
func openKeeper(cfg Config, log *slog.Logger) (*identity.Keeper, error) {
	if cfg.PeerCertFile == "" {
		return identity.Open(cfg.pkiDir(), time.Now, log)
	}
	k, err := identity.OpenFiles(identity.Files{CA: cfg.PeerCAFile, Cert: cfg.PeerCertFile, Key: cfg.PeerKeyFile}, time.Now, log)
	if err != nil {
		return nil, fmt.Errorf("--peer-cacertfile, --peer-certfile, --peer-keyfile: %w", err)
	}
	if err := k.Valid(); err != nil {
		return nil, fmt.Errorf("--peer-certfile %s: %w", cfg.PeerCertFile, err)
	}
	return k, nil
}

// checkIdentity refuses what is half given, and reads the token where that can be done now.
func (c *Config) checkIdentity() error {
	files := [3]bool{c.PeerCAFile != "", c.PeerCertFile != "", c.PeerKeyFile != ""}
	switch {
	case files != [3]bool{} && files != [3]bool{true, true, true}:
		return errors.New("--peer-cacertfile, --peer-certfile and --peer-keyfile go together: one of them is missing")
	case (c.Join == "") != (c.Token == ""):
		return errors.New("--join and --token go together: `weft cluster token`, on the host to join at, makes a token")
	case c.Join != "" && files[0]:
		return errors.New("--join is for certificates of the cluster's own authority, and --peer-certfile brings another one: give one of them")
	case c.Join != "" && c.EmbeddedListen != "":
		return errors.New("--join is for a cluster whose store is elsewhere, and --embedded-listen serves one from here: give one of them")
	}
	if c.Join == "" {
		return nil
	}
	_, err := joinAddress(c.Join)
	return err
}

// joinAddress is HOST:PORT of what --join says.
func joinAddress(s string) (string, error) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return netip.AddrPortFrom(a, peerPort).String(), nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, strconv.Itoa(peerPort)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, "/ :") && net.ParseIP(host) == nil {
		return "", fmt.Errorf("--join %s: it must be HOST[:PORT], such as 192.0.2.11 or h1.example:%d", s, peerPort)
	}
	return net.JoinHostPort(host, port), nil
}

// token reads what --token says, or the file that it names. No error shows it.
func (c *Config) token() (identity.Token, error) {
	text, what := c.Token, "--token"
	if path, ok := strings.CutPrefix(text, "@"); ok {
		what = "--token " + text
		f, err := os.Open(path)
		if err != nil {
			return identity.Token{}, fmt.Errorf("--token: %w", err)
		}
		b, err := io.ReadAll(io.LimitReader(f, maxTokenBytes))
		if err = errors.Join(err, f.Close()); err != nil {
			return identity.Token{}, fmt.Errorf("--token: %w", err)
		}
		text = string(b)
	}
	t, err := identity.ParseToken(text)
	if err != nil {
		return t, fmt.Errorf("%s: %w", what, err)
	}
	return t, nil
}

// notThere is that nobody answers where this host is to join: it may be up later.
type notThere struct{ error }

func (n notThere) Unwrap() error { return n.error }

// firstJoin gets this host its certificate, before it does anything else. A host that knows its store needs none to begin with: where nobody
// answers it goes on, and keepIdentity tries again.
func (a *Agent) firstJoin(ctx context.Context, id journal.Identity) (journal.Identity, error) {
	a.log.Info("joining a cluster", "at", a.cfg.Join)
	wait, said := joinRetry, a.clock.Now()
	for {
		learnt, err := a.join(ctx, id.Host)
		var away notThere
		switch {
		case err == nil && learnt == nil && a.cfg.ClusterStore == "" && id.Learnt == nil:
			return id, fmt.Errorf("--join %s: that host tells no store that this one could use: give --cluster-store, or let the first host serve its own to others (--embedded-listen)", a.cfg.Join)
		case err == nil:
			if id.Learnt = learnt; learnt != nil {
				err = a.journal.SetIdentity(ctx, id)
			}
			return id, err
		case !errors.As(err, &away):
			return id, err
		case a.cfg.ClusterStore != "" || id.Learnt != nil:
			a.log.Warn("cannot join yet, and goes on without a certificate meanwhile", "at", a.cfg.Join, "error", err)
			a.pki.pending = true
			return id, nil
		}
		if now := a.clock.Now(); wait == joinRetry || now.Sub(said) >= joinSayEvery {
			said = now
			a.log.Info("waiting for the host to join at", "at", a.cfg.Join, "error", err)
		}
		select {
		case <-ctx.Done():
			return id, ctx.Err()
		case <-a.clock.After(wait):
		}
		wait = min(2*wait, joinRetryMax)
	}
}

// join asks once. The certificate is on the disk when it returns nil; learnt is the store that it was told of, nil where there is none.
func (a *Agent) join(ctx context.Context, host record.HostID) (learnt *journal.Learnt, err error) {
	token, err := a.cfg.token()
	if err != nil {
		return nil, err
	}
	csr, err := a.pki.keeper.Request(string(host))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinCall)
	defer cancel()
	r, err := enrol(ctx, a.cfg.Join, token.TLS(a.pki.keeper), &weftv1.JoinRequest{Token: token.Secret(), Csr: csr, HostId: string(host), Name: a.cfg.HostName})
	if err != nil {
		return nil, fmt.Errorf("--join %s: %w", a.cfg.Join, err)
	}
	if r.Store != "" {
		learnt = &journal.Learnt{URL: r.Store}
		if r.StoreByCertificate {
			learnt.Opts = map[string]string{"kv.certificate": "host"}
		}
	}
	if learnt == nil && a.cfg.ClusterStore == "" {
		return nil, nil // it would not know where to go with it
	}
	release, err := a.pki.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := a.pki.keeper.Store(string(host), r.Certificate, r.Authority); err != nil {
		return nil, err
	}
	a.log.Info("joined: this host has a certificate of the cluster's authority", "at", a.cfg.Join, "store", r.Store)
	return learnt, nil
}

// enrol asks over a connection of its own, whose handshake tells what gRPC would keep to itself.
func enrol(ctx context.Context, to string, conf *tls.Config, q *weftv1.JoinRequest) (*weftv1.JoinResponse, error) {
	addr, err := joinAddress(to)
	if err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, notThere{err}
	}
	conf.NextProtos = []string{"h2"}
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(handshakeTrouble(err), raw.Close())
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), // within conn
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil }))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer func() { _ = cc.Close() }()
	r, err := weftv1.NewEnrolmentClient(cc).Join(ctx, q)
	switch status.Code(err) {
	case codes.OK:
		return r, nil
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return nil, notThere{errors.New(status.Convert(err).Message())}
	}
	return nil, errors.New(status.Convert(err).Message())
}

// handshakeTrouble tells what another try may change from what it will not.
func handshakeTrouble(err error) error {
	var verify *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	switch {
	case errors.Is(err, identity.ErrForeign):
		return fmt.Errorf("that host is not of the cluster that the token is for: make the token on the host to join at (%w)", identity.ErrForeign)
	case errors.As(err, &verify):
		return verify.Err
	case errors.As(err, &plain):
		return errors.New("what answers there is no weftd: give the address that its --cluster-advertise has")
	case errors.Is(err, identity.ErrNotYet), errors.Is(err, identity.ErrExpired), errors.Is(err, identity.ErrUnfit):
		return err
	}
	return notThere{err}
}
