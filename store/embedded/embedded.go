// Package embedded runs an etcd server inside the agent: the store of those who have none. It has one member, and keeps its data in a
// directory across restarts and crashes.
package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config says where the server keeps its data and listens.
type Config struct {
	Dir    string
	Listen string // ADDRESS:PORT for clients; port 0 takes a free one. Anything but loopback is open to everybody there: it has no authentication
	Log    *slog.Logger
}

// Timing of the one-member raft: it elects itself in a tenth of a second (etcd's defaults take a whole one).
const (
	tickMs     = 10
	electionMs = 100
	readyWait  = 20 * time.Second
	quota      = 2 << 30 // bytes; weft's records are far below
	snapshots  = 5000    // entries between snapshots: less memory than etcd's 10,000
)

// Server is a running server.
type Server struct {
	e    *embed.Etcd
	once sync.Once
}

// Start starts the server and waits until it answers.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	peer, err := freeAddr()
	if err != nil {
		return nil, fmt.Errorf("start the embedded store: %w", err)
	}
	listen := cfg.Listen
	if host, port, err := net.SplitHostPort(listen); err == nil && port == "0" {
		if listen, err = freeAddrOf(host); err != nil {
			return nil, fmt.Errorf("start the embedded store: %w", err)
		}
	}
	c := embed.NewConfig()
	c.Name, c.Dir = "weft", cfg.Dir
	c.ListenClientUrls, c.AdvertiseClientUrls = urls(listen), urls(listen)
	c.ListenPeerUrls, c.AdvertisePeerUrls = urls(peer), urls(peer)
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.TickMs, c.ElectionMs = tickMs, electionMs
	c.QuotaBackendBytes, c.SnapshotCount = quota, snapshots
	c.AutoCompactionMode, c.AutoCompactionRetention = "periodic", "1h"
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(&core{log: cfg.Log}))
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("start the embedded store in %s on %s: %w", cfg.Dir, listen, err)
	}
	s := &Server{e: e}
	select {
	case <-e.Server.ReadyNotify():
		return s, nil
	case err = <-e.Err():
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(readyWait):
		err = fmt.Errorf("it was not ready after %s", readyWait)
	}
	s.Close()
	return nil, fmt.Errorf("start the embedded store in %s: %w", cfg.Dir, err)
}

// Endpoint is where clients reach the server, ADDRESS:PORT.
func (s *Server) Endpoint() string { return s.e.Clients[0].Addr().String() }

// Close ends the server; the data stay.
func (s *Server) Close() { s.once.Do(s.e.Close) }

func urls(addr string) []url.URL { return []url.URL{{Scheme: "http", Host: addr}} }

// freeAddr is for the listener for peers, of which there are none.
func freeAddr() (string, error) { return freeAddrOf("127.0.0.1") }

func freeAddrOf(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// core passes etcd's warnings and errors on to the agent's log.
type core struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (c *core) Enabled(l zapcore.Level) bool { return l >= zapcore.ErrorLevel }
func (c *core) With(f []zapcore.Field) zapcore.Core {
	return &core{log: c.log, fields: append(append([]zapcore.Field(nil), c.fields...), f...)}
}
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields, fields...) {
		f.AddTo(enc)
	}
	args := make([]any, 0, 2*len(enc.Fields))
	for k, v := range enc.Fields {
		args = append(args, k, v)
	}
	c.log.Error("embedded store: "+e.Message, args...)
	return nil
}
func (c *core) Sync() error { return nil }
