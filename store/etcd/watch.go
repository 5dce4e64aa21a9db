package etcd

import (
	"context"
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
	probeEvery = 10 * time.Second
)

// watch is one Watch: where it stands, and what it has delivered.
type watch struct {
	s         *Store
	partition string
	out       chan store.Batch
	known     map[string]store.Rev // name to Rev, as delivered
	rev       store.Rev            // up to which everything was delivered
	cluster   uint64
}

// Watch delivers a partition's batches.
func (s *Store) Watch(ctx context.Context, partition string) <-chan store.Batch {
	w := &watch{s: s, partition: partition, out: make(chan store.Batch), known: map[string]store.Rev{}}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer close(w.out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		w.run(ctx)
	}()
	return w.out
}

func (w *watch) run(ctx context.Context) {
	wait := firstRetry
	for ctx.Err() == nil {
		began := time.Now()
		if w.resync(ctx) {
			w.follow(ctx)
		}
		if time.Since(began) > lastRetry {
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
func (w *watch) resync(ctx context.Context) bool {
	call, cancel := context.WithTimeout(ctx, 6*callTimeout)
	defer cancel()
	l, cluster, err := w.s.list(call, w.partition)
	if err != nil {
		return false
	}
	b := store.Batch{Rev: l.Rev, Resync: true}
	now := make(map[string]store.Rev, len(l.Entries))
	sameHistory := cluster == w.cluster
	for _, e := range l.Entries {
		now[e.Key.Name] = e.Rev
		if rev, ok := w.known[e.Key.Name]; !ok || rev != e.Rev || !sameHistory {
			b.Puts = append(b.Puts, e)
		}
	}
	for name := range w.known {
		if _, ok := now[name]; !ok {
			b.Dels = append(b.Dels, store.Key{Partition: w.partition, Name: name})
		}
	}
	slices.SortFunc(b.Dels, func(x, y store.Key) int { return strings.Compare(x.Name, y.Name) })
	first := w.rev == 0
	w.known, w.rev, w.cluster = now, l.Rev, cluster
	if !first && len(b.Puts)+len(b.Dels) == 0 && sameHistory {
		return true
	}
	return w.send(ctx, b)
}

func (w *watch) send(ctx context.Context, b store.Batch) bool {
	select {
	case w.out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow delivers events from where the watch stands until something is wrong.
func (w *watch) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := w.s.cli.Watch(clientv3.WithRequireLeader(ctx), w.s.dir(w.partition), clientv3.WithPrefix(), clientv3.WithRev(int64(w.rev)+1))
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-probe.C:
			if !w.sameHistory(ctx) {
				return
			}
		case r, ok := <-events:
			if !ok || r.Err() != nil || r.Canceled {
				return
			}
			if !w.deliver(ctx, r.Events) {
				return
			}
		}
	}
}

// sameHistory makes sure that the cluster is the one that the watch began in and has not gone back: it would be silent for ever there.
// A cluster that does not answer is no reason to list again; the client resumes by itself.
func (w *watch) sameHistory(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := w.s.cli.Get(ctx, w.s.prefix, clientv3.WithCountOnly())
	return err != nil || r.Header.ClusterId == w.cluster && store.Rev(r.Header.Revision) >= w.rev
}

// deliver makes one batch of each revision's events. etcd does not split a revision over responses unless asked to.
func (w *watch) deliver(ctx context.Context, events []*clientv3.Event) bool {
	for len(events) > 0 {
		rev := events[0].Kv.ModRevision
		b := store.Batch{Rev: store.Rev(rev)}
		for len(events) > 0 && events[0].Kv.ModRevision == rev {
			w.add(&b, events[0])
			events = events[1:]
		}
		if !w.send(ctx, b) {
			return false
		}
		w.rev = b.Rev
		for _, e := range b.Puts {
			w.known[e.Key.Name] = e.Rev
		}
		for _, k := range b.Dels {
			delete(w.known, k.Name)
		}
	}
	return true
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
