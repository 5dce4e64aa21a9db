package zk

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

var _ store.Partitioner = (*Store)(nil)

// Partitions returns the partitions that have keys. One that had some once may still have its nodes.
func (s *Store) Partitions(ctx context.Context) ([]string, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	l, err := s.data.link(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	if err = l.sync(ctx, s.root); err == nil {
		out, err = s.partitions(ctx, l)
	}
	if err != nil {
		return nil, s.readError(l, "list the partitions", err)
	}
	return out, nil
}

func (s *Store) partitions(ctx context.Context, l *link) ([]string, error) {
	n, err := l.children(ctx, s.root)
	if errors.Is(err, zk.ErrNoNode) {
		return nil, nil // nobody has written anything yet
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, leaf := range n.names {
		p, err := url.PathUnescape(leaf)
		if err != nil || escape(p) != leaf || strings.HasPrefix(leaf, "%rev") {
			continue
		}
		st, err := l.stat(ctx, s.dir(p)+keysDir)
		if err != nil {
			return nil, err
		}
		if st != nil && st.NumChildren > 0 {
			out = append(out, p)
		}
	}
	return out, nil
}
