package relay

import (
	"context"
	"slices"
	"strings"

	"weft/store"
)

// Watch delivers a partition's batches, from whichever store the relay leads to.
func (r *Relay) Watch(ctx context.Context, partition string) <-chan store.Batch {
	out := make(chan store.Batch)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isClosed() {
		close(out)
		return out
	}
	r.wg.Go(func() {
		defer close(out)
		w := watch{relay: r, partition: partition, known: map[string]bool{}, out: out}
		w.run(ctx)
	})
	return out
}

// watch is one watch over all legs.
type watch struct {
	relay     *Relay
	partition string
	known     map[string]bool // the names of what was delivered
	out       chan<- store.Batch
	begun     bool
}

func (w *watch) run(ctx context.Context) {
	for {
		w.relay.mu.Lock()
		l := w.relay.leg
		w.relay.mu.Unlock()
		w.pass(ctx, l)
		if ctx.Err() != nil || w.relay.isClosed() || l.over.Err() == nil { // a watch that ends by itself is one of a closed store
			return
		}
	}
}

// pass passes one leg's batches on until the relay leads elsewhere.
func (w *watch) pass(ctx context.Context, l *leg) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.over, cancel)()
	first := true
	for b := range l.Watch(ctx, w.partition) {
		if first && w.begun {
			b = w.anew(b)
		}
		select {
		case <-ctx.Done():
			return
		case w.out <- b:
			first, w.begun = false, true
			w.note(b)
		}
	}
}

// anew makes of the first batch of another store, which is everything that is there, the difference to what was delivered.
func (w *watch) anew(b store.Batch) store.Batch {
	b.Anew = true
	there := make(map[string]bool, len(b.Puts))
	for _, e := range b.Puts {
		there[e.Key.Name] = true
	}
	for name := range w.known {
		if !there[name] {
			b.Dels = append(b.Dels, store.Key{Partition: w.partition, Name: name})
		}
	}
	slices.SortFunc(b.Dels, func(a, b store.Key) int { return strings.Compare(a.Name, b.Name) })
	return b
}

func (w *watch) note(b store.Batch) {
	for _, k := range b.Dels {
		delete(w.known, k.Name)
	}
	for _, e := range b.Puts {
		w.known[e.Key.Name] = true
	}
}
