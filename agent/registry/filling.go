package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/store"
	"weft/store/record"
)

// filling is a store that is being filled with a cluster's records, from a backup or from another store. From its begin on the store has a mark,
// which keeps all agents from writing, and no cluster's record, so that none believes it; its end puts the record, with a history of its own,
// and takes the mark away. In between it may be left and begun again: what is there already is left alone.
type filling struct {
	s     store.Store
	guard store.Cond // the mark is ours
	move  record.Move
}

// changes counts what a filling has to do, or has done.
type changes struct{ Puts, Dels, Same int }

func (c *changes) add(o changes) {
	c.Puts, c.Dels, c.Same = c.Puts+o.Puts, c.Dels+o.Dels, c.Same+o.Same
}

// beginFilling sets the mark, over the one of an earlier filling if need be. meta is the store's as it was read: what has changed since refuses.
func beginFilling(ctx context.Context, s store.Store, meta *record.Snapshot, mark record.Move) (*filling, error) {
	before, had := meta.Move()
	mark = supersede(mark, before, meta.Cluster())
	t := txn{}
	t.when(record.MovesKey(), had)
	t.when(record.ClusterKey(), meta.ClusterRev())
	t.put(record.MovesKey(), &mark)
	t.del(record.ClusterKey())
	if t.err != nil {
		return nil, t.err
	}
	f := &filling{s: s, move: mark}
	err := retry(ctx, func(bool) (bool, error) {
		_, err := s.Txn(ctx, t.t)
		k, lost := conflict(err)
		if err != nil && !lost && !errors.Is(err, store.ErrUnknown) {
			return false, err
		}
		now, rev, readErr := get[record.Move](ctx, s, record.MovesKey())
		switch {
		case readErr != nil:
			return false, readErr
		case now != nil && now.ID == mark.ID:
			f.guard = store.Cond{Key: record.MovesKey(), Rev: rev}
			return false, nil
		case lost:
			return false, fmt.Errorf("somebody else has just changed %s: %w", k, err)
		}
		return true, err
	})
	return f, err
}

// supersede makes the mark of a filling that takes the place of what a store says: it knows the generation of what it replaces, and what the
// store had said of a move that has left it, both also through a filling that broke off.
func supersede(mark record.Move, before *record.Move, cluster *record.Cluster) record.Move {
	mark.State = record.MoveRestoring
	if cluster != nil {
		mark.Generation = max(mark.Generation, cluster.Generation)
	}
	switch {
	case before == nil && cluster != nil:
		mark.Superseded = cluster.Superseded // of a filling that came to its end, and was not used
	case before == nil:
	case before.State == record.MoveRestoring:
		mark.Generation, mark.Superseded = max(mark.Generation, before.Generation), before.Superseded
	case before.State == record.MoveMoved:
		left := *before
		if cluster != nil {
			left.Cluster = cluster.ID
		}
		mark.Superseded = &left
	}
	return mark
}

// generation is the least that this host knows of: records that are put somewhere get a greater one than all that any agent has seen. The
// clock stands in for what a host does not know that has lost its disk.
func (r *Registry) generation() uint64 {
	known := uint64(max(0, r.cfg.Now().Unix()))
	if c := r.cfg.Picture().Cluster(); c != nil {
		known = max(known, c.Generation)
	}
	return known
}

// partition makes a partition hold what is wanted, as far as that is movable and not the cluster's record.
func (f *filling) partition(ctx context.Context, name string, want map[string][]byte) (changes, error) {
	ops, c, err := difference(ctx, f.s, name, want)
	if err != nil {
		return c, err
	}
	return c, writeAll(ctx, f.s, ops, f.guard)
}

// difference is what makes a partition of s hold what is wanted.
func difference(ctx context.Context, s store.Store, partition string, want map[string][]byte) ([]store.Op, changes, error) {
	have, err := s.List(ctx, partition)
	if err != nil {
		return nil, changes{}, err
	}
	var c changes
	var ops []store.Op
	same := map[string]bool{}
	for _, e := range have.Entries {
		if !movable(e.Key) || e.Key == record.ClusterKey() {
			continue
		}
		value, wanted := want[e.Key.Name]
		switch {
		case !wanted:
			ops = append(ops, store.Del(e.Key))
			c.Dels++
		case string(value) == string(e.Value):
			same[e.Key.Name] = true
			c.Same++
		}
	}
	for name, value := range want {
		k := store.Key{Partition: partition, Name: name}
		if !same[name] && movable(k) && k != record.ClusterKey() {
			ops = append(ops, store.Put(k, value))
			c.Puts++
		}
	}
	return ops, c, nil
}

// writeAll does ops in as few transactions as they fit into, each of which compares the guards. What is written twice is the same.
func writeAll(ctx context.Context, s store.Store, ops []store.Op, guards ...store.Cond) error {
	t := store.Txn{If: guards}
	size := 0
	for i, op := range ops {
		t.Then = append(t.Then, op)
		size += len(op.Value)
		if i+1 < len(ops) && len(t.Then)+len(guards) < store.MaxOps && size+len(ops[i+1].Value) <= store.MaxTxn {
			continue
		}
		if err := persist(ctx, s, t); err != nil {
			return err
		}
		t.Then, size = nil, 0
	}
	return nil
}

// end puts the cluster's record: from now on the store is believed.
func (f *filling) end(ctx context.Context, c record.Cluster) error {
	c.History, c.Generation, c.Superseded = f.move.ID, max(c.Generation, f.move.Generation)+1, f.move.Superseded
	t := txn{}
	t.t.If = []store.Cond{f.guard}
	t.put(record.ClusterKey(), &c)
	t.del(record.MovesKey())
	if t.err != nil {
		return t.err
	}
	err := persist(ctx, f.s, t.t)
	if k, lost := conflict(err); lost && k == record.MovesKey() { // an attempt whose outcome was unknown may have been applied
		now, _, err2 := get[record.Cluster](ctx, f.s, record.ClusterKey())
		if err2 == nil && now != nil && now.History == f.move.ID {
			return nil
		}
	}
	return err
}

// persist does a transaction that may be done twice, until its outcome is known or ctx ends.
func persist(ctx context.Context, s store.Store, t store.Txn) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		_, err := s.Txn(ctx, t)
		if !errors.Is(err, store.ErrUnknown) && !errors.Is(err, store.ErrUnreachable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}
