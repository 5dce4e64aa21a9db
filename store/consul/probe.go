package consul

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// Times of the probe.
const (
	probeEvery = 2500 * time.Millisecond
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

func (l *link) goDown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
}

// pause is between two tries of a feed or a watch. While the probe gets no answer it is the only one that asks, and then wakes all: many
// watches do not make many tries.
func (l *link) pause(retry time.Duration) time.Duration {
	if l.isDown() {
		return downRetry
	}
	return retry/2 + rand.N(retry)
}

// probe looks, while there are feeds, whether the endpoint in use answers and its history has not gone back. A blocking query shows neither: a
// connection that was cut without a word stays silent until TCP tries again, which after a long cut is too late.
func (s *Store) probe(ctx context.Context) {
	well, endpoint, rev := true, s.link.current.Load(), store.Rev(0)
	for ctx.Err() == nil {
		now, err := s.ask(ctx)
		switch {
		case err != nil:
			if n := len(s.link.endpoints); n > 1 {
				at := s.link.current.Load()
				s.link.current.CompareAndSwap(at, (at+1)%int32(n))
			}
			well = false
			s.link.goDown()
			pause(ctx, probeAgain+rand.N(3*probeAgain), nil)
			continue
		case !well, s.link.current.Load() != endpoint, now < rev:
			s.link.newEra()
		}
		well, endpoint, rev = true, s.link.current.Load(), now
		pause(ctx, probeEvery, nil)
	}
}

// ask returns the newest index that the endpoint in use knows.
func (s *Store) ask(ctx context.Context) (rev store.Rev, err error) {
	ctx, cancel := context.WithTimeout(withKind(ctx, wait), probeWait)
	defer cancel()
	err = s.withToken(func() error {
		_, m, err := s.cli.KV().Get(s.link.probeKey, (&api.QueryOptions{}).WithContext(ctx))
		if err == nil {
			rev = store.Rev(m.LastIndex)
		}
		return err
	})
	return rev, err
}
