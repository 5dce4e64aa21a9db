package consul

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// Times of the probe.
const (
	probeEvery = 2500 * time.Millisecond
	indexEvery = 4 // times
	probeWait  = 2 * time.Second
	probeAgain = 250 * time.Millisecond
	downRetry  = 30 * time.Second // of who does not hear from the probe
)

// era ends when the way to the store is there again, or the store is another one: what was asked before may never be answered.
func (l *link) era() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *link) newEra() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
	l.down = false
	l.now, l.end = context.WithCancel(context.Background())
}

func (l *link) isDown() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}

// inTrouble is told by who got an error. trouble tells of that once.
func (l *link) inTrouble() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors = true
}

func (l *link) trouble() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.errors
	l.errors = false
	return out
}

func (l *link) goDown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
}

// pause is between two tries of a feed or a watch. While the probe gets no answer it is the only one that asks, and then wakes all: many
// watches do not make many tries.
func (l *link) pause(retry time.Duration) time.Duration {
	l.inTrouble()
	if l.isDown() {
		return downRetry
	}
	return retry/2 + rand.N(retry)
}

// probe looks, while there are feeds, whether the way to the store is well. A blocking query does not show that: on a connection that was cut
// without a word, or through a server to a leader that is frozen, it stays silent for long after the store is there again.
type probe struct {
	s        *Store
	well     bool
	endpoint int32
	leader   string
	newest   store.Rev
	count    int
}

func (s *Store) probe(ctx context.Context) {
	p := &probe{s: s, well: true, endpoint: s.link.current.Load()}
	for ctx.Err() == nil {
		if err := p.look(ctx); err != nil {
			p.well = false
			s.link.goDown()
			if n := len(s.link.endpoints); n > 1 {
				at := s.link.current.Load()
				s.link.current.CompareAndSwap(at, (at+1)%int32(n))
			}
			pause(ctx, probeAgain+rand.N(3*probeAgain), nil)
			continue
		}
		pause(ctx, probeEvery, nil)
	}
}

// look asks the endpoint in use who leads, and now and then, or after trouble, for the newest index. A new era begins when one of these is
// another one than before, or it is well again.
func (p *probe) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(withKind(ctx, wait), probeWait)
	defer cancel()
	endpoint := p.s.link.current.Load()
	leader, err := p.s.cli.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	switch {
	case err != nil:
		return err
	case leader == "":
		return errNoLeader
	}
	same := p.well && endpoint == p.endpoint && (p.leader == "" || leader == p.leader)
	if p.count%indexEvery == 0 || !same || p.s.link.trouble() {
		newest, err := p.index(ctx)
		if err != nil {
			return err
		}
		same, p.newest = same && newest >= p.newest, newest
	}
	if !same {
		p.s.link.newEra()
	}
	p.well, p.endpoint, p.leader = true, endpoint, leader
	p.count++
	return nil
}

var errNoLeader = errors.New("nobody leads")

// index is the newest that is known; it goes back when the store is another one. It takes a leader, and the right to read.
func (p *probe) index(ctx context.Context) (rev store.Rev, err error) {
	err = p.s.withToken(func() error {
		_, m, err := p.s.cli.KV().Get(p.s.link.probeKey, (&api.QueryOptions{}).WithContext(ctx))
		if err == nil {
			rev = store.Rev(m.LastIndex)
		}
		return err
	})
	return rev, err
}
