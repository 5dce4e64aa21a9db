package agent

import (
	"context"
	"errors"
	"time"

	"weft/store"
	"weft/store/record"
)

// listed tells whether the store has this host's record: a store that was put back from a backup may not.
func (m *member) listed(self record.Host) bool {
	h, ok := m.picture().Host(self.ID)
	return ok && h.Incarnation == self.Incarnation && h.VTEP == self.VTEP
}

// signed tells whether a picture shows this agent's sign of life, which its session holds.
func (m *member) signed(p *record.Snapshot) bool {
	l, ok := p.Alive(m.identity().Host)
	return ok && l.Instance == m.instance
}

// unsigned tells whether the store has this agent's sign of life no more, though its session lasts: somebody has deleted it, alone or with all else,
// and the records came back without it. The session is of no use then.
func (m *member) unsigned(ctx context.Context) bool {
	if m.signed(m.picture()) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	e, err := m.store.Get(ctx, record.AliveKey(m.identity().Host))
	l := &record.Liveness{}
	return errors.Is(err, store.ErrNotFound) || err == nil && (record.Decode(e.Value, l) != nil || l.Instance != m.instance)
}

// away tells that this host is no member of its cluster, and knows why: who asks need not wait.
func (m *member) away() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.actor == nil && m.why != nil
}

// turned is closed when this host's standing may have changed.
func (m *member) turned() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// lookAgain makes the member compare its record with the store's now.
func (m *member) lookAgain() { signal(m.look) }

// standing is how this host stands with its store: whether it is a member and since when, why not, and what its last session was granted.
type standing struct {
	joined     bool
	since      time.Time
	why        error
	ttl, bound time.Duration // bound is 0 before the first session
}

func (m *member) standing() standing {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.actor != nil { // the session may be another store's by now
		m.granted = [2]time.Duration{m.actor.Session.TTL(), m.actor.Session.Bound()}
	}
	s := standing{joined: m.actor != nil, since: m.since, why: m.why, ttl: m.granted[0], bound: m.granted[1]}
	if s.bound == 0 {
		s.ttl = m.ttl
	}
	return s
}
