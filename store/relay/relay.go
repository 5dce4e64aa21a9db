// Package relay is a store whose records can move to another back end while it is used: whoever holds it goes on with the new one. It stands
// between the agent and its back end, at the head of the flow.
//
// After a switch, reads and transactions go to the new store; a watch delivers the exact difference between what it had delivered and what
// the new store has, as a batch that says that revisions begin anew; a session goes on as the one that was opened in the new store before.
// What makes that safe is not here: the records must be in the new store, whole, and nobody may write to the old one any more.
package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"weft/store"
)

// Relay is a store that leads to another one.
type Relay struct {
	wg     sync.WaitGroup // watches, and those who wait for sessions' ends; Add only under mu while it is not closed
	closed chan struct{}

	mu       sync.Mutex // guards what follows; never held across a call of a store
	leg      *leg
	sessions map[*session]bool
}

// leg is one store that a relay has led to.
type leg struct {
	store.Store
	over  context.Context // ends when the relay leads elsewhere
	end   context.CancelFunc
	calls sync.WaitGroup // under way; Add only under the relay's mu while it is the current leg
}

func newLeg(s store.Store) *leg {
	l := &leg{Store: s}
	l.over, l.end = context.WithCancel(context.Background())
	return l
}

var (
	_ store.Store       = (*Relay)(nil)
	_ store.Partitioner = (*Relay)(nil)
)

// New returns a relay that leads to s, which is its own from now on.
func New(s store.Store) *Relay {
	return &Relay{closed: make(chan struct{}), leg: newLeg(s), sessions: map[*session]bool{}}
}

// use returns the current leg, which is not closed before done is called.
func (r *Relay) use() (l *leg, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leg.calls.Add(1)
	return r.leg, r.leg.calls.Done
}

func (r *Relay) isClosed() bool {
	select {
	case <-r.closed:
		return true
	default:
		return false
	}
}

// Get returns an entry of the current store.
func (r *Relay) Get(ctx context.Context, k store.Key) (store.Entry, error) {
	l, done := r.use()
	defer done()
	return l.Get(ctx, k)
}

// List lists a partition of the current store.
func (r *Relay) List(ctx context.Context, partition string) (store.Snapshot, error) {
	l, done := r.use()
	defer done()
	return l.List(ctx, partition)
}

// Txn applies a transaction to the current store.
func (r *Relay) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	l, done := r.use()
	defer done()
	return l.Txn(ctx, t)
}

// Status is that of the current store.
func (r *Relay) Status(ctx context.Context) (store.Status, error) {
	l, done := r.use()
	defer done()
	return l.Status(ctx)
}

// Partitions are those of the current store; errors.ErrUnsupported where it cannot tell.
func (r *Relay) Partitions(ctx context.Context) ([]string, error) {
	l, done := r.use()
	defer done()
	p, ok := l.Store.(store.Partitioner)
	if !ok {
		return nil, fmt.Errorf("list the partitions: %w", errors.ErrUnsupported)
	}
	return p.Partitions(ctx)
}

// Switch makes the relay lead to another store, which is its own from now on. opened are sessions that were opened there: each takes the place
// of the one with its key; one for which there is none is closed. Sessions in the old store are left to their end, since others may still look
// there. The old store is returned when nothing uses it any more, for the caller to close.
func (r *Relay) Switch(ctx context.Context, to store.Store, opened ...store.Session) (store.Store, error) {
	r.mu.Lock()
	if r.isClosed() {
		r.mu.Unlock()
		return nil, store.ErrClosed
	}
	old := r.leg
	r.leg = newLeg(to)
	spare := append([]store.Session(nil), opened...)
	var left []store.Session
	for s := range r.sessions {
		i := indexOf(spare, s.key)
		if i < 0 {
			left = append(left, s.end())
			continue
		}
		left = append(left, s.replace(spare[i]))
		r.wg.Go(s.awaitEnd(spare[i]))
		spare = append(spare[:i], spare[i+1:]...)
	}
	r.mu.Unlock()
	old.end()
	for _, s := range left {
		s.Leave()
	}
	var err error
	for _, s := range spare {
		err = errors.Join(err, s.Close(ctx))
	}
	old.calls.Wait() // each has a deadline
	return old.Store, err
}

func indexOf(ss []store.Session, k store.Key) int {
	for i, s := range ss {
		if s.Alive().Key == k {
			return i
		}
	}
	return -1
}

// Close closes the current store.
func (r *Relay) Close() error {
	r.mu.Lock()
	if r.isClosed() {
		r.mu.Unlock()
		r.wg.Wait()
		return nil
	}
	close(r.closed)
	l := r.leg
	r.mu.Unlock()
	err := l.Store.Close()
	l.end()
	r.wg.Wait()
	return err
}
