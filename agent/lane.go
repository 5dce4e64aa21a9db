package agent

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"weft/kernel"
)

// lane deletes what is slow to delete (links, namespaces: 15–60 ms each, under RTNL) away from the loop, and what gathers within laneWait
// in one go. Handing over never blocks.
type lane struct {
	exec  kernel.Executor
	log   *slog.Logger
	clock Clock
	wake  chan struct{} // size 1: there is work
	rush  chan struct{} // size 1: somebody waits for it
	done  chan struct{} // size 1: freed has something

	mu    sync.Mutex // guards queue and freed
	queue []kernel.Op
	freed []kernel.Object
}

const laneWait = 50 * time.Millisecond

func newLane(exec kernel.Executor, log *slog.Logger, clock Clock) *lane {
	return &lane{exec: exec, log: log, clock: clock, wake: make(chan struct{}, 1), rush: make(chan struct{}, 1), done: make(chan struct{}, 1)}
}

func (l *lane) hand(ops []kernel.Op) {
	l.mu.Lock()
	l.queue = append(l.queue, ops...)
	l.mu.Unlock()
	signal(l.wake)
}

// hurry ends the gathering.
func (l *lane) hurry() { signal(l.rush) }

// takeFreed returns what has been deleted, or could not be, since the last call.
func (l *lane) takeFreed() []kernel.Object {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.freed
	l.freed = nil
	return out
}

func (l *lane) run(ctx context.Context) {
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
		select {
		case <-l.rush:
		case <-l.clock.After(laneWait):
		case <-ctx.Done():
			return
		}
		l.mu.Lock()
		ops := l.queue
		l.queue = nil
		l.mu.Unlock()
		slices.SortFunc(ops, inLane)
		errs := l.exec.Apply(ctx, ops)
		gone := make([]kernel.Object, len(ops))
		for i, o := range ops {
			gone[i] = o.Obj
			if errs[i] != nil && ctx.Err() == nil { // the next reading finds it again
				l.log.Warn("could not delete", "object", o.Obj.Key.String(), "error", errs[i])
			}
		}
		l.mu.Lock()
		l.freed = append(l.freed, gone...)
		l.mu.Unlock()
		signal(l.done)
	}
}

// inLane is the order of deletes: ports before their bridge, a bridge before its namespace, and what guards a port after it.
func inLane(a, b kernel.Op) int {
	guard := func(o kernel.Op) int {
		if o.Obj.Kind == kernel.KindElement {
			return 1
		}
		return 0
	}
	return cmp.Or(guard(a)-guard(b), b.Obj.Compare(a.Obj.Key))
}

// signal wakes the one who waits on a channel of size 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
