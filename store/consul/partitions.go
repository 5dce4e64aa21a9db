package consul

import (
	"context"
	"strings"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

var _ store.Partitioner = (*Store)(nil)

// Partitions returns the partitions that have keys. Consul names the levels below a shard without reading what is in them.
func (s *Store) Partitions(ctx context.Context) ([]string, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if _, err := s.id(ctx); err != nil { // names that may not be read are left out
		return nil, s.readError("list the partitions", err)
	}
	var out []string
	for _, shard := range allShards() {
		dir := s.root(shard) + "k/"
		levels, err := s.levels(ctx, dir)
		if err != nil {
			return nil, s.readError("list the partitions", err)
		}
		for _, l := range levels {
			escaped, isLevel := strings.CutSuffix(strings.TrimPrefix(l, dir), "/")
			if p, ok := unescape(escaped); ok && isLevel && escape(p) == escaped && shardOf(p) == shard {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

func (s *Store) levels(ctx context.Context, dir string) (out []string, err error) {
	err = s.withToken(func() (err error) {
		out, _, err = s.cli.KV().Keys(dir, "/", (&api.QueryOptions{RequireConsistent: true}).WithContext(withKind(ctx, read)))
		return err
	})
	return out, err
}
