package etcd

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

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
	known     map[string]store.Rev // name to Rev, as delivered
	rev       store.Rev            // up to which everything was delivered
	cluster   uint64
	fresh     time.Time // what is asked after it is answered with rev or a later one
	begun     bool
	lost      bool // what was delivered does not lead to what is there: list
}

// Watch delivers a partition's batches.
func (s *Store) Watch(ctx context.Context, partition string) <-chan store.Batch {
	w := &watch{s: s, partition: partition, out: make(chan store.Batch), known: map[string]store.Rev{}, lost: true}
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
		back := w.s.history.reconnected() // before the question of where the watch stands: the client may come back while it opens its stream
		var err error
		if w.lost {
			err = w.resync(ctx)
		} else {
			err = w.check(ctx, began)
		}
		if err == nil && !w.lost {
			w.follow(ctx, back)
		}
		if err != nil && ctx.Err() == nil {
			w.s.suspect(err)
			w.s.log.Debug("a watch waits for the store", slog.String("partition", w.partition), slog.Any("error", err))
		}
		if time.Since(began) > lastRetry && err == nil {
			wait = firstRetry
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
		}
		wait = min(2*wait, lastRetry)
	}
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
	now := make(map[string]store.Rev, len(l.Entries))
	for _, e := range l.Entries {
		now[e.Key.Name] = e.Rev
		if !sameHistory || w.known[e.Key.Name] != e.Rev {
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

// follow delivers events from where the watch stands until something is wrong. The client resumes by itself after a cut, which
// closes back.
func (w *watch) follow(ctx context.Context, back <-chan struct{}) {
	ctx, cancel := w.s.seat.stream(ctx)
	defer cancel()
	events := w.s.cli.Watch(clientv3.WithRequireLeader(ctx), w.s.dir(w.partition), clientv3.WithPrefix(), clientv3.WithRev(int64(w.rev)+1))
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	var again <-chan time.Time // a server that has just come back may not answer yet
	look := func() {
		if again = nil; w.check(ctx, time.Now()) != nil {
			again = time.After(firstRetry)
		}
	}
	for !w.lost {
		select {
		case <-ctx.Done():
			return
		case <-probe.C:
			// A cluster that does not answer is no reason to stop.
			_ = w.check(ctx, time.Now().Add(-probeEvery/2))
		case <-back:
			back = w.s.history.reconnected()
			look()
		case <-again:
			look()
		case r, ok := <-events:
			switch {
			case ok && r.CompactRevision != 0:
				w.lost = true
			case !ok:
				return
			case r.Err() != nil:
				w.s.suspect(r.Err())
				return
			case w.deliver(ctx, r.Events) != nil:
				return
			}
		}
	}
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
func (w *watch) deliver(ctx context.Context, events []*clientv3.Event) error {
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
			w.known[e.Key.Name] = e.Rev
		}
		for _, k := range b.Dels {
			delete(w.known, k.Name)
		}
	}
	return nil
}

func (w *watch) add(b *store.Batch, ev *clientv3.Event) {
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
