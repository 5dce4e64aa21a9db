package etcd

import (
	"context"
	"net/url"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/store"
)

var _ store.Partitioner = (*Store)(nil)

// Partitions returns the partitions that have keys. It asks once for each, for its first key, and goes on behind its last.
func (s *Store) Partitions(ctx context.Context) ([]string, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.connected(ctx); err != nil {
		return nil, err
	}
	var out []string
	from, end := s.prefix, clientv3.GetPrefixRangeEnd(s.prefix)
	for {
		r, err := s.cli.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly())
		if err != nil {
			return nil, s.readError("list the partitions", err)
		}
		if len(r.Kvs) == 0 {
			return out, nil
		}
		path := string(r.Kvs[0].Key)
		dir, _, ok := strings.Cut(strings.TrimPrefix(path, s.prefix), "/")
		partition, err := url.PathUnescape(dir)
		if !ok || err != nil || url.PathEscape(partition) != dir { // no key of this store's: the next one may be
			from = path + "\x00"
			continue
		}
		out = append(out, partition)
		from = clientv3.GetPrefixRangeEnd(s.dir(partition))
	}
}
