package zk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// A server ends sessions in steps of its tick, and followers tell the leader of a client's pings half a tick late. The tick is not told; by
// default it is 2 s, and half of the shortest session that a server grants: the data connection asks for one of two such ticks.
const defaultTick = 2 * time.Second

// session is a ZooKeeper session on connections of its own, with one key: were it that of the data connection, it would end with whatever
// ends that one, and none could be left for a successor.
type session struct {
	s     *Store
	key   store.Key
	id    sessionID
	sign  string
	rev   store.Rev
	ttl   time.Duration
	every time.Duration // between renewals
	late  time.Duration // how long after its end a server may notice
	done  chan struct{}
	stop  context.CancelFunc
	ended sync.WaitGroup
}

// OpenSession opens a ZooKeeper session, or goes on with the one to take over, and makes the key in it.
func (s *Store) OpenSession(ctx context.Context, cfg store.SessionConfig) (store.Session, error) {
	check := store.Txn{Then: []store.Op{store.Put(cfg.Key, cfg.Value)}}
	if err := check.Check(); err != nil {
		return nil, err
	}
	if cfg.Key.Partition != store.Alive {
		return nil, fmt.Errorf("%w: a session holds a key of partition %s, not %s", store.ErrInvalid, store.Alive, cfg.Key)
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)() // no connection is begun that Close would not know of
	data, err := s.data.link(ctx)
	if err != nil {
		return nil, err
	}
	x := &session{s: s, key: cfg.Key, done: make(chan struct{})}
	tick := max(defaultTick, data.wire.grant.ttl/2)
	x.late = tick + tick/2
	l, asked, err := x.open(ctx, data.endpoint, cfg)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.fences[x.key] = fact{exists: true, rev: x.rev, sign: x.sign}
	s.mu.Unlock()
	run, stop := context.WithCancel(s.ctx)
	x.stop = stop
	x.ended.Add(1)
	s.start(func() {
		defer x.ended.Done()
		x.run(run, l, asked)
	}, func() {
		defer x.ended.Done()
		close(x.done)
		l.end(false)
	})
	return x, nil
}

// open connects, and makes the key. A predecessor that is not as dead as one thought may take its session back, and does so less and less
// often; once the key is another it gives up.
func (x *session) open(ctx context.Context, endpoint string, cfg store.SessionConfig) (*link, time.Time, error) {
	for {
		l, resumed, err := x.s.openOrResume(ctx, endpoint, cfg)
		if err != nil {
			return nil, time.Time{}, x.s.readError(nil, "open a session", err)
		}
		x.id, x.ttl, x.every = l.wire.grant.id, l.wire.grant.ttl, cfg.Renewal(l.wire.grant.ttl)
		asked, err := x.hold(ctx, l, cfg.Value, resumed)
		if err == nil {
			return l, asked, nil
		}
		taken := resumed && isClosed(l.down) && ctx.Err() == nil
		x.s.drop(l, !resumed) // an outcome that is unknown ends with the session
		if !taken {
			return nil, time.Time{}, err
		}
		wait(ctx, jitter(lookAgain))
	}
}

// openOrResume connects to the server that answers others already.
func (s *Store) openOrResume(ctx context.Context, endpoint string, cfg store.SessionConfig) (*link, bool, error) {
	if id, ok := parseSessionID(cfg.Resume); ok {
		l, err := s.open(ctx, endpoint, cfg.TTL, id)
		if !errors.Is(err, zk.ErrSessionExpired) {
			return l, true, err
		}
	}
	l, err := s.open(ctx, endpoint, max(cfg.TTL, time.Millisecond), sessionID{})
	return l, false, err
}

// hold makes the key's two nodes, instead of those that a session which is taken over has from before. It returns when it asked for that.
func (x *session) hold(ctx context.Context, l *link, value []byte, resumed bool) (asked time.Time, err error) {
	s := x.s
	for look := resumed; ; look = true {
		var have fact
		if look {
			var owner uint64
			have, owner, err = x.holder(ctx, l)
			if err != nil {
				return asked, s.readError(l, "look for the key "+x.key.String(), err)
			}
			if have.exists && owner != x.id.id {
				return asked, &store.ConflictError{Key: x.key, Have: have.rev}
			}
		}
		asked = time.Now()
		rs, err := l.multi(ctx, x.claim(l, have, value)...)
		if err == nil {
			x.rev = store.Rev(rs[len(rs)-1].Stat.Mzxid)
			return asked, nil
		}
		var op *refusedOp
		if !errors.As(err, &op) || !raced(op.err) {
			return asked, s.writeError(l, err)
		}
		if errors.Is(err, zk.ErrNoNode) {
			if _, err := s.ensure(ctx, l, store.Alive); err != nil {
				return asked, s.readError(l, "make the partition", err)
			}
		}
	}
}

// claim is what makes the key.
func (x *session) claim(l *link, have fact, value []byte) []any {
	mark := newMark()
	x.sign = x.s.sign(x.key, mark)
	m := &multi{l: l}
	if have.exists {
		m.del(x.s.path(x.key), -1)
		m.del(have.sign, -1)
	}
	m.create(x.s.path(x.key), []byte(mark), zk.FlagEphemeral)
	m.create(x.sign, value, zk.FlagEphemeral)
	m.set(x.s.head(store.Alive), nil, -1)
	return m.ops
}

// holder returns the key, and the ZooKeeper session that holds it.
func (x *session) holder(ctx context.Context, l *link) (fact, uint64, error) {
	if err := l.sync(ctx, x.s.root); err != nil {
		return fact{}, 0, err
	}
	n, err := l.get(ctx, x.s.path(x.key))
	if errors.Is(err, zk.ErrNoNode) {
		return fact{}, 0, nil
	}
	if err != nil {
		return fact{}, 0, err
	}
	return fact{exists: true, rev: store.Rev(n.stat.Mzxid), sign: x.s.sign(x.key, string(n.data))}, uint64(n.stat.EphemeralOwner), nil
}

// run keeps the session alive. Done is closed one TTL after the last renewal that was answered, counted from when it was sent: the library
// itself would never say that a session is over before it has reached a server again.
func (x *session) run(ctx context.Context, l *link, last time.Time) {
	defer close(x.done)
	r := newRounds(x.s.cfg.Endpoints)
	r.at = max(slices.Index(r.endpoints, l.endpoint), 0) // the next one is another
	for gone := false; !gone; {
		left, cancel := context.WithDeadline(ctx, last.Add(x.ttl))
		began := time.Now()
		if l == nil {
			var err error
			if l, err = x.s.open(left, r.next(), x.ttl, x.id); errors.Is(err, zk.ErrSessionExpired) {
				gone = true
			}
		}
		if l != nil {
			gone = x.renew(ctx, l, &last)
			l.fail()
			x.s.drop(l, false)
			l = nil
		}
		if !gone {
			r.pause(left, time.Since(began) > stable)
		}
		gone = gone || left.Err() != nil && time.Since(last) >= x.ttl || ctx.Err() != nil
		cancel()
	}
}

// renew renews the session on one connection, as long as this lasts and time is left. It tells whether the key is gone.
func (x *session) renew(ctx context.Context, l *link, last *time.Time) (gone bool) {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := max(min(silence, x.ttl*3/4), x.ttl/2) // so that there is time for another server
	x.s.start(func() { l.alive(watching, limit) }, func() {})
	next := time.NewTimer(0)
	defer next.Stop()
	for time.Since(*last) < x.ttl {
		select {
		case <-ctx.Done():
			return false
		case <-l.down:
			return false
		case <-next.C:
		}
		sent := time.Now()
		call, cancel := context.WithDeadline(ctx, last.Add(x.ttl)) // a late answer counts, too
		held, err := x.held(call, l)
		cancel()
		switch {
		case err != nil:
			next.Reset(jitter(x.ttl / 10))
		case !held:
			return true
		default:
			*last = sent
			next.Reset(x.every)
		}
	}
	return false
}

// held makes the round trip that proves that the server knows the session, and that it still holds the key. A server that lags may not
// have heard of the key yet.
func (x *session) held(ctx context.Context, l *link) (bool, error) {
	st, err := l.stat(ctx, x.sign)
	if err == nil && st == nil {
		if err = l.sync(ctx, x.s.root); err == nil {
			st, err = l.stat(ctx, x.sign)
		}
	}
	return st != nil && uint64(st.EphemeralOwner) == x.id.id, err
}

func (x *session) ID() string            { return x.id.String() }
func (x *session) Alive() store.Cond     { return store.Cond{Key: x.key, Rev: x.rev} }
func (x *session) TTL() time.Duration    { return x.ttl }
func (x *session) Done() <-chan struct{} { return x.done }
func (x *session) Bound() time.Duration  { return x.ttl + x.late }

// Close deletes the key at once; the ZooKeeper session, which holds nothing then, ends by itself.
func (x *session) Close(ctx context.Context) error {
	x.Leave()
	ctx, cancel := x.s.bound(ctx)
	defer cancel()
	l, err := x.s.data.link(ctx)
	if err != nil {
		return err
	}
	m := &multi{l: l}
	m.del(x.sign, -1)
	m.del(x.s.path(x.key), -1)
	if _, err := l.multi(ctx, m.ops...); err != nil && !errors.Is(err, zk.ErrNoNode) {
		return x.s.readError(l, "end the session", err)
	}
	return nil
}

// Leave stops renewing and waits for that. The connection is cut without a good-bye, with which the server would end the session.
func (x *session) Leave() {
	x.stop()
	x.ended.Wait()
}
