// Package zk is a store on a ZooKeeper ensemble.
//
// How it keeps the promises of package store, where ZooKeeper has only single nodes, one-shot watches and multis (layout.go has the tree):
//
//   - A Rev is a zxid, which orders all transactions of the ensemble. Each transaction is one multi that also sets the data of a node which
//     it always may set, the head of a partition's journal; the zxid comes back with that node's stat.
//   - Conditions become checks of versions. A node that was deleted and made again is at version 0 again, so each partition has an epoch
//     that every delete raises, and whoever checks a version checks the epoch, too (txn.go).
//   - Each multi leaves one sequential node per partition with what it wrote: the journal. The version of the journal's head is the number
//     of entries ever made, so a data watch on the head leads to all of them, each once (watch.go). Journals are cut by count and by age;
//     who finds its place cut off lists, and delivers the exact difference. Each entry has a random mark: a watch that comes back compares
//     its last one, because a restored standalone server gives out the same zxids again.
//   - A list reads node by node, then applies the entries that came meanwhile: they carry whole values, so the result is exact (list.go).
//   - Reads that must be of now sync first: followers lag.
//   - A session is a ZooKeeper session on a connection of its own with two ephemeral nodes: one under the key's name, which excludes others,
//     and one under a name that is never used twice, which transactions are fenced with (session.go, alive.go).
//
// With a user, nodes are that user's only, by digest; a new password makes another identity of him, and whoever changes it changes the nodes'
// lists of rights, too.
//
// A connection is used once (link.go): the client library would go on with what it remembers, and a server that was restored from a backup
// refuses a client that has seen more than it has; it would take no new password, and open a new session without a word. So a new
// connection gets a new client, and everything that was based on the old one looks again.
package zk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// Config says where the ensemble is and how to speak to it.
type Config struct {
	Endpoints []string // HOST:PORT
	Prefix    string   // path of the node that holds everything
	TLS       *tls.Config
	User      string                                                               // for digest authentication
	Password  func() (string, error)                                               // asked at each new connection
	Dial      func(ctx context.Context, network, address string) (net.Conn, error) // nil: a net.Dialer
	Log       *slog.Logger
}

// Store is a client of one ensemble's prefix.
type Store struct {
	cfg    Config
	log    *slog.Logger
	root   string
	limits limits          // of journals
	data   *keeper         // of the connection that everything but sessions uses
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu       sync.Mutex         // guards wg's Add against Close, and what follows
	trimming map[string]bool    // journals being trimmed; true: and again after that
	fences   map[store.Key]fact // of the sessions opened here
	wg       sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// callTimeout is that of a call whose context has no deadline.
const callTimeout = 5 * time.Second

// New returns a client; it does not wait for the ensemble to answer. What it gets wrong (a password, a certificate) shows at the first call.
func New(cfg Config) (store.Store, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("zk: no endpoints")
	}
	prefix := strings.Trim(cfg.Prefix, "/")
	for part := range strings.SplitSeq(prefix, "/") {
		if part == "" {
			return nil, fmt.Errorf("zk: the prefix %q must be a plain path", cfg.Prefix)
		}
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Store{cfg: cfg, log: cfg.Log, root: rootOf(prefix), limits: usual, ctx: ctx, cancel: cancel, trimming: map[string]bool{}, fences: map[store.Key]fact{}}
	s.data = newKeeper(s)
	s.start(func() { s.data.run(ctx) }, nil)
	return s, nil
}

// start runs f in a goroutine that Close waits for, or closed if the store is closed.
func (s *Store) start(f, closed func()) {
	s.mu.Lock()
	if s.ctx.Err() == nil {
		s.wg.Go(f)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	closed()
}

// Close ends watches, renewals and connections. Sessions last until their time is over.
func (s *Store) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// bound gives ctx a deadline where it has none.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callTimeout)
}

// Get returns one entry.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Entry, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	l, err := s.data.link(ctx)
	if err != nil {
		return store.Entry{}, err
	}
	e, err := s.get(ctx, l, k)
	if errors.Is(err, zk.ErrNoNode) {
		return store.Entry{}, fmt.Errorf("%s: %w", k, store.ErrNotFound)
	}
	if err != nil {
		return store.Entry{}, s.readError(l, "get "+k.String(), err)
	}
	return e, nil
}

func (s *Store) get(ctx context.Context, l *link, k store.Key) (store.Entry, error) {
	if err := l.sync(ctx, s.root); err != nil {
		return store.Entry{}, err
	}
	if k.Partition == store.Alive {
		return s.getAlive(ctx, l, k)
	}
	n, err := l.get(ctx, s.path(k))
	if err != nil {
		return store.Entry{}, err
	}
	return store.Entry{Key: k, Value: n.data, Rev: store.Rev(n.stat.Mzxid)}, nil
}
