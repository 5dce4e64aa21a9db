package memory

import (
	"context"
	"maps"
	"slices"
	"strings"

	"weft/store"
)

type watcher struct {
	client    *Client
	partition string
	queue     []store.Batch
	resync    bool // the queue does not follow from what was delivered: the difference to the world does
	anew      bool // and what was delivered was of another history, whose Revs mean nothing now
	begun     bool // the first batch, which comes even when it is empty, has been taken
	wake      chan struct{}
	known     map[store.Key]store.Rev // what was delivered; the watch's own goroutine alone touches it
}

// wakeLocked lets all watches look for what is new.
func (w *World) wakeLocked() {
	for x := range w.watchers {
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

// Watch delivers a partition's batches.
func (c *Client) Watch(ctx context.Context, partition string) <-chan store.Batch {
	out := make(chan store.Batch)
	x := &watcher{client: c, partition: partition, resync: true, wake: make(chan struct{}, 1), known: map[store.Key]store.Rev{}}
	x.wake <- struct{}{}
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	if c.isClosedLocked() {
		close(out)
		return out
	}
	c.world.watchers[x] = true
	c.wg.Go(func() {
		defer close(out)
		x.run(ctx, out)
		c.world.mu.Lock()
		defer c.world.mu.Unlock()
		delete(c.world.watchers, x)
	})
	return out
}

func (x *watcher) run(ctx context.Context, out chan<- store.Batch) {
	for {
		select {
		case <-x.wake:
		case <-ctx.Done():
			return
		case <-x.client.closed:
			return
		}
		for _, b := range x.take() {
			x.note(b)
			select {
			case out <- b:
			case <-ctx.Done():
				return
			case <-x.client.closed:
				return
			}
		}
	}
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
		b := x.differenceLocked()
		tell := !x.begun || x.anew || len(b.Puts)+len(b.Dels) > 0
		x.resync, x.anew, x.begun = false, false, true
		if !tell {
			return nil
		}
		out = []store.Batch{b}
	}
	return out
}

func (x *watcher) differenceLocked() store.Batch {
	b := store.Batch{Rev: x.client.world.rev, Resync: true}
	now := map[store.Key]bool{}
	for _, e := range x.client.world.listLocked(x.partition) {
		now[e.Key] = true
		if x.anew || x.known[e.Key] != e.Rev {
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
