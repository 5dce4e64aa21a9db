// Package memory is a store in this process: several clients over one shared world, for tests and simulations. It keeps every promise of
// package store, in virtual time too, and breaks on demand: a client can be cut off, lose its watch history, not hear of an outcome.
package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"weft/store"
)

// World is the cluster's data, shared by its clients.
type World struct {
	mu       sync.Mutex // guards all below and all fields of clients, watchers and sessions
	rev      store.Rev
	data     map[store.Key]store.Entry
	watchers map[*watcher]bool
	sessions map[string]*session
	lastID   int
}

// New returns an empty world.
func New() *World {
	return &World{data: map[store.Key]store.Entry{}, watchers: map[*watcher]bool{}, sessions: map[string]*session{}}
}

// Client returns a new client of the world.
func (w *World) Client() *Client { return &Client{world: w, closed: make(chan struct{})} }

// Client is one agent's view of the world: a store.Store.
type Client struct {
	world   *World
	cut     bool
	unknown []bool // for the coming transactions: whether one with an unknown outcome is applied
	closed  chan struct{}
	wg      sync.WaitGroup
}

var _ store.Store = (*Client)(nil)

// Cut takes the client off the world, or puts it back. Its sessions are not renewed meanwhile, and its watches stand still.
func (c *Client) Cut(yes bool) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	c.cut = yes
	if !yes {
		c.world.wakeLocked()
	}
}

// NextUnknown makes the outcome of the client's next transaction unknown; applied says what becomes of it.
func (c *Client) NextUnknown(applied bool) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	c.unknown = append(c.unknown, applied)
}

// ForgetHistory makes every watch of the client resync, as a compaction does.
func (c *Client) ForgetHistory() {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	for w := range c.world.watchers {
		if w.client == c {
			w.queue, w.resync = nil, true
		}
	}
	c.world.wakeLocked()
}

func (c *Client) usableLocked(ctx context.Context) error {
	select {
	case <-c.closed:
		return store.ErrClosed
	default:
	}
	if c.cut {
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
		return e, store.ErrNotFound
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
	if err := t.Check(); err != nil {
		return 0, err
	}
	w := c.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := c.usableLocked(ctx); err != nil {
		return 0, err
	}
	if len(c.unknown) > 0 {
		applied := c.unknown[0]
		c.unknown = c.unknown[1:]
		if applied {
			_, _ = w.applyLocked(t)
		}
		return 0, fmt.Errorf("memory: as asked for: %w", store.ErrUnknown)
	}
	return w.applyLocked(t)
}

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

func (w *World) applyLocked(t store.Txn) (store.Rev, error) {
	if err := w.refusedLocked(t); err != nil {
		return 0, err
	}
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
	for p, b := range touched {
		if len(b.Puts)+len(b.Dels) == 0 {
			continue
		}
		for x := range w.watchers {
			if x.partition == p && !x.resync {
				x.queue = append(x.queue, *b)
			}
		}
	}
	w.wakeLocked()
	return w.rev, nil
}

func (w *World) wakeLocked() {
	for x := range w.watchers {
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

type watcher struct {
	client    *Client
	partition string
	queue     []store.Batch
	resync    bool
	begun     bool // the first batch, which comes even when it is empty, has been taken
	wake      chan struct{}
	known     map[store.Key]store.Rev // what was delivered; the watch's own goroutine alone touches it
}

// Watch delivers a partition's batches.
func (c *Client) Watch(ctx context.Context, partition string) <-chan store.Batch {
	out := make(chan store.Batch)
	x := &watcher{client: c, partition: partition, resync: true, wake: make(chan struct{}, 1), known: map[store.Key]store.Rev{}}
	x.wake <- struct{}{}
	c.world.mu.Lock()
	c.world.watchers[x] = true
	c.world.mu.Unlock()
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		defer close(out)
		defer func() {
			c.world.mu.Lock()
			delete(c.world.watchers, x)
			c.world.mu.Unlock()
		}()
		for {
			select {
			case <-x.wake:
			case <-ctx.Done():
				return
			case <-c.closed:
				return
			}
			for _, b := range x.take() {
				x.note(b)
				select {
				case out <- b:
				case <-ctx.Done():
					return
				case <-c.closed:
					return
				}
			}
		}
	}()
	return out
}

// take returns what is to be delivered now.
func (x *watcher) take() []store.Batch {
	w := x.client.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if x.client.cut {
		return nil
	}
	out := x.queue
	x.queue = nil
	if x.resync {
		x.resync = false
		b := x.differenceLocked()
		if x.begun && len(b.Puts)+len(b.Dels) == 0 {
			return nil
		}
		x.begun = true
		out = []store.Batch{b}
	}
	return out
}

func (x *watcher) differenceLocked() store.Batch {
	b := store.Batch{Rev: x.client.world.rev, Resync: true}
	now := map[store.Key]bool{}
	for _, e := range x.client.world.listLocked(x.partition) {
		now[e.Key] = true
		if x.known[e.Key] != e.Rev {
			b.Puts = append(b.Puts, e)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(x.known), func(a, b store.Key) int { return strings.Compare(a.Name, b.Name) }) {
		if !now[k] {
			b.Dels = append(b.Dels, k)
		}
	}
	return b
}

func (x *watcher) note(b store.Batch) {
	for _, k := range b.Dels {
		delete(x.known, k)
	}
	for _, e := range b.Puts {
		x.known[e.Key] = e.Rev
	}
}

// Status tells of the world.
func (c *Client) Status(ctx context.Context) (store.Status, error) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	if err := c.usableLocked(ctx); err != nil {
		return store.Status{}, err
	}
	return store.Status{Backend: "memory", ClusterID: fmt.Sprintf("%p", c.world), Rev: c.world.rev}, nil
}

// Close ends the client's watches and renewals.
func (c *Client) Close() error {
	c.world.mu.Lock()
	select {
	case <-c.closed:
		c.world.mu.Unlock()
		return nil
	default:
		close(c.closed)
	}
	c.world.mu.Unlock()
	c.wg.Wait()
	return nil
}

type session struct {
	client  *Client
	id      string
	key     store.Key
	rev     store.Rev
	ttl     time.Duration
	expires *time.Timer
	done    chan struct{}
	stop    chan struct{}
	ended   bool // the key is gone
	once    sync.Once
}

// OpenSession opens or takes over a session.
func (c *Client) OpenSession(ctx context.Context, cfg store.SessionConfig) (store.Session, error) {
	w := c.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := c.usableLocked(ctx); err != nil {
		return nil, err
	}
	if cfg.TTL <= 0 {
		return nil, errors.New("memory: a session needs a TTL")
	}
	old := w.sessions[cfg.Resume]
	conds := []store.Cond{{Key: cfg.Key, Rev: store.Absent}}
	if old != nil && old.key == cfg.Key {
		conds[0].Rev = old.rev
	}
	rev, err := w.applyLocked(store.Txn{If: conds, Then: []store.Op{store.Put(cfg.Key, cfg.Value)}})
	if err != nil {
		return nil, err
	}
	w.lastID++
	s := &session{client: c, id: fmt.Sprint(w.lastID), key: cfg.Key, rev: rev, ttl: cfg.TTL, done: make(chan struct{}), stop: make(chan struct{})}
	if old != nil {
		s.id = old.id
		old.ended = true
		old.expires.Stop()
		old.finish()
	}
	w.sessions[s.id] = s
	s.expires = time.AfterFunc(s.ttl, s.expire)
	c.wg.Go(s.renew)
	return s, nil
}

func (s *session) finish() { s.once.Do(func() { close(s.done) }) }

func (s *session) renew() {
	t := time.NewTicker(s.ttl / 3)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-s.done:
			return
		case <-s.stop:
			return
		case <-s.client.closed:
			return
		}
		w := s.client.world
		w.mu.Lock()
		if !s.client.cut && !s.ended {
			s.expires.Reset(s.ttl)
		}
		w.mu.Unlock()
	}
}

// expire deletes the key: nobody has renewed the session.
func (s *session) expire() {
	w := s.client.world
	w.mu.Lock()
	defer w.mu.Unlock()
	s.endLocked()
}

func (s *session) endLocked() {
	if !s.ended {
		s.ended = true
		s.expires.Stop()
		delete(s.client.world.sessions, s.id)
		_, _ = s.client.world.applyLocked(store.Txn{Then: []store.Op{store.Del(s.key)}})
	}
	s.finish()
}

func (s *session) ID() string            { return s.id }
func (s *session) Alive() store.Cond     { return store.Cond{Key: s.key, Rev: s.rev} }
func (s *session) TTL() time.Duration    { return s.ttl }
func (s *session) Done() <-chan struct{} { return s.done }

// Close ends the session.
func (s *session) Close(context.Context) error {
	w := s.client.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.client.cut {
		return fmt.Errorf("memory: cut off: %w", store.ErrUnreachable)
	}
	s.endLocked()
	return nil
}

// Leave stops renewing.
func (s *session) Leave() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
}

// Load fills an empty world with what a file had at rev.
func (w *World) Load(rev store.Rev, entries []store.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rev = rev
	for _, e := range entries {
		w.data[e.Key] = e
	}
}

// Try tells what a transaction would come to, and with which Rev, without applying it.
func (w *World) Try(t store.Txn) (store.Rev, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.refusedLocked(t); err != nil {
		return 0, err
	}
	return w.rev + 1, nil
}
