package zk

import (
	"context"
	"errors"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// ensure makes the nodes that partitions need, and tells whether any were missing. Nobody finds half of them.
func (s *Store) ensure(ctx context.Context, l *link, partitions ...string) (made bool, err error) {
	for _, p := range partitions {
		_, err := l.multi(ctx, s.partition(&multi{l: l}, p).ops...)
		if errors.Is(err, zk.ErrNoNode) {
			err = s.makeRoot(ctx, l, p)
		}
		if exists(err) != nil {
			return made, err
		}
		made = made || err == nil
	}
	if len(partitions) == 0 {
		err = s.makeRoot(ctx, l)
		return err == nil, exists(err)
	}
	return made, nil
}

// partition adds a partition's nodes.
func (s *Store) partition(m *multi, name string) *multi {
	leaves := []string{"", keysDir, logDir, headLeaf, delLeaf}
	if name == store.Alive {
		leaves = []string{"", keysDir, signsDir, headLeaf}
	}
	for _, leaf := range leaves {
		m.create(s.dir(name)+leaf, nil, 0)
	}
	return m
}

// exists forgives that another client was faster.
func exists(err error) error {
	if errors.Is(err, zk.ErrNodeExists) {
		return nil
	}
	return err
}

// history returns the ID of the tree's history; who first asks makes the tree, with a new one. Data that was lost, or is another cluster's,
// has another ID.
func (s *Store) history(ctx context.Context, l *link) (string, error) {
	n, err := l.get(ctx, s.root)
	if errors.Is(err, zk.ErrNoNode) {
		if err := s.makeRoot(ctx, l); err != nil {
			return "", err
		}
		n, err = l.get(ctx, s.root)
	}
	if err != nil || len(n.data) > 0 {
		return string(n.data), err
	}
	// An administrator made the node, and left it to us to name it.
	err = l.do(ctx, func() error { _, err := l.conn.Set(s.root, []byte(newMark()), n.stat.Version); return err })
	if err != nil && !errors.Is(err, zk.ErrBadVersion) {
		return "", err
	}
	n, err = l.get(ctx, s.root)
	return string(n.data), err
}

// makeRoot makes the tree, with partitions.
func (s *Store) makeRoot(ctx context.Context, l *link, partitions ...string) error {
	denied := s.makeParents(ctx, l)
	if denied != nil && !errors.Is(denied, zk.ErrNoAuth) {
		return denied
	}
	m := &multi{l: l}
	m.create(s.root, []byte(newMark()), 0)
	m.create(s.revNode(), nil, 0)
	for _, p := range partitions {
		s.partition(m, p)
	}
	_, err := l.multi(ctx, m.ops...)
	if errors.Is(err, zk.ErrNoNode) && denied != nil {
		return denied
	}
	if !errors.Is(err, zk.ErrNodeExists) {
		return err
	}
	// An administrator made the root, or another client the tree.
	if err := exists(l.create(ctx, s.revNode(), nil)); err != nil {
		return err
	}
	for _, p := range partitions {
		if _, err := l.multi(ctx, s.partition(&multi{l: l}, p).ops...); exists(err) != nil {
			return err
		}
	}
	return nil
}

// makeParents makes what is above the root. Those that are there need not be ours.
func (s *Store) makeParents(ctx context.Context, l *link) (denied error) {
	for i := 1; i < len(s.root); i++ {
		if s.root[i] != '/' {
			continue
		}
		err := exists(l.create(ctx, s.root[:i], nil))
		if err != nil && !errors.Is(err, zk.ErrNoAuth) {
			return err
		}
		denied = errors.Join(denied, err)
	}
	return denied
}
