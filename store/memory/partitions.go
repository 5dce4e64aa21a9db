package memory

import (
	"context"
	"maps"
	"slices"

	"weft/store"
)

var _ store.Partitioner = (*Client)(nil)

// Partitions returns the partitions that have keys.
func (c *Client) Partitions(ctx context.Context) ([]string, error) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	if err := c.usableLocked(ctx); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for k := range c.world.data {
		seen[k.Partition] = true
	}
	return slices.Collect(maps.Keys(seen)), nil
}
