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
	probeWait  = 2 * time.Second
	probeAgain = 250 * time.Millisecond
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
	l.now, l.end = context.WithCancel(context.Background())
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
			pause(ctx, probeAgain+rand.N(3*probeAgain), nil)
			continue
		case !well, s.link.current.Load() != endpoint, now < rev:
			s.link.newEra()
		}
		well, endpoint, rev = true, s.link.current.Load(), now
		pause(ctx, probeEvery, nil)
	}
}

// ask returns the newest index that the endpoint in use knows. An answer that refuses is one, too.
func (s *Store) ask(ctx context.Context) (store.Rev, error) {
	ctx, cancel := context.WithTimeout(withKind(ctx, wait), probeWait)
	defer cancel()
	_, m, err := s.cli.KV().Get(s.link.probeKey, (&api.QueryOptions{}).WithContext(ctx))
	var st *statusError
	switch {
	case err == nil:
		return store.Rev(m.LastIndex), nil
	case errors.As(err, &st) && st.code/100 == 4:
		return 0, nil
	}
	return 0, err
}
