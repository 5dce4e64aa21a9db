package zk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"weft/store"
)

const (
	// dataTimeout is that of the session on the data connection, which holds nothing: the library pings three times in it.
	dataTimeout = 4 * time.Second
	// connectWait is how long a call waits for a connection. A call that never had one was surely not applied, and fails soon.
	connectWait = time.Second
	// Back-off when no endpoint answers, before jitter.
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
	// stable is how long a connection must last to count as a success.
	stable = 2 * time.Second
)

// keeper keeps one connection up, to one endpoint after the other.
type keeper struct {
	s *Store

	mu      sync.Mutex // guards what follows
	current *link
	changed chan struct{} // closed when current or why changes
	why     error         // that there is no connection
}

func newKeeper(s *Store) *keeper { return &keeper{s: s, changed: make(chan struct{})} }

func (k *keeper) set(l *link, why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current, k.why = l, why
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *keeper) get() (*link, <-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current, k.changed, k.why
}

// link returns the connection, or an error if there is none for a while.
func (k *keeper) link(ctx context.Context) (*link, error) {
	var timeout <-chan time.Time
	for {
		l, changed, why := k.get()
		if k.s.ctx.Err() != nil {
			return nil, store.ErrClosed
		}
		if l != nil && !isClosed(l.down) {
			return l, nil
		}
		if timeout == nil {
			t := time.NewTimer(connectWait)
			defer t.Stop()
			timeout = t.C
		}
		var err error
		select {
		case <-changed:
			continue
		case <-k.s.ctx.Done():
			return nil, store.ErrClosed
		case <-timeout:
			err = errors.New("no connection yet")
		case <-ctx.Done():
			err = ctx.Err()
		}
		if why != nil {
			err = why
		}
		return nil, k.s.readError(nil, "connect", err)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// run connects, again and again, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	r := newRounds(k.s.cfg.Endpoints)
	for ctx.Err() == nil {
		began := time.Now()
		l, err := k.s.open(ctx, r.next(), dataTimeout, sessionID{})
		if err == nil {
			err = k.serve(ctx, l)
			k.s.drop(l, ctx.Err() != nil)
		}
		if ctx.Err() != nil {
			return
		}
		k.set(nil, err)
		k.s.log.Debug("the connection to the store is down", slog.Any("error", err))
		r.pause(ctx, time.Since(began) > stable)
	}
}

// serve lets callers use the connection while it lasts.
func (k *keeper) serve(ctx context.Context, l *link) error {
	call, cancel := context.WithTimeout(ctx, loginTimeout)
	err := l.sync(call, k.s.root) // what the last one had shown is not taken back
	cancel()
	if err != nil {
		return err
	}
	k.s.log.Debug("the store is connected", l.attr())
	k.set(l, nil)
	l.alive(ctx, silence)
	return fmt.Errorf("%s: %w", l.endpoint, l.wire.reason())
}

// rounds walks over the endpoints, and waits longer after each round in vain.
type rounds struct {
	endpoints []string
	at        int
	failed    int
}

func newRounds(endpoints []string) *rounds {
	return &rounds{endpoints: endpoints, at: rand.N(len(endpoints))}
}

func (r *rounds) next() string {
	r.at = (r.at + 1) % len(r.endpoints)
	return r.endpoints[r.at]
}

// pause waits before the next endpoint is tried. The first time, another one may be tried at once.
func (r *rounds) pause(ctx context.Context, lasted bool) {
	if lasted {
		r.failed = 0
	}
	r.failed++
	if r.failed < len(r.endpoints) {
		return
	}
	n := min(r.failed-len(r.endpoints), 10)
	wait(ctx, jitter(min(firstPause<<n, lastPause)/time.Duration(len(r.endpoints))))
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
