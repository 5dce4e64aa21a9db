package zk

import (
	"context"
	"time"

	"github.com/go-zookeeper/zk"
)

// do runs one call of the library, which knows no contexts: the call may go on when do has returned, until the connection ends, which waits
// for it. There are never more of them than slots.
func (l *link) do(ctx context.Context, call func() error) error {
	select {
	case <-l.down:
		return zk.ErrNoServer
	default:
	}
	select {
	case l.slots <- struct{}{}:
	case <-l.down:
		return zk.ErrNoServer
	case <-ctx.Done():
		return errNotSent
	}
	began := time.Now()
	done := make(chan error, 1)
	go func() {
		defer func() { <-l.slots }()
		done <- call()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		if time.Since(began) >= stuckAfter {
			l.fail()
		}
		return ctx.Err()
	}
}

// answer is what a call returned; ask keeps a late one from a caller that has gone.
func ask[T any](ctx context.Context, l *link, call func() (T, error)) (T, error) {
	got := new(T)
	err := l.do(ctx, func() (err error) {
		*got, err = call()
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return *got, nil
}

// node is one as it was read; a watch tells when it is no longer so.
type node struct {
	data  []byte
	stat  *zk.Stat
	names []string // of its children
	watch <-chan zk.Event
}

func (l *link) get(ctx context.Context, path string) (node, error) {
	return ask(ctx, l, func() (n node, err error) { n.data, n.stat, err = l.conn.Get(path); return })
}

func (l *link) getWatch(ctx context.Context, path string) (node, error) {
	return ask(ctx, l, func() (n node, err error) { n.data, n.stat, n.watch, err = l.conn.GetW(path); return })
}

func (l *link) children(ctx context.Context, path string) (node, error) {
	return ask(ctx, l, func() (n node, err error) { n.names, n.stat, err = l.conn.Children(path); return })
}

func (l *link) childrenWatch(ctx context.Context, path string) (node, error) {
	return ask(ctx, l, func() (n node, err error) { n.names, n.stat, n.watch, err = l.conn.ChildrenW(path); return })
}

// stat returns nil for a node that does not exist.
func (l *link) stat(ctx context.Context, path string) (*zk.Stat, error) {
	return ask(ctx, l, func() (*zk.Stat, error) {
		ok, st, err := l.conn.Exists(path)
		if !ok {
			st = nil
		}
		return st, err
	})
}

// statWatch tells by its watch also when a node that does not exist comes into being.
func (l *link) statWatch(ctx context.Context, path string) (node, error) {
	return ask(ctx, l, func() (n node, err error) {
		var ok bool
		if ok, n.stat, n.watch, err = l.conn.ExistsW(path); !ok {
			n.stat = nil
		}
		return n, err
	})
}

// sync lets the server catch up with the leader. A node that is missing is no matter.
func (l *link) sync(ctx context.Context, path string) error {
	return l.do(ctx, func() error { _, err := l.conn.Sync(path); return err })
}

func (l *link) create(ctx context.Context, path string, data []byte) error {
	return l.do(ctx, func() error { _, err := l.conn.Create(path, data, 0, l.acl); return err })
}

// multi applies all or nothing. The library returns errors with the operations or for all.
func (l *link) multi(ctx context.Context, ops ...any) ([]zk.MultiResponse, error) {
	return ask(ctx, l, func() ([]zk.MultiResponse, error) {
		rs, err := l.conn.Multi(ops...)
		for _, r := range rs {
			if r.Error != nil {
				return nil, &refusedOp{r.Error}
			}
		}
		if raced(err) {
			err = &refusedOp{err}
		}
		return rs, err
	})
}

// refusedOp is the server's answer that it applied nothing of a multi, because of this operation.
type refusedOp struct{ err error }

func (e *refusedOp) Error() string { return e.err.Error() }
func (e *refusedOp) Unwrap() error { return e.err }

// each runs f for 0…n-1, several at a time: the library pipelines. It returns the first error.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	switch n {
	case 0:
		return nil
	case 1:
		return f(ctx, 0)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	done := make(chan struct{})
	workers := min(n, pipelined)
	for range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		}()
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	for range workers {
		<-done
	}
	return context.Cause(ctx)
}

// pipelined is how many reads of one list or watch are on their way at a time.
const pipelined = 128
