package consul

import (
	"context"
	"errors"
	"time"

	"weft/store"
)

// Requests, to be counted.
const (
	KeepMax = keepMax
	Shards  = shards
)

// Compact takes all but the newest entry out of a partition's journal, as if it had been trimmed while the test's watches did not look.
func Compact(ctx context.Context, s store.Store, partition string) error {
	x, ok := s.(*Store)
	if !ok {
		return errors.New("not a store of Consul")
	}
	return x.trim(ctx, shardOf(partition), func(all []entry, _ time.Time) []entry { return all[:max(len(all)-1, 0)] })
}

// JournalOf returns how many entries a partition's journal has.
func JournalOf(ctx context.Context, s store.Store, partition string) (int, error) {
	all, _, err := s.(*Store).readJournal(withKind(ctx, read), shardOf(partition), 0)
	return len(all), err
}
