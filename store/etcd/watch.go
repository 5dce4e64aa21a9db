package etcd

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"weft/store"
)

// Times of a watch that cannot go on: how long it waits before it tries again, and how often a quiet one makes sure that the server still
// has the history that it stands in.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
	probeEvery = 4 * time.Second
)

// watch is one Watch: where it stands, and what it has delivered.
type watch struct {
	s         *Store
	partition string
	out       chan store.Batch
	known     map[string]seen // by name, as delivered
	rev       store.Rev       // up to which everything was delivered
	cluster   uint64
	fresh     time.Time // what is asked after it is answered with rev or a later one
	begun     bool
	lost      bool // what was delivered does not lead to what is there: list
}

// Watch delivers a partition's batches.
func (s *Store) Watch(ctx context.Context, partition string) <-chan store.Batch {
	w := &watch{s: s, partition: partition, out: make(chan store.Batch), known: map[string]seen{}, lost: true}
	s.start(func() {
		defer close(w.out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		w.run(ctx)
	}, func() { close(w.out) })
	return w.out
}

func (w *watch) run(ctx context.Context) {
	wait := firstRetry
	for ctx.Err() == nil {
		began := time.Now()
		back := w.s.history.reconnected()
		err := w.goOn(ctx)
		if err != nil && ctx.Err() == nil {
			w.s.suspect(err)
			w.s.log.Debug("a watch waits for the store", slog.String("partition", w.partition), slog.Any("error", err))
		}
		if time.Since(began) > lastRetry {
			wait = firstRetry
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-back:
			wait = firstRetry
		case <-ctx.Done():
		}
		wait = min(2*wait, lastRetry)
	}
}

// goOn delivers from where the watch stands until it cannot: first the difference, if it has lost its way.
func (w *watch) goOn(ctx context.Context) error {
	listed := w.lost
	if w.lost {
		if err := w.resync(ctx); err != nil {
			return err
		}
	} else if err := w.check(ctx, time.Now()); err != nil || w.lost {
		return err
	}
	return w.follow(ctx, listed)
}

// resync lists, and delivers the difference to what was delivered before.
func (w *watch) resync(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, 6*callTimeout)
	defer cancel()
	l, cluster, err := w.s.list(call, w.partition)
	if err != nil {
		return err
	}
	listed := time.Now() // an answer to what was asked before may be of a revision before the list's
	sameHistory := cluster == w.cluster && l.Rev >= w.rev
	b := store.Batch{Rev: l.Rev, Resync: true}
	now := make(map[string]seen, len(l.Entries))
	for _, e := range l.Entries {
		now[e.Key.Name] = sawOf(e)
		if !sameHistory || w.known[e.Key.Name] != now[e.Key.Name] {
			b.Puts = append(b.Puts, e)
		}
	}
	for name := range w.known {
		if _, ok := now[name]; !ok {
			b.Dels = append(b.Dels, store.Key{Partition: w.partition, Name: name})
		}
	}
	slices.SortFunc(b.Dels, func(x, y store.Key) int { return strings.Compare(x.Name, y.Name) })
	tell := !w.begun || !sameHistory || len(b.Puts)+len(b.Dels) > 0
	w.known, w.rev, w.cluster, w.fresh, w.begun, w.lost = now, l.Rev, cluster, listed, true, false
	if tell {
		return w.send(ctx, b)
	}
	return nil
}

func (w *watch) send(ctx context.Context, b store.Batch) error {
	select {
	case w.out <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow delivers events from where the watch stands until something is wrong. Nothing is delivered before it is known that the server at
// the other end of the connection has the past that the watch has told.
func (w *watch) follow(ctx context.Context, listed bool) error {
	x, err := w.s.openStream(ctx, w.partition, w.rev+1)
	if err != nil {
		return err
	}
	defer x.close()
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	for !w.lost {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-probe.C:
			// A cluster that does not answer is no reason to stop.
			_ = w.check(ctx, time.Now().Add(-probeEvery/2))
		case r, ok := <-x.got:
			switch {
			case !ok:
				return x.err
			case r.Created && listed:
				err = w.check(ctx, time.Now())
			case r.Created:
				err = w.samePast(ctx)
			case r.CompactRevision != 0:
				w.lost = true
			case r.Canceled:
				err = ended(r)
			default:
				err = w.deliver(ctx, r.Events)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// check finds out whether the cluster is the one that the watch began in and has not gone back: a watch would be silent there until it has
// caught up, and then tell half. What was asked after the given time, and after the last event, tells.
func (w *watch) check(ctx context.Context, after time.Time) error {
	if w.fresh.After(after) {
		after = w.fresh
	}
	p, err := w.s.history.at(ctx, after)
	if err != nil {
		return err
	}
	w.lost = p.cluster != w.cluster || p.rev < w.rev
	return nil
}

// deliver makes one batch of each revision's events. etcd does not split a revision over responses unless asked to.
func (w *watch) deliver(ctx context.Context, events []*mvccpb.Event) error {
	for len(events) > 0 {
		rev := events[0].Kv.ModRevision
		b := store.Batch{Rev: store.Rev(rev)}
		for len(events) > 0 && events[0].Kv.ModRevision == rev {
			w.add(&b, events[0])
			events = events[1:]
		}
		if err := w.send(ctx, b); err != nil {
			return err
		}
		w.rev, w.fresh = b.Rev, time.Now()
		for _, e := range b.Puts {
			w.known[e.Key.Name] = sawOf(e)
		}
		for _, k := range b.Dels {
			delete(w.known, k.Name)
		}
	}
	return nil
}

func (w *watch) add(b *store.Batch, ev *mvccpb.Event) {
	e, err := w.s.entry(w.partition, ev.Kv)
	if err != nil {
		return // a key that weft cannot have written
	}
	if ev.Type == mvccpb.DELETE {
		b.Dels = append(b.Dels, e.Key)
	} else {
		b.Puts = append(b.Puts, e)
	}
}
