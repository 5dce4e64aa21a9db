package consul

import (
	"context"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// queued is how many batches wait for a slow receiver before its watch stops reading the journal, and may lose its place there.
const queued = 4096

// watch is one Watch: where it stands, and what it has delivered or queued.
type watch struct {
	s         *Store
	partition string
	feed      *feed
	out       chan store.Batch
	queue     []store.Batch
	known     map[string]state // by name
	rev       store.Rev        // up to which everything is delivered or queued
	at        position         // the journal entry that it stands on
	listed    time.Time        // before the list, or the history, that it stands on was asked for
	begun     bool
	behind    bool // the journal has moved on: read what was taken out of it
	lost      bool // what was delivered does not lead to what is there: list
}

// state is a version of a key. Two histories may give one revision to two values.
type state struct {
	rev store.Rev
	sum uint64
}

var seed = maphash.MakeSeed()

func stateOf(e store.Entry) state { return state{e.Rev, maphash.Bytes(seed, e.Value)} }

// Watch delivers a partition's batches.
func (s *Store) Watch(ctx context.Context, partition string) <-chan store.Batch {
	w := &watch{s: s, partition: partition, out: make(chan store.Batch), known: map[string]state{}, lost: true}
	ok := s.start(func() {
		defer close(w.out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		if w.feed = s.feeds.join(shardOf(partition)); w.feed != nil {
			defer s.feeds.leave(w.feed)
			w.run(ctx)
		}
	})
	if !ok {
		close(w.out)
	}
	return w.out
}

func (w *watch) run(ctx context.Context) {
	var seen *page
	retry := firstRetry
	for ctx.Err() == nil {
		if w.lost || w.behind {
			era := w.s.link.era()
			if err := w.recover(ctx); err != nil {
				w.s.log.Debug("a watch waits for the store", "partition", w.partition, "error", err)
				w.deliver(ctx, w.s.link.pause(retry), era.Done())
				retry = min(2*retry, lastRetry)
				continue
			}
			seen = nil // it may tell of the end of a session
		}
		p, changed := w.feed.now()
		if p != nil && p != seen && len(w.queue) < queued {
			seen = p
			if w.take(p); w.lost || w.behind {
				// A server that lags would let a watch list again and again.
				w.deliver(ctx, retry/2+rand.N(retry), nil)
				retry = min(2*retry, lastRetry)
			} else {
				retry = firstRetry
			}
			continue
		}
		if len(w.queue) >= queued {
			changed = nil
		}
		w.deliver(ctx, 0, changed)
	}
}

// deliver hands batches over until there is something else to do: wake, or the time is over unless it is 0, or a place in a full queue.
func (w *watch) deliver(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	var over <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		over = t.C
	}
	for {
		var out chan store.Batch
		var first store.Batch
		if len(w.queue) > 0 {
			out, first = w.out, w.queue[0]
		}
		select {
		case out <- first:
			w.queue = w.queue[1:]
			if wake == nil && over == nil {
				return
			}
		case <-wake:
			return
		case <-over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// recover reads what a page did not have: older entries or, where those do not lead here either, the whole partition.
func (w *watch) recover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 6*callTimeout)
	defer cancel()
	if w.behind && !w.lost {
		asked := time.Now() // a page that comes while the answer is on its way may be newer
		all, err := w.s.history(ctx, shardOf(w.partition), w.at.rev)
		if err != nil {
			return err
		}
		w.behind, w.listed = false, asked
		w.lost = !w.follow(all)
	}
	if w.lost {
		return w.resync(ctx)
	}
	return nil
}

// resync lists, and queues the difference to what was delivered or queued before.
func (w *watch) resync(ctx context.Context) error {
	asked := time.Now()
	l, err := w.s.snapshot(ctx, w.partition)
	if err == nil && l.at == (position{}) {
		if err = w.s.anchor(ctx, shardOf(w.partition)); err == nil {
			asked = time.Now()
			l, err = w.s.snapshot(ctx, w.partition)
		}
	}
	if err != nil {
		return err
	}
	b := store.Batch{Rev: l.Rev, Resync: true}
	now := make(map[string]state, len(l.Entries))
	for _, e := range l.Entries {
		st := stateOf(e)
		now[e.Key.Name] = st
		if w.known[e.Key.Name] != st {
			b.Puts = append(b.Puts, e)
		}
	}
	for name := range w.known {
		if _, ok := now[name]; !ok {
			b.Dels = append(b.Dels, store.Key{Partition: w.partition, Name: name})
		}
	}
	slices.SortFunc(b.Dels, func(x, y store.Key) int { return strings.Compare(x.Name, y.Name) })
	if !w.begun || l.Rev < w.rev || len(b.Puts)+len(b.Dels) > 0 {
		w.queue = append(w.queue, b)
	}
	w.known, w.rev, w.at, w.listed, w.begun, w.lost, w.behind = now, l.Rev, l.at, asked, true, false, false
	return nil
}

// anchor writes an entry into a journal that has none: a watch must have something to stand on, and a feed something to block on.
func (s *Store) anchor(ctx context.Context, shard string) error {
	if err := s.identify(ctx); err != nil {
		return err
	}
	_, _, err := s.apply(ctx, api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: s.journal(shard) + "0", Value: encode(nil), Flags: rand.Uint64()}}})
	return err // a failed comparison: another was faster
}

// take queues what a page tells beyond what is known. A page that was read before the list is no proof of anything. One that was asked for
// before and came after may be newer, and the last for long: that is found out.
func (w *watch) take(p *page) {
	if !w.follow(p.entries) {
		w.behind = p.heard.After(w.listed)
		return
	}
	if w.partition == store.Alive {
		w.expire(p)
	}
}

// follow queues what comes after the entry that the watch stands on; false if that is not among these, or they are not one history.
func (w *watch) follow(all []entry) bool {
	i := slices.IndexFunc(all, func(e entry) bool { return e.position == w.at })
	if i < 0 {
		return false
	}
	for _, e := range all[i+1:] {
		_, ops, err := decode(e.value)
		if err != nil || e.rev <= w.at.rev {
			return false
		}
		w.add(e.rev, ops)
		w.at = e.position
	}
	return true
}

// add queues a transaction's batch, if it touches the partition.
func (w *watch) add(rev store.Rev, ops []store.Op) {
	b := store.Batch{Rev: rev}
	for _, o := range ops {
		if o.Key.Partition != w.partition {
			continue
		}
		if !o.Delete {
			e := store.Entry{Key: o.Key, Value: o.Value, Rev: rev}
			b.Puts = append(b.Puts, e)
			w.known[o.Key.Name] = stateOf(e)
		} else if _, ok := w.known[o.Key.Name]; ok {
			b.Dels = append(b.Dels, o.Key)
			delete(w.known, o.Key.Name)
		}
	}
	w.rev = max(w.rev, rev)
	if len(b.Puts)+len(b.Dels) > 0 {
		w.queue = append(w.queue, b)
	}
}

// expire queues the end of sessions, which no journal tells: their keys are not in the data.
func (w *watch) expire(p *page) {
	there := make(map[string]bool, len(p.data))
	for _, e := range p.data {
		there[e.Key.Name] = true
	}
	b := store.Batch{Rev: p.index}
	for name := range w.known {
		if !there[name] {
			b.Dels = append(b.Dels, store.Key{Partition: w.partition, Name: name})
		}
	}
	switch {
	case len(b.Dels) == 0:
		return
	case p.index <= w.rev: // deletions may have been forgotten, and with them their index
		w.lost = true
		return
	}
	slices.SortFunc(b.Dels, func(x, y store.Key) int { return strings.Compare(x.Name, y.Name) })
	for _, k := range b.Dels {
		delete(w.known, k.Name)
	}
	w.rev = b.Rev
	w.queue = append(w.queue, b)
}
