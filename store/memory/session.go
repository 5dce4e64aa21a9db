package memory

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"weft/store"
)

// session is a key with a timer. Who overwrites or deletes the key parts the two, as on the other back ends: what comes to stand there then is
// not the session's to delete.
type session struct {
	client  *Client
	id      string
	key     store.Key
	rev     store.Rev
	ttl     time.Duration
	every   time.Duration // between renewals
	expires *time.Timer
	done    chan struct{}
	once    sync.Once
	left    bool // not renewed any more
	ended   bool // gone from the world
}

// OpenSession opens or takes over a session.
func (c *Client) OpenSession(ctx context.Context, cfg store.SessionConfig) (store.Session, error) {
	if cfg.TTL <= 0 {
		return nil, fmt.Errorf("memory: %w: a session needs a time to live", store.ErrInvalid)
	}
	t := store.Txn{If: []store.Cond{{Key: cfg.Key, Rev: store.Absent}}, Then: []store.Op{store.Put(cfg.Key, cfg.Value)}}
	if err := t.Check(); err != nil {
		return nil, err
	}
	w := c.world
	w.writes.Lock()
	defer w.writes.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := c.usableLocked(ctx); err != nil {
		return nil, err
	}
	old := w.sessions[cfg.Resume]
	if old != nil && old.key == cfg.Key && old.holdsLocked() {
		t.If[0].Rev = old.rev
	} else {
		old = nil
	}
	if err := w.refusedLocked(t); err != nil {
		return nil, err
	}
	w.lastID++
	s := &session{client: c, id: strconv.Itoa(w.lastID), key: cfg.Key, rev: w.applyLocked(t), ttl: cfg.TTL, every: cfg.Renewal(cfg.TTL), done: make(chan struct{})}
	if old != nil {
		s.id = old.id
		old.forgetLocked()
	}
	w.sessions[s.id] = s
	s.expires = time.AfterFunc(s.ttl, s.expire)
	c.wg.Go(s.renew)
	return s, nil
}

func (s *session) finish() { s.once.Do(func() { close(s.done) }) }

// renew pushes the timer on while the client reaches the world.
func (s *session) renew() {
	defer s.finish()
	t := time.NewTicker(s.every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-s.done:
			return
		case <-s.client.closed:
			return
		}
		w := s.client.world
		w.mu.Lock()
		if !s.client.cut && !s.ended && !s.left {
			s.expires.Reset(s.ttl)
		}
		w.mu.Unlock()
	}
}

// expire deletes the key: nobody has renewed the session.
func (s *session) expire() {
	w := s.client.world
	w.writes.Lock()
	defer w.writes.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	s.endLocked()
}

// holdsLocked tells whether the key is still the session's.
func (s *session) holdsLocked() bool {
	return !s.ended && s.client.world.data[s.key].Rev == s.rev
}

// endLocked ends the session and deletes its key. The caller holds writes too.
func (s *session) endLocked() {
	held := s.holdsLocked()
	s.forgetLocked()
	if held {
		s.client.world.applyLocked(store.Txn{Then: []store.Op{store.Del(s.key)}})
	}
}

// forgetLocked ends the session and leaves its key as it is.
func (s *session) forgetLocked() {
	if s.client.world.sessions[s.id] == s {
		delete(s.client.world.sessions, s.id)
	}
	s.ended = true
	s.expires.Stop()
	s.finish()
}

func (s *session) ID() string            { return s.id }
func (s *session) Alive() store.Cond     { return store.Cond{Key: s.key, Rev: s.rev} }
func (s *session) TTL() time.Duration    { return s.ttl }
func (s *session) Bound() time.Duration  { return s.ttl }
func (s *session) Done() <-chan struct{} { return s.done }

// Close ends the session.
func (s *session) Close(ctx context.Context) error {
	w := s.client.world
	w.writes.Lock()
	defer w.writes.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := s.client.usableLocked(ctx); err != nil {
		return err
	}
	s.endLocked()
	return nil
}

// Leave stops renewing. The key stays for what is left of its TTL.
func (s *session) Leave() {
	s.client.world.mu.Lock()
	s.left = true
	s.client.world.mu.Unlock()
	s.finish()
}
