// Package embedded runs an etcd server inside the agent: the store of those who have none. It has one member, and keeps its data in a
// directory across restarts and crashes.
package embedded

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// Config says where the server keeps its data and listens.
type Config struct {
	Dir    string
	Listen string  // ADDRESS:PORT on loopback, for this host's agent; port 0 takes a free one. It asks for nothing
	Others *Others // nil: nobody else is served
	Log    *slog.Logger
}

// Others says how other hosts are served: over TLS 1.3 only, and with a certificate of one of these authorities. Certificate and key are read
// again for each connection, the authorities at each start.
type Others struct {
	Listen                    string // ADDRESS:PORT
	CAFile, CertFile, KeyFile string
	// Admit tells whether a certificate of theirs is still taken; its error, a status of gRPC, is what the host hears. nil: all are.
	Admit func(from net.Addr, c *x509.Certificate) error
}

// Timing of the one-member raft: it elects itself in a tenth of a second (etcd's defaults take a whole one).
const (
	tickMs     = 10
	electionMs = 100
	readyWait  = 20 * time.Second
	quota      = 2 << 30 // bytes; weft's records are far below
	portTries  = 5
	slowApply  = time.Second // etcd's 100 ms is nothing to warn of on a busy disk
	snapshots  = 5000        // entries between snapshots: less memory than etcd's 10,000
)

func (c Config) addresses() string {
	if c.Others == nil {
		return c.Listen
	}
	return c.Listen + " and " + c.Others.Listen
}

// Server is a running server.
type Server struct {
	e       *embed.Etcd
	addr    string // of this host's agent's listener
	lock    *os.File
	once    sync.Once
	closing atomic.Bool // read by the log
}

// Start starts the server and waits until it answers. Errors name the directory or the address that is in use.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start the embedded store: %w", err)
	}
	s := &Server{lock: lock}
	for try := 0; ; try++ {
		var again bool
		if again, err = s.listen(cfg); !again || try == portTries {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the embedded store in %s on %s: %w", cfg.Dir, cfg.addresses(), err), lock.Close())
	}
	ready, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	select {
	case <-s.e.Server.ReadyNotify():
		return s, nil
	case err = <-s.e.Err():
	case <-ready.Done():
		err = fmt.Errorf("it was not ready: %w", ready.Err())
	}
	s.Close()
	return nil, fmt.Errorf("start the embedded store in %s: %w", cfg.Dir, err)
}

// lockDir makes the directory this process's. etcd by itself waits for another process to leave it, for ever.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%s is in use by another process: end that one first, or give this one a directory of its own", dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// listen starts etcd. A port that was free a moment ago may be taken now: again says that another one may do.
func (s *Server) listen(cfg Config) (again bool, err error) {
	var own ownAddrs
	if own.peer, err = freeAddr("127.0.0.1"); err == nil {
		own.http, err = freeAddr("127.0.0.1")
	}
	if err != nil {
		return false, err
	}
	chosen := false
	s.addr = cfg.Listen
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return false, fmt.Errorf("%q is not ADDRESS:PORT", s.addr)
	}
	if port == "0" {
		chosen = true
		if s.addr, err = freeAddr(host); err != nil {
			return false, err
		}
	}
	s.e, err = embed.StartEtcd(config(cfg, s.addr, own, &s.closing))
	if err == nil || !strings.Contains(err.Error(), unix.EADDRINUSE.Error()) {
		return false, err
	}
	others := cfg.Others != nil && strings.Contains(err.Error(), cfg.Others.Listen)
	return chosen && !others || strings.Contains(err.Error(), own.peer) || strings.Contains(err.Error(), own.http), err
}

// ownAddrs are where etcd listens on loopback because it must, for other members and for plain HTTP.
type ownAddrs struct{ peer, http string }

func config(cfg Config, client string, own ownAddrs, closing *atomic.Bool) *embed.Config {
	c := embed.NewConfig()
	c.Name, c.Dir = "weft", cfg.Dir
	c.ListenClientUrls, c.AdvertiseClientUrls = urls(client), urls(client)
	if o := cfg.Others; o != nil {
		c.ListenClientUrls = append(c.ListenClientUrls, url.URL{Scheme: "https", Host: o.Listen})
		c.ClientTLSInfo = transport.TLSInfo{CertFile: o.CertFile, KeyFile: o.KeyFile, TrustedCAFile: o.CAFile, ClientCertAuth: true}
		c.TlsMinVersion = string(tlsutil.TLSVersion13)
		c.ListenClientHttpUrls = urls(own.http) // so that gRPC has the others' connections to itself
		if o.Admit != nil {
			c.GRPCAdditionalServerOptions = admission(o.Admit).options()
		}
	}
	c.ListenPeerUrls, c.AdvertisePeerUrls = urls(own.peer), urls(own.peer)
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.TickMs, c.ElectionMs = tickMs, electionMs
	c.QuotaBackendBytes, c.SnapshotCount = quota, snapshots
	c.AutoCompactionMode, c.AutoCompactionRetention = "periodic", "1h"
	c.WarningApplyDuration, c.WarningUnaryRequestDuration = slowApply, slowApply
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(&core{log: cfg.Log, closing: closing}))
	return c
}

// Endpoint is where this host's agent reaches the server, ADDRESS:PORT.
func (s *Server) Endpoint() string { return s.addr }

// Close ends the server; the data stay.
func (s *Server) Close() {
	s.once.Do(func() {
		s.closing.Store(true)
		s.e.Close()
		_ = s.lock.Close() // nothing was written to it
	})
}

func urls(addr string) []url.URL { return []url.URL{{Scheme: "http", Host: addr}} }

// freeAddr finds a port that nobody listens on. etcd needs one for other members too, of which there are none.
func freeAddr(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// core passes etcd's warnings and errors on to the agent's log. What etcd says while it closes is of listeners that it closes itself.
type core struct {
	log     *slog.Logger
	closing *atomic.Bool
	fields  []zapcore.Field
}

// expected are etcd's words at each start of this server: on a data directory that has not seen its first write, on its one port for both
// protocols, on tokens for passwords that it does not use, where only one listener has TLS, and where the disk is slower than its first election, which is tried again.
func expected(message string) bool {
	switch message {
	case "Failed to detect schema version", "failed to update storage version", "simple token is not cryptographically signed",
		"Running http and grpc server on single port. This is not recommended for production.":
		return true
	}
	if strings.HasPrefix(message, "scheme is http") {
		return true // the loopback ones are plain, beside one with certificates
	}
	return strings.Contains(message, "cannot campaign at term ") && strings.Contains(message, "pending configuration changes")
}

func (c *core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel && !c.closing.Load() }
func (c *core) With(f []zapcore.Field) zapcore.Core {
	return &core{log: c.log, closing: c.closing, fields: slices.Concat(c.fields, f)}
}
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !expected(e.Message) {
		return ce.AddCore(e, c)
	}
	return ce
}
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(c.fields, fields) {
		f.AddTo(enc)
	}
	args := make([]any, 0, 2*len(enc.Fields))
	for _, k := range slices.Sorted(maps.Keys(enc.Fields)) {
		args = append(args, k, enc.Fields[k])
	}
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, "embedded store: "+e.Message, args...)
	return nil
}
func (c *core) Sync() error { return nil }
