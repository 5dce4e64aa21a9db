// Package etcd is a store on an etcd cluster (v3 API).
//
// How it keeps the promises of package store: a Rev is etcd's revision, which orders all transactions of the cluster; a list reads its pages
// at one revision; a watch begins with such a list, resumes where it stopped, and lists again where history was compacted, where the
// cluster's ID changed, where its revision went back (a restored backup, in which a watch from a future revision would stay silent), or where
// the partition's past is not what the watch has told (a backup that has outgrown it). A client speaks to one member at a time (see seat).
// A session is a lease with one key.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"weft/store"
)

// Config says where the cluster is and how to speak to it.
type Config struct {
	Endpoints []string // HOST:PORT or http(s)://HOST:PORT
	Prefix    string   // of all keys, without slashes at its ends
	TLS       *tls.Config
	User      string
	Password  func() (string, error)                                               // asked at each login; nil: none
	Dial      func(ctx context.Context, network, address string) (net.Conn, error) // nil: a net.Dialer's
	Log       *slog.Logger
}

// Times. Without pings the client hangs on a connection whose other end is gone; with the default back-off it comes back seconds late.
const (
	pingEvery   = 5 * time.Second
	pingTimeout = 3 * time.Second
	maxBackoff  = time.Second
	callTimeout = 5 * time.Second // of a call whose context has no deadline
	statusWait  = time.Second     // of one server's own status
	pageSize    = 1000
	tries       = 3 // of a read, or of a login, on a connection that broke; writes are tried once
)

// Store is a client of one cluster's prefix.
type Store struct {
	cli     *clientv3.Client
	cfg     Config
	log     *slog.Logger
	prefix  string
	history *history
	seat    *seat
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc

	mu sync.Mutex // guards wg's Add against Close
	wg sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// New returns a client; it does not wait for the cluster to answer. What it gets wrong (a password, a certificate) shows at the first call.
func New(cfg Config) (*Store, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("etcd: no endpoints")
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	ctx, cancel := context.WithCancel(context.Background())
	seat := newSeat(ctx, cfg.Endpoints)
	cli, err := clientv3.New(clientConfig(ctx, cfg, seat.at))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("etcd: %w", err)
	}
	prefix := strings.Trim(cfg.Prefix, "/") + "/"
	s := &Store{cli: cli, cfg: cfg, log: cfg.Log, prefix: prefix, history: newHistory(cli, seat, prefix), seat: seat, ctx: ctx, cancel: cancel}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.start(func() { s.history.followConnection(ctx, seat.doubt) }, nil)
	if !seat.alone() {
		s.start(func() { s.keepSeat(ctx) }, nil)
	}
	return s, nil
}

// clientConfig leaves the user out: with a name and a password the client would log in at once, and wait for as long as the cluster is down.
// Without a watch there are no pings: the server takes them for an attack.
func clientConfig(ctx context.Context, cfg Config, endpoint string) clientv3.Config {
	out := clientv3.Config{
		Endpoints: []string{endpoint}, TLS: cfg.TLS, Context: ctx, DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: pingTimeout,
		Logger: zap.NewNop(), MaxUnaryRetries: tries,
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
				MinConnectTimeout: pingTimeout,
			}),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return cfg.Dial(ctx, "tcp", addr) }),
		},
	}
	if cfg.Password != nil {
		out.DialOptions = append(out.DialOptions, newLogin(cfg.User, cfg.Password).options()...)
	}
	return out
}

// start runs f in a goroutine that Close waits for, or closed if the store is closed.
func (s *Store) start(f, closed func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		closed()
		return
	}
	s.wg.Go(f)
}

// Close ends watches and renewals, and the connection.
func (s *Store) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	err := s.cli.Close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// path is the key in etcd. Partitions may hold slashes, names any bytes: both are escaped, so that no partition is another's prefix.
func (s *Store) path(k store.Key) string { return s.dir(k.Partition) + url.PathEscape(k.Name) }
func (s *Store) dir(partition string) string {
	return s.prefix + url.PathEscape(partition) + "/"
}

func (s *Store) name(partition string, path []byte) (string, error) {
	return url.PathUnescape(strings.TrimPrefix(string(path), s.dir(partition)))
}

// bound gives ctx a deadline where it has none.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callTimeout)
}

// read makes a call that changes nothing: again, when the client moves to another member meanwhile.
func (s *Store) read(ctx context.Context, what string, call func(context.Context) error) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	for {
		if err := s.connected(ctx); err != nil {
			return err
		}
		_, here := s.seat.now()
		held, free := s.seat.hold(ctx)
		err := call(held)
		free()
		if err == nil {
			return nil
		}
		if here.Err() == nil || ctx.Err() != nil {
			return s.readError(what, err)
		}
	}
}

// Get returns one entry.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Entry, error) {
	var r *clientv3.GetResponse
	err := s.read(ctx, "get "+k.String(), func(ctx context.Context) (err error) {
		r, err = s.cli.Get(ctx, s.path(k))
		return err
	})
	if err != nil {
		return store.Entry{}, err
	}
	if len(r.Kvs) == 0 {
		return store.Entry{}, fmt.Errorf("%s: %w", k, store.ErrNotFound)
	}
	return store.Entry{Key: k, Value: r.Kvs[0].Value, Rev: store.Rev(r.Kvs[0].ModRevision)}, nil
}

// List returns a partition at one revision.
func (s *Store) List(ctx context.Context, partition string) (store.Snapshot, error) {
	var l store.Snapshot
	err := s.read(ctx, "list "+partition, func(ctx context.Context) (err error) {
		l, _, err = s.list(ctx, partition)
		return err
	})
	return l, err
}

// list reads the pages at the revision of the first one, and from the start again if that was compacted meanwhile. It returns the ID of
// the cluster that answered, too.
func (s *Store) list(ctx context.Context, partition string) (store.Snapshot, uint64, error) {
	for {
		out, id, err := s.pages(ctx, partition)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			return out, id, err
		}
	}
}

func (s *Store) pages(ctx context.Context, partition string) (store.Snapshot, uint64, error) {
	from, end := s.dir(partition), clientv3.GetPrefixRangeEnd(s.dir(partition))
	var out store.Snapshot
	var id uint64
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend)}
		if out.Rev > 0 {
			opts = append(opts, clientv3.WithRev(int64(out.Rev)))
		}
		r, err := s.cli.Get(ctx, from, opts...)
		if err != nil {
			return out, 0, err
		}
		if out.Rev == 0 {
			out.Rev, id = store.Rev(r.Header.Revision), r.Header.ClusterId
		}
		for _, kv := range r.Kvs {
			if e, err := s.entry(partition, kv); err == nil {
				out.Entries = append(out.Entries, e)
			}
		}
		if !r.More {
			// Escaped names sort otherwise than the names.
			slices.SortFunc(out.Entries, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
			return out, id, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) entry(partition string, kv *mvccpb.KeyValue) (store.Entry, error) {
	name, err := s.name(partition, kv.Key)
	if err != nil {
		return store.Entry{}, err
	}
	return store.Entry{Key: store.Key{Partition: partition, Name: name}, Value: kv.Value, Rev: store.Rev(kv.ModRevision)}, nil
}

// Txn applies a transaction.
func (s *Store) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	if err := t.Check(); err != nil {
		return 0, err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.connected(ctx); err != nil {
		return 0, err
	}
	cmps := make([]clientv3.Cmp, len(t.If))
	gets := make([]clientv3.Op, len(t.If))
	for i, c := range t.If {
		p := s.path(c.Key)
		cmps[i] = condition(p, c.Rev)
		gets[i] = clientv3.OpGet(p, clientv3.WithKeysOnly())
	}
	ops := make([]clientv3.Op, len(t.Then))
	for i, o := range t.Then {
		if o.Delete {
			ops[i] = clientv3.OpDelete(s.path(o.Key))
		} else {
			ops[i] = clientv3.OpPut(s.path(o.Key), string(o.Value))
		}
	}
	ctx, free := s.seat.hold(ctx)
	defer free()
	r, err := s.cli.Txn(ctx).If(cmps...).Then(ops...).Else(gets...).Commit()
	if err != nil {
		return 0, s.writeError(err)
	}
	if r.Succeeded {
		return store.Rev(r.Header.Revision), nil
	}
	return 0, refusal(t.If, r)
}

func condition(p string, rev store.Rev) clientv3.Cmp {
	switch rev {
	case store.Absent:
		return clientv3.Compare(clientv3.CreateRevision(p), "=", 0)
	case store.Exists:
		return clientv3.Compare(clientv3.CreateRevision(p), ">", 0)
	}
	return clientv3.Compare(clientv3.ModRevision(p), "=", int64(rev))
}

// refusal finds the first condition that does not hold in what the transaction read instead.
func refusal(conds []store.Cond, r *clientv3.TxnResponse) error {
	for i, c := range conds {
		have := store.Absent
		if kvs := r.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			have = store.Rev(kvs[0].ModRevision)
		}
		if c.Rev == have || c.Rev == store.Exists && have != store.Absent {
			continue
		}
		return &store.ConflictError{Key: c.Key, Have: have}
	}
	return errors.New("etcd: transaction refused, and all its conditions hold")
}

// Status asks the cluster, and the server that the client speaks to.
func (s *Store) Status(ctx context.Context) (store.Status, error) {
	out := store.Status{Backend: "etcd", Endpoints: s.cfg.Endpoints}
	err := s.read(ctx, "ask for status", func(ctx context.Context) error {
		begin := time.Now()
		r, err := s.cli.Get(ctx, s.prefix, clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		out.Latency = time.Since(begin)
		out.Rev, out.ClusterID = store.Rev(r.Header.Revision), fmt.Sprintf("%x", r.Header.ClusterId)
		ctx, cancel := context.WithTimeout(ctx, statusWait)
		defer cancel()
		at, _ := s.seat.now()
		if st, err := s.cli.Status(ctx, at); err == nil {
			out.Version, out.Leader = st.Version, fmt.Sprintf("%x", st.Leader)
		}
		return nil
	})
	return out, err
}
