package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/store"
)

// minTTL is etcd's floor of a lease's time to live with its default election timeout.
const minTTL = 2 * time.Second

// sweep is how much later than its end etcd deletes the keys of a lease, at the most, while it has a leader.
const sweep = time.Second

// revokeWait is how long the call that failed waits for that.
const revokeWait = time.Second

// session is a lease with one key.
type session struct {
	s     *Store
	key   store.Key
	lease clientv3.LeaseID
	rev   store.Rev
	ttl   time.Duration
	every time.Duration // between renewals
	asked time.Time     // before the lease was granted or taken over: its time runs from then on at the earliest
	done  chan struct{}
	stop  context.CancelFunc
	ended sync.WaitGroup
}

// OpenSession grants a lease, or renews the one to take over, and binds the key to it.
func (s *Store) OpenSession(ctx context.Context, cfg store.SessionConfig) (store.Session, error) {
	check := store.Txn{Then: []store.Op{store.Put(cfg.Key, cfg.Value)}}
	if err := check.Check(); err != nil {
		return nil, err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.connected(ctx); err != nil {
		return nil, err
	}
	ctx, free := s.seat.hold(ctx)
	defer free()
	asked := time.Now()
	lease, ttl, err := s.takeOver(ctx, cfg)
	if err != nil {
		return nil, err
	}
	granted := lease == 0
	if granted {
		asked = time.Now()
		g, err := s.cli.Grant(ctx, int64((max(cfg.TTL, minTTL)+time.Second-1)/time.Second))
		if err != nil {
			return nil, s.readError("open a session", err)
		}
		lease, ttl = g.ID, time.Duration(g.TTL)*time.Second
	}
	p := s.path(cfg.Key)
	held := clientv3.Compare(clientv3.CreateRevision(p), "=", 0)
	if !granted {
		held = clientv3.Compare(clientv3.LeaseValue(p), "=", lease)
	}
	r, err := s.cli.Txn(ctx).If(held).Then(clientv3.OpPut(p, string(cfg.Value), clientv3.WithLease(lease))).Else(clientv3.OpGet(p)).Commit()
	switch {
	case err != nil:
		return nil, errors.Join(s.writeError(err), s.revoke(ctx, lease, granted))
	case !r.Succeeded:
		return nil, errors.Join(conflictOf(cfg.Key, r), s.revoke(ctx, lease, granted))
	}
	x := &session{s: s, key: cfg.Key, lease: lease, rev: store.Rev(r.Header.Revision), ttl: ttl, every: cfg.Renewal(ttl), asked: asked, done: make(chan struct{})}
	renew, stop := context.WithCancel(s.ctx)
	x.stop = stop
	x.ended.Add(1)
	s.start(func() {
		defer x.ended.Done()
		x.renew(renew)
	}, func() {
		x.ended.Done()
		close(x.done)
	})
	return x, nil
}

func conflictOf(k store.Key, r *clientv3.TxnResponse) error {
	have := store.Absent
	if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		have = store.Rev(kvs[0].ModRevision)
	}
	return &store.ConflictError{Key: k, Have: have}
}

// takeOver returns the lease to resume if it still holds the key, 0 if there is none.
func (s *Store) takeOver(ctx context.Context, cfg store.SessionConfig) (clientv3.LeaseID, time.Duration, error) {
	if cfg.Resume == "" {
		return 0, 0, nil
	}
	n, err := strconv.ParseInt(cfg.Resume, 16, 64)
	if err != nil {
		return 0, 0, nil // another back end's
	}
	lease := clientv3.LeaseID(n)
	g, err := s.cli.Get(ctx, s.path(cfg.Key))
	if err != nil {
		return 0, 0, s.readError("look for the session to resume", err)
	}
	if len(g.Kvs) == 0 || clientv3.LeaseID(g.Kvs[0].Lease) != lease {
		return 0, 0, nil
	}
	k, err := s.cli.KeepAliveOnce(ctx, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, s.readError("resume the session", err)
	}
	return lease, time.Duration(k.TTL) * time.Second, nil
}

// revoke takes back a lease that was granted for nothing: a key that it may hold would stand in the way of the next try for a TTL.
func (s *Store) revoke(ctx context.Context, lease clientv3.LeaseID, ours bool) error {
	if !ours {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeWait)
	defer cancel()
	if _, err := s.cli.Revoke(ctx, lease); err != nil {
		return fmt.Errorf("revoke the lease: %w", err)
	}
	return nil
}

// renew keeps the lease alive. Done is closed a little less than one TTL after the last renewal that was answered, counted from when it was
// sent: who waits for it must hear of it before others hear that the key has gone.
func (x *session) renew(ctx context.Context) {
	defer close(x.done)
	last, life := x.asked, x.ttl-x.ttl/20
	t := time.NewTimer(time.Until(last.Add(x.every)))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		sent := time.Now()
		r, err := x.once(ctx, last.Add(life))
		switch {
		case err == nil && r.TTL > 0:
			last = sent
			t.Reset(x.every)
			continue
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return
		}
		x.s.suspect(err)
		left := life - time.Since(last)
		if left <= 0 {
			return
		}
		t.Reset(min(left, x.ttl/20+rand.N(x.ttl/10)))
	}
}

// once renews the lease. It does not wait longer than the session lives.
func (x *session) once(ctx context.Context, end time.Time) (*clientv3.LeaseKeepAliveResponse, error) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	ctx, cancelCall := context.WithTimeout(ctx, max(x.every, 500*time.Millisecond))
	defer cancelCall()
	ctx, free := x.s.seat.hold(ctx)
	defer free()
	return x.s.cli.KeepAliveOnce(ctx, x.lease)
}

func (x *session) ID() string            { return strconv.FormatInt(int64(x.lease), 16) }
func (x *session) Alive() store.Cond     { return store.Cond{Key: x.key, Rev: x.rev} }
func (x *session) TTL() time.Duration    { return x.ttl }
func (x *session) Bound() time.Duration  { return x.ttl + sweep }
func (x *session) Done() <-chan struct{} { return x.done }

// Close revokes the lease, and with it the key.
func (x *session) Close(ctx context.Context) error {
	x.Leave()
	ctx, cancel := x.s.bound(ctx)
	defer cancel()
	if _, err := x.s.cli.Revoke(ctx, x.lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return x.s.readError("end the session", err)
	}
	return nil
}

// Leave stops renewing and waits for that.
func (x *session) Leave() {
	x.stop()
	x.ended.Wait()
}
