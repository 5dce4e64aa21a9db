// Package consul is a store on a Consul cluster (its key-value store, sessions and transactions over HTTP).
//
// How it keeps the promises of package store:
//
//   - A Rev is the raft index of the transaction that wrote, which orders all writes of a Consul cluster.
//   - A transaction is one Consul transaction. Its operations run in order, so the conditions come first; a condition and a put of one key
//     are one compare-and-set. Consul does not write, nor give a new index to, a set that changes nothing: each set carries a nonce in the
//     key's flags. A refused transaction is read back for the first condition that does not hold.
//   - A list is one read-only transaction, answered by a leader that has made sure of its leadership.
//   - A watch follows a journal. Blocking on the data itself would return all of it at each change, show only the newest of several states,
//     and not show what came and went. So each transaction also writes one entry, with what it does, into the journal of the shard that the
//     partition belongs to, and one blocking query per shard and client (feed) serves all watches there. Entries are taken out oldest first,
//     a few at a time, in transactions: what a journal holds is always the newest part of history without a gap. A watch knows the entry
//     that it stands on. If a reading of the journal has that entry, all later ones are there, too, and become batches; if not, the journal
//     was trimmed past it or the history is another one (a restored snapshot, a wiped server), and the difference to a new list is one
//     batch with Resync. No index is compared for this: a restored Consul goes on with higher ones.
//   - A session is a Consul session without checks, with behaviour delete and the shortest lock delay, which holds one key in partition
//     alive. That partition is watched with its data, for an ending session writes no journal.
//   - Rights are told from absence: Consul leaves out of an answer what a token may not read. Each read asks also for a key that is always
//     answered to those who may read it (key id), which holds the ID of this history.
//
// The outcome of a write is unknown once its request had a connection, unless Consul answered that it did nothing.
//
// The agents that are spoken to may be servers or clients. A session ends with the node that it belongs to, and Consul drops the nodes of
// servers that fail; so sessions belong to a node "weft" which this package puts into the catalog, or without the right to that, to the node of
// the agent that is spoken to.
//
// Keys are PREFIX/SHARD/k/PARTITION/NAME for data, PREFIX/SHARD/j/NONCE for journals, and PREFIX/~id. With ACLs a token needs:
//
//	key_prefix "PREFIX/" { policy = "write" }
//	session "weft"       { policy = "write" }
//	node "weft"          { policy = "write" }
//	agent_prefix ""      { policy = "read" }   # only for the version in Status
//
// and without the one for the node, session_prefix "" instead of session "weft".
package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// Config says where the cluster is and how to speak to it.
type Config struct {
	Endpoints []string // HOST:PORT of agents, servers or clients; the first that answers is used
	Prefix    string   // of all keys, without slashes at its ends
	TLS       *tls.Config
	Token     func() (string, error) // asked for at first and again after a refusal; nil: none
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	Log       *slog.Logger
}

// callTimeout is that of a call whose context has no deadline.
const callTimeout = 5 * time.Second

// Store is a client of one cluster's prefix.
type Store struct {
	cli    *api.Client
	link   *link
	feeds  *feeds
	slots  *slots
	log    *slog.Logger
	prefix string // with a slash at its end, or empty
	ctx    context.Context
	cancel context.CancelFunc // Close

	identified atomic.Bool // the key that names this history is known to be there
	trimming   sync.Map    // by shard: one trim at a time
	written    atomic.Uint32

	mu sync.Mutex // guards wg's Add against Close
	wg sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// New returns a client; it does not wait for the cluster to answer.
func New(cfg Config) (store.Store, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("consul: no endpoints")
	}
	prefix := strings.Trim(cfg.Prefix, "/")
	if prefix != "" && path.Clean("/"+prefix) != "/"+prefix || !utf8.ValidString(prefix) {
		return nil, fmt.Errorf("consul: %q cannot be a prefix of keys", cfg.Prefix)
	}
	if prefix != "" {
		prefix += "/"
	}
	l := newLink(cfg, prefix+"~")
	cli, err := l.client()
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Store{cli: cli, link: l, slots: newSlots(), log: cfg.Log, prefix: prefix, ctx: ctx, cancel: cancel}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.feeds = &feeds{s: s, open: map[string]*feed{}}
	return s, nil
}

// start runs f in a goroutine that Close waits for; it returns false if the store is closed.
func (s *Store) start(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.wg.Go(f)
	return true
}

// Close ends watches and renewals, and the connections.
func (s *Store) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	s.link.close()
	return nil
}

// bound gives ctx a deadline where it has none, and ends it with the store.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	var cancel context.CancelFunc
	if _, ok := ctx.Deadline(); ok {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
	}
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// Get returns one entry.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Entry, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	got, err := s.read(ctx, &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.path(k)})
	if err != nil {
		return store.Entry{}, s.readError("get "+k.String(), err)
	}
	if len(got) == 0 {
		return store.Entry{}, fmt.Errorf("consul: get %s: %w: no right to read it", k, store.ErrRefused)
	}
	if got[0].ModifyIndex == 0 {
		return store.Entry{}, fmt.Errorf("%s: %w", k, store.ErrNotFound)
	}
	return store.Entry{Key: k, Value: got[0].Value, Rev: store.Rev(got[0].ModifyIndex)}, nil
}

// List returns a partition at one revision.
func (s *Store) List(ctx context.Context, partition string) (store.Snapshot, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	l, err := s.snapshot(ctx, partition)
	if err != nil {
		return store.Snapshot{}, s.readError("list "+partition, err)
	}
	return l.Snapshot, nil
}
