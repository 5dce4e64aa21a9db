package relay

import (
	"context"
	"sync"
	"time"

	"weft/store"
)

// session is a session of whichever store the relay leads to.
type session struct {
	relay *Relay
	key   store.Key
	done  chan struct{}
	once  sync.Once

	mu  sync.Mutex // guards now; taken under the relay's mu, and never the other way round
	now store.Session
}

// OpenSession opens a session in the current store.
func (r *Relay) OpenSession(ctx context.Context, cfg store.SessionConfig) (store.Session, error) {
	l, done := r.use()
	defer done()
	now, err := l.OpenSession(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &session{relay: r, key: cfg.Key, done: make(chan struct{}), now: now}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leg != l || r.isClosed() { // the records have moved meanwhile: it holds nothing that counts
		now.Leave()
		s.finish()
		return s, nil
	}
	r.sessions[s] = true
	r.wg.Go(s.awaitEnd(now))
	return s, nil
}

// awaitEnd ends the session with the one that it is now, unless another has taken its place.
func (s *session) awaitEnd(now store.Session) func() {
	return func() {
		select {
		case <-now.Done():
		case <-s.done:
			return
		case <-s.relay.closed:
		}
		s.mu.Lock()
		current := s.now == now
		s.mu.Unlock()
		if current {
			s.forget()
		}
	}
}

// forget ends it for its holder.
func (s *session) forget() {
	s.relay.mu.Lock()
	delete(s.relay.sessions, s)
	s.relay.mu.Unlock()
	s.finish()
}

func (s *session) finish() { s.once.Do(func() { close(s.done) }) }

// replace puts another session in its place and returns the one before. The caller has the relay's mu.
func (s *session) replace(by store.Session) store.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.now
	s.now = by
	return old
}

// end ends it, and returns the session that it was. The caller has the relay's mu.
func (s *session) end() store.Session {
	delete(s.relay.sessions, s)
	s.finish()
	return s.current()
}

func (s *session) current() store.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *session) ID() string            { return s.current().ID() }
func (s *session) Alive() store.Cond     { return s.current().Alive() }
func (s *session) TTL() time.Duration    { return s.current().TTL() }
func (s *session) Bound() time.Duration  { return s.current().Bound() }
func (s *session) Done() <-chan struct{} { return s.done }

// Close ends the session.
func (s *session) Close(ctx context.Context) error {
	s.forget()
	return s.current().Close(ctx)
}

// Leave stops renewing.
func (s *session) Leave() {
	s.forget()
	s.current().Leave()
}
