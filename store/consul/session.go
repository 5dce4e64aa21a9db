package consul

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

const (
	// minTTL is the floor of a session's time to live in Consul's own configuration (session_ttl_min).
	minTTL = 10 * time.Second
	// lateness is how much later than twice the time to live, which is when Consul ends a session, its key is gone.
	lateness = 2 * time.Second
	// lockDelay is the shortest; 0 would mean Consul's default of 15 s, in which a key whose session ended cannot be taken.
	lockDelay = time.Millisecond
	// destroyWait is how long a call that failed waits to take its session back.
	destroyWait = time.Second
	// sessionNode is the node that sessions belong to, in Consul's catalog.
	sessionNode = "weft"
	// minCall is the least time for a renewal to be answered.
	minCall = 500 * time.Millisecond
)

// session is a Consul session with one key.
type session struct {
	s     *Store
	key   store.Key
	id    string
	rev   store.Rev
	ttl   time.Duration
	every time.Duration // between renewals
	done  chan struct{}
	stop  context.CancelFunc
	ended sync.WaitGroup
}

// OpenSession creates a session, or renews the one to take over, and binds the key to it.
func (s *Store) OpenSession(ctx context.Context, cfg store.SessionConfig) (store.Session, error) {
	check := store.Txn{Then: []store.Op{store.Put(cfg.Key, cfg.Value)}}
	if err := check.Check(); err != nil {
		return nil, err
	}
	if cfg.Key.Partition != store.Alive {
		return nil, fmt.Errorf("%w: a session's key is in partition %s, not %s", store.ErrInvalid, store.Alive, cfg.Key.Partition)
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.identify(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	x := &session{s: s, key: cfg.Key, ttl: max(cfg.TTL, minTTL), done: make(chan struct{})}
	resumed, err := x.takeOver(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if !resumed {
		if err := x.create(ctx); err != nil {
			return nil, s.notApplied("open a session", err)
		}
	}
	if err := x.bind(ctx, cfg.Value, resumed); err != nil {
		if !resumed {
			err = errors.Join(err, x.destroy(ctx))
		}
		return nil, err
	}
	x.every = cfg.Renewal(x.ttl)
	x.run(began)
	return x, nil
}

// run renews until Leave, Close or the end.
func (x *session) run(began time.Time) {
	ctx, stop := context.WithCancel(x.s.ctx)
	x.stop = stop
	x.ended.Add(1)
	ok := x.s.start(func() {
		defer x.ended.Done()
		x.renew(ctx, began)
	})
	if !ok {
		x.ended.Done()
		close(x.done)
	}
}

// create makes a session of the catalog's node for that, or where rights for it are missing, of the node whose agent is spoken to.
func (x *session) create(ctx context.Context) error {
	err := x.s.registerNode(ctx)
	if err == nil {
		err = x.createOn(ctx, sessionNode)
	}
	if err != nil && refused(err) {
		x.s.log.Debug("sessions belong to the node of Consul's agent", "reason", reason(err))
		err = x.createOn(ctx, "")
	}
	return err
}

func (x *session) createOn(ctx context.Context, node string) error {
	return x.s.withToken(func() error {
		id, _, err := x.s.cli.Session().CreateNoChecks(&api.SessionEntry{
			Name: "weft " + x.key.String(), Node: node, TTL: x.ttl.String(), Behavior: api.SessionBehaviorDelete, LockDelay: lockDelay,
		}, (&api.WriteOptions{}).WithContext(withKind(ctx, write)))
		x.id = id
		return err
	})
}

// registerNode puts a node into Consul's catalog that is none of its own. A session ends with its node, and Consul takes the nodes of servers
// that fail out of the catalog: hosts that live would lose their sessions with a server that they happened to speak to.
func (s *Store) registerNode(ctx context.Context) error {
	return s.withToken(func() error {
		_, err := s.cli.Catalog().Register(&api.CatalogRegistration{
			Node: sessionNode, Address: "127.0.0.1", NodeMeta: map[string]string{"external-node": "true"},
		}, (&api.WriteOptions{}).WithContext(withKind(ctx, read)))
		return err
	})
}

// takeOver tells whether the session to resume still holds the key, and is renewed.
func (x *session) takeOver(ctx context.Context, cfg store.SessionConfig) (bool, error) {
	if cfg.Resume == "" {
		return false, nil
	}
	got, err := x.s.read(ctx, &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: x.s.path(x.key)})
	if err != nil {
		return false, x.s.readError("look for the session to resume", err)
	}
	if got[0].Session == "" || got[0].Session != cfg.Resume {
		return false, nil
	}
	x.id = cfg.Resume
	ttl, err := x.touch(ctx)
	if err != nil {
		return false, x.s.readError("resume the session", err)
	}
	if ttl == 0 {
		return false, nil
	}
	x.ttl = ttl
	return true, nil
}

// touch renews the session and returns its time to live, 0 if it has ended.
func (x *session) touch(ctx context.Context) (ttl time.Duration, err error) {
	err = x.s.withToken(func() error {
		e, _, err := x.s.cli.Session().Renew(x.id, (&api.WriteOptions{}).WithContext(withKind(ctx, read)))
		if err != nil || e == nil {
			return err
		}
		if ttl, err = time.ParseDuration(e.TTL); err != nil {
			return fmt.Errorf("the session's time to live: %w", err)
		}
		return nil
	})
	return ttl, err
}

// bind writes the key: nobody holds it, or this session does.
func (x *session) bind(ctx context.Context, value []byte, resumed bool) error {
	path := x.s.path(x.key)
	build := func() *plan {
		p, nonce := &plan{}, rand.Uint64()
		held := &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: path}
		if resumed {
			held = &api.KVTxnOp{Verb: api.KVCheckSession, Key: path, Session: x.id}
		}
		p.add(held)
		p.add(&api.KVTxnOp{Verb: api.KVLock, Key: path, Value: value, Flags: nonce, Session: x.id})
		x.s.note(p, nonce, []store.Op{store.Put(x.key, value)})
		return p
	}
	for try := 1; ; try++ {
		_, rev, failed, err := x.s.commit(ctx, build)
		switch {
		case err != nil:
			return x.s.writeError(err)
		case failed == nil:
			x.rev = rev
			return nil
		}
		conflict, err := x.s.conflict(ctx, []store.Cond{{Key: x.key, Rev: store.Absent}})
		if err != nil {
			return x.s.readError("find out who holds "+x.key.String(), err)
		}
		if conflict != nil {
			return conflict
		}
		if try == attempts || resumed {
			return &store.ConflictError{Key: x.key}
		}
		pause(ctx, 2*lockDelay, nil) // the key went a moment ago
	}
}

// renew keeps the session alive. Done is closed one TTL after the last renewal that was answered, counted from when it was sent.
func (x *session) renew(ctx context.Context, last time.Time) {
	defer close(x.done)
	next, well := x.every, true
	for {
		left := time.Until(last.Add(x.ttl))
		if left <= 0 {
			return
		}
		var back <-chan struct{}
		if !well {
			back = x.s.link.era().Done()
		}
		if pause(ctx, min(next, left), back); ctx.Err() != nil {
			return
		}
		sent := time.Now()
		ttl, err := x.renewOnce(ctx, last.Add(x.ttl))
		switch well = err == nil; {
		case well && ttl == 0:
			return
		case well:
			last, next = sent, x.every
		default:
			next = x.ttl/20 + rand.N(x.ttl/20)
		}
	}
}

func (x *session) renewOnce(ctx context.Context, end time.Time) (time.Duration, error) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, max(x.every, minCall))
	defer cancel()
	return x.touch(ctx)
}

func (x *session) ID() string            { return x.id }
func (x *session) Alive() store.Cond     { return store.Cond{Key: x.key, Rev: x.rev} }
func (x *session) TTL() time.Duration    { return x.ttl }
func (x *session) Bound() time.Duration  { return 2*x.ttl + lateness }
func (x *session) Done() <-chan struct{} { return x.done }

// Close deletes the key, so that watches hear of it by the journal, and then ends the session.
func (x *session) Close(ctx context.Context) error {
	x.Leave()
	ctx, cancel := x.s.bound(ctx)
	defer cancel()
	path := x.s.path(x.key)
	_, _, _, err := x.s.commit(ctx, func() *plan {
		p := &plan{}
		p.add(&api.KVTxnOp{Verb: api.KVCheckSession, Key: path, Session: x.id}) // which may have ended
		p.add(&api.KVTxnOp{Verb: api.KVDelete, Key: path})
		x.s.note(p, rand.Uint64(), []store.Op{store.Del(x.key)})
		return p
	})
	if err != nil {
		return x.s.readError("end the session", err)
	}
	if err := x.end(ctx); err != nil {
		return x.s.readError("end the session", err)
	}
	return nil
}

// end destroys the session; one that has ended is none.
func (x *session) end(ctx context.Context) error {
	return x.s.withToken(func() error {
		_, err := x.s.cli.Session().Destroy(x.id, (&api.WriteOptions{}).WithContext(withKind(ctx, read)))
		return err
	})
}

// destroy takes back a session that was made for nothing: a key that it may hold would stand in the way of the next try.
func (x *session) destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyWait)
	defer cancel()
	if err := x.end(ctx); err != nil {
		return fmt.Errorf("take the session back: %s", reason(err))
	}
	return nil
}

// Leave stops renewing and waits for that.
func (x *session) Leave() {
	x.stop()
	x.ended.Wait()
}
