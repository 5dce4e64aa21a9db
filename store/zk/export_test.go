package zk

import (
	"context"
	"errors"
	"time"

	zookeeper "github.com/go-zookeeper/zk"

	"weft/store"
)

// Forget empties the journals of the store's partitions.
func (s *Store) Forget(ctx context.Context) error {
	l, err := s.data.link(ctx)
	if err != nil {
		return err
	}
	n, err := l.children(ctx, s.root)
	if err != nil && !errors.Is(err, zookeeper.ErrNoNode) {
		return err
	}
	for _, leaf := range n.names {
		dir := s.root + "/" + leaf + logDir
		entries, err := l.children(ctx, dir)
		if err == nil {
			err = deleteAll(ctx, l, dir, entries.names)
		}
		if err != nil && !errors.Is(err, zookeeper.ErrNoNode) {
			return err
		}
	}
	return nil
}

// Trim trims a partition's journal.
func (s *Store) Trim(ctx context.Context, partition string, keep int, age time.Duration, most int) error {
	l, err := s.data.link(ctx)
	if err != nil {
		return err
	}
	return trim(ctx, l, s.dir(partition)+logDir, limits{keep, age, most})
}

// Keep sets how much a writer leaves of a journal.
func (s *Store) Keep(keep int, age time.Duration) { s.limits = limits{keep, age, usual.most} }

// Sweep empties the journals of partitions that were at rest for so long.
func (s *Store) Sweep(ctx context.Context, idle time.Duration) error {
	l, err := s.data.link(ctx)
	if err != nil {
		return err
	}
	return s.sweep(ctx, l, idle)
}

// Entries are the numbers of entries in a partition's journal: those that there are, and those that there ever were.
func (s *Store) Entries(ctx context.Context, partition string) (have, ever int, err error) {
	l, err := s.data.link(ctx)
	if err != nil {
		return 0, 0, err
	}
	dir, err := l.stat(ctx, s.dir(partition)+logDir)
	if err != nil {
		return 0, 0, err
	}
	head, err := l.stat(ctx, s.head(partition))
	return int(dir.NumChildren), int(head.Version), err
}

// TrimEvery is how many entries a journal grows by before somebody trims it.
const TrimEvery = trimEvery

// HeadPath is where a partition's journal has its head.
func (s *Store) HeadPath(partition string) string { return s.head(partition) }

// RootPath is the node that holds everything.
func (s *Store) RootPath() string { return s.root }

// Break ends the data connection as a network would.
func (s *Store) Break(ctx context.Context) error {
	l, err := s.data.link(ctx)
	if err == nil {
		l.fail()
	}
	return err
}

// Moved tells what a watch that was told of so many changes finds when it makes sure.
func (s *Store) Moved(ctx context.Context, partition string, entries int64) (bool, error) {
	l, err := s.data.link(ctx)
	if err != nil {
		return false, err
	}
	w := &watch{s: s, partition: partition, place: place{next: entries}}
	return w.moved(ctx, l)
}

// Remembers tells whether the connection remembers a key well enough for a condition on its revision.
func (s *Store) Remembers(ctx context.Context, c store.Cond) (bool, error) {
	l, err := s.data.link(ctx)
	if err != nil {
		return false, err
	}
	_, _, ok := l.memory.holds([]store.Cond{c})
	return ok, nil
}
