package store

import "context"

// Partitioner is a Store that can tell which partitions have keys. Those who look at a whole store (a check, a backup, a move) ask for it, so
// that they also find what nothing else leads to; a Store without it shows them the partitions that the records name.
type Partitioner interface {
	// Partitions returns the partitions that have keys, no older than the call, in no order.
	Partitions(ctx context.Context) ([]string, error)
}
