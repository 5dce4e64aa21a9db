package zk

import (
	"context"
	"errors"

	zookeeper "github.com/go-zookeeper/zk"
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
		names, err := l.children(ctx, s.root+"/"+leaf+logDir)
		if err != nil && !errors.Is(err, zookeeper.ErrNoNode) {
			return err
		}
		for _, name := range names.names {
			err := l.do(ctx, func() error { return l.conn.Delete(s.root+"/"+leaf+logDir+"/"+name, -1) })
			if err != nil && !errors.Is(err, zookeeper.ErrNoNode) {
				return err
			}
		}
	}
	return nil
}
