package zk

import (
	"context"
	"errors"
	"strings"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// ensure makes the nodes that partitions need, where they are missing.
func (s *Store) ensure(ctx context.Context, l *link, partitions ...string) error {
	if _, err := s.history(ctx, l); err != nil {
		return err
	}
	if err := exists(l.create(ctx, s.revNode(), nil)); err != nil {
		return err
	}
	for _, p := range partitions {
		if st, err := l.stat(ctx, s.head(p)); err != nil || st != nil {
			if err != nil {
				return err
			}
			continue
		}
		leaves := []string{"", keysDir, logDir, headLeaf, delLeaf}
		if p == store.Alive {
			leaves = []string{"", keysDir, signsDir, headLeaf}
		}
		m := &multi{l: l}
		for _, leaf := range leaves {
			m.create(s.dir(p)+leaf, nil, 0)
		}
		if _, err := l.multi(ctx, m.ops...); exists(err) != nil {
			return err
		}
	}
	return nil
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

func (s *Store) makeRoot(ctx context.Context, l *link) error {
	for i := 1; i < len(s.root); i++ {
		if s.root[i] == '/' && !strings.HasSuffix(s.root[:i], "/") {
			if err := exists(l.create(ctx, s.root[:i], nil)); err != nil && !errors.Is(err, zk.ErrNoAuth) {
				return err // a parent that is there need not be ours
			}
		}
	}
	return exists(l.create(ctx, s.root, []byte(newMark())))
}
