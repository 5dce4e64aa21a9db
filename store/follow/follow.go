// Package follow keeps the newest picture of what an agent follows: it watches the partitions of a store, applies each batch to an
// immutable record.Snapshot and wakes those who wait. It decides one thing only: when a store is not to be believed.
package follow

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"weft/store"
	"weft/store/record"
)

// Follower keeps a picture. Picture, Dirty, Doubt and the waits may be called from any goroutine; Run owns all others.
type Follower struct {
	store store.Store
	log   *slog.Logger

	shown atomic.Pointer[record.Snapshot] // what readers see
	wake  chan struct{}                   // size 1: something is dirty

	mu      sync.Mutex // guards what follows; held for moments only
	truth   *record.Snapshot
	dirty   Dirty
	cluster string               // the cluster's ID once it is known
	known   record.Cluster       // its record that is believed: revisions of another history are not compared
	origin  map[string]string    // the history of what is shown of each partition
	seen    map[string]store.Rev // the highest revision of each partition, of this life and of the one before
	heard   map[string]bool      // the partitions that the store itself has spoken of in this life
	doubt   error
	watches map[string]context.CancelFunc
	changed chan struct{} // closed and replaced at each change of the picture
	running context.Context
	wg      sync.WaitGroup
}

// Dirty is what has changed since it was taken last.
type Dirty struct {
	Meta  bool
	Alive bool
	Nets  map[record.NetworkID]NetDirty
}

// NetDirty is what has changed in a network: everything, or some endpoints.
type NetDirty struct {
	All       bool
	Endpoints map[record.EndpointID]bool
}

// Config is what a Follower needs. Seed is the picture of the last life, and Cluster its cluster's ID; both may be zero.
type Config struct {
	Store   store.Store
	Seed    *record.Snapshot
	Cluster string
	Log     *slog.Logger
}

// New returns a Follower that shows the seed until the store has spoken.
func New(cfg Config) *Follower {
	f := &Follower{
		store: cfg.Store, log: cfg.Log, wake: make(chan struct{}, 1), changed: make(chan struct{}),
		truth: record.Empty(), cluster: cfg.Cluster, seen: map[string]store.Rev{}, heard: map[string]bool{}, origin: map[string]string{},
		watches: map[string]context.CancelFunc{},
	}
	seed := cfg.Seed
	if seed == nil {
		seed = record.Empty()
	}
	f.shown.Store(seed)
	if c := seed.Cluster(); c != nil {
		f.known = *c
	}
	for _, p := range seed.Partitions() {
		f.seen[p], f.origin[p] = seed.Rev(p), f.known.History
	}
	return f
}

// Run watches partitions meta and alive, and those that Follow adds, until ctx ends; it returns when all is quiet.
func (f *Follower) Run(ctx context.Context) {
	f.mu.Lock()
	f.running = ctx
	early := f.watches
	f.watches = map[string]context.CancelFunc{}
	f.watchLocked(store.Meta)
	f.watchLocked(store.Alive)
	for p := range early {
		f.watchLocked(p)
	}
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.running = nil // from now on nobody adds a watch
	f.mu.Unlock()
	f.wg.Wait()
}

// Follow adds a network's partition; following it already is no error.
func (f *Follower) Follow(id record.NetworkID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchLocked(record.NetPartition(id))
}

func (f *Follower) watchLocked(partition string) {
	if _, ok := f.watches[partition]; ok {
		return
	}
	if f.running == nil {
		f.watches[partition] = func() {}
		return
	}
	ctx, cancel := context.WithCancel(f.running)
	f.watches[partition] = cancel
	f.wg.Go(func() {
		for b := range f.store.Watch(ctx, partition) {
			if partition != store.Meta && (b.Resync || f.sweeps(partition, b)) {
				f.makeSure(ctx, partition)
			}
			var anew *record.Snapshot
			if b.Resync { // all of it: to decode it takes time, which others need not wait for
				anew = record.Empty().Apply(partition, b)
			}
			f.take(ctx, partition, b, anew)
		}
	})
}

// sweeps tells a batch that may be a part of a store being emptied: agents delete one endpoint, or one sign of life, in a transaction. The
// last one of a network is looked at too.
func (f *Follower) sweeps(partition string, b store.Batch) bool {
	gone := 0
	for _, k := range b.Dels {
		if partition == store.Alive || strings.HasPrefix(k.Name, "ep/") {
			gone++
		}
	}
	if gone == 0 || partition == store.Alive {
		return gone > 1
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	net, ok := f.truth.Net(record.NetworkID(strings.TrimPrefix(partition, record.NetPartition(""))))
	return gone > 1 || !ok || net.Len() <= gone
}

// Unfollow drops a network's partition, also one that only the seed had: its endpoints are unknown from now on.
func (f *Follower) Unfollow(id record.NetworkID) {
	p := record.NetPartition(id)
	f.mu.Lock()
	defer f.mu.Unlock()
	if cancel, ok := f.watches[p]; ok {
		cancel()
		delete(f.watches, p)
	} else if f.shown.Load().Rev(p) == 0 {
		return
	}
	delete(f.seen, p)
	delete(f.heard, p)
	delete(f.origin, p)
	f.truth = f.truth.Drop(p)
	f.show(f.shown.Load().Drop(p))
}

// Following returns the networks that are followed.
func (f *Follower) Following() []record.NetworkID {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []record.NetworkID
	for p := range f.watches {
		if id, ok := strings.CutPrefix(p, record.NetPartition("")); ok {
			out = append(out, record.NetworkID(id))
		}
	}
	return out
}

// take applies one batch; anew is a partition that it has all of, or nil. The truth always follows the store; what is shown follows the truth as long as that is believed.
func (f *Follower) take(ctx context.Context, partition string, b store.Batch, anew *record.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil { // unfollowed while the batch was on its way
		return
	}
	if anew != nil && f.truth.Rev(partition) == 0 {
		f.truth = f.truth.With(anew, partition)
	} else {
		f.truth = f.truth.Apply(partition, b)
	}
	if b.Anew {
		delete(f.seen, partition)
	}
	f.doubtIf(f.judge(partition, b))
	f.heard[partition] = true
	if f.doubt != nil {
		f.show(f.shown.Load()) // the same picture: those who wait for another one are to hear of the doubt
		return
	}
	f.seen[partition] = b.Rev
	f.mark(partition, b)
	f.show(f.merged(partition))
}

// merged is what to show after a change of one partition: the truth, and the seed for partitions that the store has not spoken of yet.
func (f *Follower) merged(partition string) *record.Snapshot {
	return f.shown.Load().With(f.truth, partition)
}

// judge finds out whether the store is one that lost its history: another cluster's, an empty one, or one older than what was seen.
// Such doubt stays until the records have been put back on purpose, which gives them a new history: deleting on it would take away what works.
func (f *Follower) judge(partition string, b store.Batch) error {
	if partition == store.Meta {
		c := f.truth.Cluster()
		if f.cluster == "" && c != nil {
			f.beginLocked(c)
		}
		if f.isRenewed(c) || b.Anew && f.isKnown(c) {
			f.renewLocked(c, b.Anew)
		}
		if why := f.strange(c); why != nil {
			return why
		}
		f.origin[partition] = f.known.History
	}
	if seen := f.seen[partition]; b.Rev < seen {
		return fmt.Errorf("the store went back from revision %d to %d: it was restored from a backup", seen, b.Rev)
	}
	return f.overtaken(partition, b)
}

// overtaken finds a store that went back and has grown beyond what was seen since: where history was lost, all that has changed must have been
// written after what was seen. Sessions' keys come and go by other ways than transactions.
func (f *Follower) overtaken(partition string, b store.Batch) error {
	seen, any := f.seen[partition]
	if !any || !b.Resync || partition == store.Alive {
		return nil
	}
	for _, e := range b.Puts {
		known := f.shown.Load().KeyRev(e.Key)
		if e.Rev < known || f.heard[partition] && e.Rev <= seen {
			return fmt.Errorf("the store went back: %s was written at revision %d, and this host had seen %d: it was restored from a backup", e.Key, e.Rev, seen)
		}
	}
	return nil
}

// strange says what is wrong with the store's record of the cluster, which is nil where there is none.
func (f *Follower) strange(c *record.Cluster) error {
	switch {
	case f.cluster != "" && c == nil:
		return fmt.Errorf("the store has lost the record of cluster %s: it was emptied, or its prefix is another one's", f.cluster)
	case c != nil && c.ID != f.cluster:
		return fmt.Errorf("the store holds cluster %s, and this host belongs to %s", c.ID, f.cluster)
	case c != nil && !f.isKnown(c) && !f.isRenewed(c):
		return fmt.Errorf("the store went back: its records are older than those that this host has seen (history %q, and not %q): it was restored from a backup, or the records have moved elsewhere", c.History, f.known.History)
	}
	return nil
}

func (f *Follower) doubtIf(why error) {
	if why != nil && f.doubt == nil {
		f.doubt = why
		f.log.Error("the store is not believed; this host goes on with what it knows (weft store reseed puts back what the hosts know, weft restore a backup)", "reason", why)
	}
}

func (f *Follower) mark(partition string, b store.Batch) {
	switch partition {
	case store.Meta:
		f.dirty.Meta = true
	case store.Alive:
		f.dirty.Alive = true
	default:
		id := record.NetworkID(strings.TrimPrefix(partition, record.NetPartition("")))
		if f.dirty.Nets == nil {
			f.dirty.Nets = map[record.NetworkID]NetDirty{}
		}
		f.dirty.Nets[id] = f.dirty.Nets[id].plus(b)
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// few is the number of changed endpoints up to which they are named one by one.
const few = 64

func (d NetDirty) plus(b store.Batch) NetDirty {
	if d.All || b.Resync || len(b.Puts)+len(b.Dels)+len(d.Endpoints) > 3*few {
		return NetDirty{All: true}
	}
	out := NetDirty{Endpoints: maps.Clone(d.Endpoints)}
	if out.Endpoints == nil {
		out.Endpoints = map[record.EndpointID]bool{}
	}
	add := func(name string) {
		if id, ok := strings.CutPrefix(name, "ep/"); ok {
			out.Endpoints[record.EndpointID(id)] = true
		}
	}
	for _, e := range b.Puts {
		add(e.Key.Name)
	}
	for _, k := range b.Dels {
		add(k.Name)
	}
	return out
}

// show publishes a picture and wakes those who wait for one. The caller holds mu.
func (f *Follower) show(s *record.Snapshot) {
	f.shown.Store(s)
	close(f.changed)
	f.changed = make(chan struct{})
}

// Picture returns the newest picture that is believed.
func (f *Follower) Picture() *record.Snapshot { return f.shown.Load() }

// Wake is signalled when Dirty has something.
func (f *Follower) Wake() <-chan struct{} { return f.wake }

// TakeDirty returns what has changed since the last call, together with a picture that has these changes.
func (f *Follower) TakeDirty() (Dirty, *record.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.dirty
	f.dirty = Dirty{}
	return d, f.shown.Load()
}

// Doubt returns why the store is not believed, nil if it is.
func (f *Follower) Doubt() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.doubt
}

// WaitRev waits until the picture of a partition is at rev or newer. It fails when the store is not believed, and the picture stands still.
func (f *Follower) WaitRev(ctx context.Context, partition string, rev store.Rev) error {
	return f.wait(ctx, func() bool { return f.shown.Load().Rev(partition) >= rev })
}

// WaitSynced waits until Synced. It fails when the store is not believed.
func (f *Follower) WaitSynced(ctx context.Context, partition string) error {
	return f.wait(ctx, func() bool { return f.heard[partition] && f.doubt == nil })
}

// Synced tells whether the store itself has spoken of a partition, and is believed.
func (f *Follower) Synced(partition string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard[partition] && f.doubt == nil
}

func (f *Follower) wait(ctx context.Context, done func() bool) error {
	for {
		f.mu.Lock()
		ok, doubt, changed := done(), f.doubt, f.changed
		f.mu.Unlock()
		switch {
		case ok:
			return nil
		case doubt != nil:
			return doubt
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
