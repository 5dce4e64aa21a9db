package registry

import (
	"context"
	"fmt"
	"time"

	"weft/store"
	"weft/store/record"
)

// How long a write waits while the records are on their way to another store, and how often it looks.
const (
	moveWait  = 20 * time.Second
	moveEvery = 20 * time.Millisecond
)

// unmoved returns the condition that the records are still this store's: every write has it, so that none slips in behind a move's or a
// restore's back. While the records are moved it waits for the end of that: the caller's store leads to the new one then.
func (r *Registry) unmoved(ctx context.Context, fresh bool) (store.Cond, error) {
	view := r.cfg.Picture()
	move, rev := view.Move()
	ctx, cancel := context.WithTimeout(ctx, moveWait)
	defer cancel()
	fresh = fresh || blocked(move, rev) || view.Corrupt()[record.MovesKey()] != nil
	for {
		if fresh {
			var err error
			if move, rev, err = r.readMove(ctx); err != nil {
				return store.Cond{}, err
			}
		}
		switch {
		case !blocked(move, rev):
			return store.Cond{Key: record.MovesKey(), Rev: rev}, nil
		case move.State == record.MoveRestoring && move.Reseed:
			return store.Cond{}, refuse(InUse, "the hosts are putting the cluster's records back; try again when that is done (if it was interrupted: run weft store reseed again)")
		case move.State == record.MoveRestoring:
			return store.Cond{}, refuse(InUse, "the cluster's records are being restored from a backup; try again when that is done (if it was interrupted: run weft restore again)")
		}
		fresh = true
		select {
		case <-ctx.Done():
			return store.Cond{}, fmt.Errorf("the cluster's records are being moved to %s: %w", move.To, store.ErrUnreachable)
		case <-time.After(moveEvery):
		}
	}
}

func blocked(m *record.Move, rev store.Rev) bool {
	return m.Frozen() || m == nil && rev != store.Absent
}

// Move returns the store's move, nil where there is none, and its revision.
func (r *Registry) Move(ctx context.Context) (*record.Move, store.Rev, error) {
	return r.readMove(ctx)
}

func (r *Registry) readMove(ctx context.Context) (*record.Move, store.Rev, error) {
	m, rev, err := get[record.Move](ctx, r.cfg.Store, record.MovesKey())
	if err != nil {
		return nil, rev, fmt.Errorf("read whether the records are being moved: %w", err)
	}
	return m, rev, err
}
