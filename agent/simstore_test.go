//go:build !race

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"weft/store"
	"weft/store/memory"
)

// simStore is the cluster's store as one life of an agent reaches it: calls take time, may hang, and may be answered to nobody.
type simStore struct {
	*memory.Client
	*simLife
}

// reach is the way to the store.
func (s simStore) reach(ctx context.Context) error {
	if err := sleep(ctx, s.lag(s.host.world.far())); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnreachable, err)
	}
	for s.host.hang.Load() {
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("%w: %w", store.ErrUnreachable, err)
		}
	}
	return s.write(func() {})
}

func (s simStore) Get(ctx context.Context, k store.Key) (store.Entry, error) {
	if err := s.reach(ctx); err != nil {
		return store.Entry{}, err
	}
	return s.Client.Get(ctx, k)
}

func (s simStore) List(ctx context.Context, partition string) (store.Snapshot, error) {
	if err := s.reach(ctx); err != nil {
		return store.Snapshot{}, err
	}
	return s.Client.List(ctx, partition)
}

func (s simStore) Status(ctx context.Context) (store.Status, error) {
	if err := s.reach(ctx); err != nil {
		return store.Status{}, err
	}
	return s.Client.Status(ctx)
}

func (s simStore) Txn(ctx context.Context, t store.Txn) (rev store.Rev, err error) {
	if err := s.reach(ctx); err != nil {
		return 0, err
	}
	if err := s.write(func() {
		rev, err = s.Client.Txn(ctx, s.host.world.altered(withKeys(t)))
		if err == nil || errors.Is(err, store.ErrUnknown) {
			s.host.world.cleared(t)
			s.host.world.written()
		}
	}); err != nil {
		return 0, err
	}
	if sleep(ctx, s.lag(s.host.world.far())) != nil || s.host.hang.Load() {
		return 0, fmt.Errorf("no answer: %w", store.ErrUnknown)
	}
	return rev, err
}

func (s simStore) OpenSession(ctx context.Context, cfg store.SessionConfig) (sess store.Session, err error) {
	if err := s.reach(ctx); err != nil {
		return nil, err
	}
	if err := s.write(func() { sess, err = s.Client.OpenSession(ctx, cfg) }); err != nil {
		return nil, err
	}
	return sess, err
}

// Watch tells late what it tells, where the host's watches lag.
func (s simStore) Watch(ctx context.Context, partition string) <-chan store.Batch {
	in, out := s.Client.Watch(ctx, partition), make(chan store.Batch)
	go func() {
		defer close(out)
		for b := range in {
			if lag := s.host.watchLag.Load(); lag > 0 {
				_ = sleep(ctx, time.Duration(lag))
			}
			_ = s.write(func() { s.told[partition] = true })
			select {
			case out <- b:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// simDisk is a file of a host's state directory: it outlives the agent, and has what was written before its death.
type simDisk struct {
	*memory.Client
	*simLife
}

func (d simDisk) Txn(ctx context.Context, t store.Txn) (rev store.Rev, err error) {
	if err := sleep(ctx, d.lag(time.Millisecond)); err != nil {
		return 0, err
	}
	if err := d.write(func() { rev, err = d.Client.Txn(ctx, t) }); err != nil {
		return 0, err
	}
	return rev, err
}

// simFiles are the pictures on a host's disk.
type simFiles struct{ *simLife }

func (f simFiles) Replace(name string, content []byte) error {
	return f.write(func() {
		f.host.mu.Lock()
		defer f.host.mu.Unlock()
		f.host.files[name] = content
	})
}

func (f simFiles) Remove(name string) error {
	return f.write(func() {
		f.host.mu.Lock()
		defer f.host.mu.Unlock()
		delete(f.host.files, name)
	})
}

func (f simFiles) All() (map[string][]byte, []error) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	return maps.Clone(f.host.files), nil
}
