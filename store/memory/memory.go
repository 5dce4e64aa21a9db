// Package memory is a store in this process: several clients over one shared world, for tests, simulations and (below store/local) one
// host's file. It keeps every promise of package store, in virtual time too, and breaks on demand: a client can be cut off, lose its watch
// history or not hear of an outcome, a session can expire early, the whole world can go back to what it was.
package memory

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"weft/store"
)

// World is the cluster's data, shared by its clients.
type World struct {
	// writes is the queue of writers. Who holds it may do I/O (store/local does), so readers never take it. Order: writes before mu.
	writes sync.Mutex

	mu       sync.Mutex // guards all below and all fields of clients, watchers and sessions; never held across I/O
	id       string
	rev      store.Rev
	data     map[store.Key]store.Entry
	watchers map[*watcher]bool
	sessions map[string]*session
	lastID   int
}

// New returns an empty world.
func New() *World {
	return &World{
		id: rand.Text(), data: map[store.Key]store.Entry{}, watchers: map[*watcher]bool{}, sessions: map[string]*session{},
	}
}

// Client returns a new client of the world.
func (w *World) Client() *Client { return &Client{world: w, closed: make(chan struct{})} }

// Client is one agent's view of the world: a store.Store.
type Client struct {
	world   *World
	cut     bool
	unknown []bool // for the coming transactions: whether one with an unknown outcome is applied
	closed  chan struct{}
	wg      sync.WaitGroup // watches and renewals; Add only under world.mu while the client is not closed
}

var _ store.Store = (*Client)(nil)

func (c *Client) isClosedLocked() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

func (c *Client) usableLocked(ctx context.Context) error {
	switch {
	case c.isClosedLocked():
		return store.ErrClosed
	case c.cut:
		return fmt.Errorf("memory: cut off: %w", store.ErrUnreachable)
	}
	return ctx.Err()
}

// Get returns one entry.
func (c *Client) Get(ctx context.Context, k store.Key) (store.Entry, error) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	if err := c.usableLocked(ctx); err != nil {
		return store.Entry{}, err
	}
	e, ok := c.world.data[k]
	if !ok {
		return e, fmt.Errorf("%s: %w", k, store.ErrNotFound)
	}
	e.Value = slices.Clone(e.Value)
	return e, nil
}

// List returns a partition.
func (c *Client) List(ctx context.Context, partition string) (store.Snapshot, error) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	if err := c.usableLocked(ctx); err != nil {
		return store.Snapshot{}, err
	}
	return store.Snapshot{Rev: c.world.rev, Entries: c.world.listLocked(partition)}, nil
}

func (w *World) listLocked(partition string) []store.Entry {
	var out []store.Entry
	for k, e := range w.data {
		if k.Partition == partition {
			e.Value = slices.Clone(e.Value)
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	return out
}

// Txn applies a transaction.
func (c *Client) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	return c.Commit(ctx, t, nil)
}

// Commit is Txn with a step between the conditions, which then hold, and the moment when others see the writes: keep, unless it is nil, puts
// the transaction on disk under the Rev that it will have. Nothing else is written meanwhile. An error of keep is returned, and nothing applied.
func (c *Client) Commit(ctx context.Context, t store.Txn, keep func(store.Rev) error) (store.Rev, error) {
	if err := t.Check(); err != nil {
		return 0, err
	}
	w := c.world
	w.writes.Lock()
	defer w.writes.Unlock()
	next, unknown, err := c.admit(ctx, t)
	if err != nil {
		return 0, err
	}
	if keep != nil {
		if err := keep(next); err != nil {
			return 0, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rev := w.applyLocked(t)
	if unknown {
		return 0, errUnknown()
	}
	return rev, nil
}

// admit tells which Rev the transaction would get, and whether its client shall not hear of it. The caller holds writes.
func (c *Client) admit(ctx context.Context, t store.Txn) (next store.Rev, unknown bool, err error) {
	w := c.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := c.usableLocked(ctx); err != nil {
		return 0, false, err
	}
	err = w.refusedLocked(t)
	if len(c.unknown) > 0 {
		applied := c.unknown[0]
		c.unknown = c.unknown[1:]
		if !applied || err != nil {
			return 0, true, errUnknown()
		}
		unknown = true
	}
	return w.rev + 1, unknown, err
}

func errUnknown() error { return fmt.Errorf("memory: as asked for: %w", store.ErrUnknown) }

func (w *World) refusedLocked(t store.Txn) error {
	for _, cond := range t.If {
		have := w.data[cond.Key].Rev
		if cond.Rev == store.Exists && have != store.Absent || cond.Rev == have {
			continue
		}
		return &store.ConflictError{Key: cond.Key, Have: have}
	}
	return nil
}

// applyLocked writes, and tells the watches. The caller holds writes too, and has checked the conditions.
func (w *World) applyLocked(t store.Txn) store.Rev {
	w.rev++
	touched := map[string]*store.Batch{}
	for _, op := range t.Then {
		b := touched[op.Key.Partition]
		if b == nil {
			b = &store.Batch{Rev: w.rev}
			touched[op.Key.Partition] = b
		}
		if op.Delete {
			if _, ok := w.data[op.Key]; ok {
				delete(w.data, op.Key)
				b.Dels = append(b.Dels, op.Key)
			}
			continue
		}
		e := store.Entry{Key: op.Key, Value: slices.Clone(op.Value), Rev: w.rev}
		w.data[op.Key] = e
		b.Puts = append(b.Puts, e)
	}
	for x := range w.watchers {
		if b := touched[x.partition]; b != nil && !x.resync && len(b.Puts)+len(b.Dels) > 0 {
			x.queue = append(x.queue, copyOf(*b))
		}
	}
	w.wakeLocked()
	return w.rev
}

// copyOf keeps consumers from sharing memory with each other.
func copyOf(b store.Batch) store.Batch {
	b.Puts, b.Dels = slices.Clone(b.Puts), slices.Clone(b.Dels)
	for i := range b.Puts {
		b.Puts[i].Value = slices.Clone(b.Puts[i].Value)
	}
	return b
}

// Status tells of the world.
func (c *Client) Status(ctx context.Context) (store.Status, error) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	if err := c.usableLocked(ctx); err != nil {
		return store.Status{Backend: "memory"}, err
	}
	return store.Status{Backend: "memory", ClusterID: c.world.id, Rev: c.world.rev}, nil
}

// Close ends the client's watches and renewals.
func (c *Client) Close() error {
	c.world.mu.Lock()
	if !c.isClosedLocked() {
		close(c.closed)
	}
	c.world.mu.Unlock()
	c.wg.Wait()
	return nil
}

// Backup is a copy of a world's data.
type Backup struct {
	ID      string
	Rev     store.Rev
	Entries []store.Entry
}

// Backup copies the world's data.
func (w *World) Backup() Backup {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Backup{ID: w.id, Rev: w.rev, Entries: slices.Collect(maps.Values(w.data))}
}

// Restore makes the world what b has: its data, its Rev, its ID (a new one if b has none). Watches resync with all of it, sessions are gone
// without their keys' being deleted, as a store's are that was set up anew. Restore(Backup{}) is a store whose disk was wiped.
func (w *World) Restore(b Backup) {
	w.writes.Lock()
	defer w.writes.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.id, w.rev = b.ID, b.Rev
	if w.id == "" {
		w.id = rand.Text()
	}
	clear(w.data)
	for _, e := range b.Entries {
		w.data[e.Key] = e
	}
	for _, s := range w.sessions {
		s.forgetLocked()
	}
	for x := range w.watchers {
		x.queue, x.resync, x.anew = nil, true, true
	}
	w.wakeLocked()
}
