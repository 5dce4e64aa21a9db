package zk

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// Times of a watch.
const (
	firstRetry = 50 * time.Millisecond // when the store did not answer as it should
	lastRetry  = 2 * time.Second
	lookEvery  = time.Minute      // a quiet one makes sure that nothing has changed
	listWait   = 30 * time.Second // for a whole partition
)

// watch is one Watch: what it has delivered, and where that is in the partition's history.
type watch struct {
	s         *Store
	partition string
	out       chan store.Batch
	seed      maphash.Seed
	known     map[string]mark // by name, as delivered (but in partition alive)
	rev       store.Rev       // up to which everything was delivered
	place     place
	history   string
	signs     map[string]store.Key // of partition alive, by name
	begun     bool
	lost      bool // what was delivered does not lead to what is there: list
}

// mark tells two values of a key apart, also where a restored server gave both the same revision.
type mark struct {
	rev store.Rev
	sum uint64
}

// Watch delivers a partition's batches.
func (s *Store) Watch(ctx context.Context, partition string) <-chan store.Batch {
	w := &watch{s: s, partition: partition, out: make(chan store.Batch), seed: maphash.MakeSeed(), lost: true}
	s.start(func() {
		defer close(w.out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		w.run(ctx)
	}, func() { close(w.out) })
	return w.out
}

// run follows the partition on one connection after the other.
func (w *watch) run(ctx context.Context) {
	pause := firstRetry
	for ctx.Err() == nil {
		began := time.Now()
		l, err := w.s.data.link(ctx) // waits for one
		if err != nil {
			pause = firstRetry
		} else if err = w.check(ctx, l); err == nil {
			err = w.follow(ctx, l)
		}
		if ctx.Err() != nil {
			return
		}
		w.s.log.Debug("a watch waits for the store", slog.String("partition", w.partition), slog.Any("error", w.s.readError(l, "watch", err)))
		if time.Since(began) > lastRetry {
			pause = firstRetry
		}
		wait(ctx, jitter(pause))
		pause = min(2*pause, lastRetry)
	}
}

// check finds out whether what is there goes on from where the watch stands: it may be an older backup, or another cluster's.
func (w *watch) check(ctx context.Context, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := l.sync(ctx, w.s.root); err != nil { // a server that lags would look like a backup
		return err
	}
	history, err := w.s.history(ctx, l)
	if err != nil {
		return err
	}
	if w.lost = w.lost || history != w.history; w.lost || w.partition == store.Alive {
		w.history = history
		return nil
	}
	h, err := w.s.headOf(ctx, l, w.partition)
	if err != nil {
		return err
	}
	last := h.place
	if h.place.next > w.place.next && w.place.next > 0 {
		r, _, err := w.s.entryAt(ctx, l, w.partition, w.place.next-1)
		if err != nil && !errors.Is(err, zk.ErrNoNode) {
			return err
		}
		last = place{next: w.place.next, mark: r.mark}
	}
	w.lost = w.place.next > 0 && last != w.place
	return nil
}

// follow delivers what comes until the connection breaks.
func (w *watch) follow(ctx context.Context, l *link) error {
	look := w.lookKeys
	if w.partition == store.Alive {
		look = w.lookAlive
	}
	for {
		if w.lost && w.partition != store.Alive {
			if err := w.resync(ctx, l); err != nil {
				return err
			}
		}
		changed, err := look(ctx, l)
		if err != nil {
			return err
		}
		if changed == nil {
			continue
		}
		if err := w.await(ctx, l, changed); err != nil {
			return err
		}
	}
}

// await waits for a change. ZooKeeper does not forget to tell; if it ever did, the watch would be silent for a while and not for good.
func (w *watch) await(ctx context.Context, l *link, changed <-chan zk.Event) error {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case e := <-changed:
			return e.Err
		case <-l.down:
			return l.wire.reason()
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		if moved, err := w.moved(ctx, l); err != nil || moved {
			return err
		}
	}
}

// moved asks whether the partition is elsewhere than the watch, without another watch: the library keeps each until it fires.
func (w *watch) moved(ctx context.Context, l *link) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	path, count := w.s.head(w.partition), func(st *zk.Stat) int32 { return st.Version }
	if w.partition == store.Alive {
		path, count = w.s.signs(), func(st *zk.Stat) int32 { return st.Cversion }
	}
	st, err := l.stat(ctx, path)
	if err != nil || st == nil {
		return w.place.next != 0, err
	}
	return int64(count(st)) != w.place.next, nil
}

// lookKeys delivers the entries that the journal has more than were delivered. It returns a channel that tells of the next one when there
// are no more.
func (w *watch) lookKeys(ctx context.Context, l *link) (<-chan zk.Event, error) {
	h, changed, err := w.headWatch(ctx, l)
	if err != nil {
		return nil, err
	}
	for from := w.place.next; from < h.place.next; from = w.place.next {
		if h.newest.full && from == h.place.next-1 {
			if err := w.deliver(ctx, h.newest.batch(w.partition, h.rev), h.place); err != nil {
				return nil, err
			}
			break
		}
		if err := w.catchUp(ctx, l, min(h.place.next, from+pipelined)); err != nil || w.lost {
			return nil, err
		}
	}
	if w.place != h.place { // it has gone back, and not by a restart: someone deleted the tree
		w.lost = true
		return nil, nil
	}
	return changed, nil
}

func (w *watch) headWatch(ctx context.Context, l *link) (journalHead, <-chan zk.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	path := w.s.head(w.partition)
	n, err := l.getWatch(ctx, path)
	if err == nil {
		return headFrom(n), n.watch, nil
	}
	if !errors.Is(err, zk.ErrNoNode) {
		return journalHead{}, nil, err
	}
	n, err = l.statWatch(ctx, path)
	if err == nil && n.stat != nil {
		err = errOvertaken
	}
	return journalHead{missing: true}, n.watch, err
}

var errOvertaken = errors.New("it was made just now")

// catchUp delivers the journal's entries up to before a number.
func (w *watch) catchUp(ctx context.Context, l *link, to int64) error {
	call, cancel := context.WithTimeout(ctx, listWait)
	batches, last, err := w.s.batches(call, l, w.partition, w.place.next, to)
	cancel()
	if errors.Is(err, zk.ErrNoNode) || errors.Is(err, errRecord) { // trimmed, or scribbled over
		w.lost = true
		return nil
	}
	for i, b := range batches {
		if err != nil {
			return err
		}
		at := place{next: w.place.next + 1}
		if i == len(batches)-1 {
			at.mark = last
		}
		err = w.deliver(ctx, b, at)
	}
	return err
}

// deliver sends one transaction's batch, after which the watch stands at the given place.
func (w *watch) deliver(ctx context.Context, b store.Batch, at place) error {
	if err := w.send(ctx, b); err != nil {
		return err
	}
	w.rev, w.place = b.Rev, at
	for _, e := range b.Puts {
		w.known[e.Key.Name] = w.mark(e)
	}
	for _, k := range b.Dels {
		delete(w.known, k.Name)
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

func (w *watch) mark(e store.Entry) mark {
	return mark{rev: e.Rev, sum: maphash.Bytes(w.seed, e.Value)}
}

// resync lists, and delivers the difference to what was delivered before.
func (w *watch) resync(ctx context.Context, l *link) error {
	call, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	err := l.sync(call, w.s.root)
	if err != nil {
		return err
	}
	if w.history, err = w.s.history(call, l); err != nil {
		return err
	}
	v, err := w.s.view(call, l, w.partition)
	if err != nil {
		return err
	}
	return w.settle(ctx, v)
}

// settle delivers the difference between what was delivered and a view, if there is any or the view is from before: the watch goes on there.
func (w *watch) settle(ctx context.Context, v view) error {
	b := store.Batch{Rev: v.rev, Resync: true}
	now := make(map[string]mark, len(v.entries))
	for _, e := range v.entries {
		now[e.Key.Name] = w.mark(e)
		if w.known[e.Key.Name] != now[e.Key.Name] {
			b.Puts = append(b.Puts, e)
		}
	}
	for name := range maps.Keys(w.known) {
		if _, ok := now[name]; !ok {
			b.Dels = append(b.Dels, store.Key{Partition: w.partition, Name: name})
		}
	}
	slices.SortFunc(b.Puts, byName)
	slices.SortFunc(b.Dels, func(x, y store.Key) int { return strings.Compare(x.Name, y.Name) })
	if !w.begun || v.rev < w.rev || len(b.Puts)+len(b.Dels) > 0 {
		if err := w.send(ctx, b); err != nil {
			return err
		}
	}
	w.known, w.rev, w.place, w.begun, w.lost = now, v.rev, v.place, true, false
	return nil
}
