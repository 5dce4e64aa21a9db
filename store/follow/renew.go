package follow

import (
	"context"
	"errors"
	"maps"
	"time"

	"weft/store"
	"weft/store/record"
)

// askAgain is how long makeSure waits for a store that does not answer.
const askAgain = 100 * time.Millisecond

// makeSure compares the cluster's record before a whole partition is believed: partition meta, which would tell, has a watch of its own that
// may be behind this one, and a network that looks empty in another cluster's store would be taken down. Where the records were renewed, only
// what was seen of this partition is forgotten: the renewal itself is for the watch of partition meta, which may have to see a loss before.
func (f *Follower) makeSure(ctx context.Context, partition string) {
	for {
		f.mu.Lock()
		cluster := f.cluster
		f.mu.Unlock()
		if cluster == "" {
			return // nothing is known that could be lost
		}
		e, err := f.store.Get(ctx, record.ClusterKey())
		if err == nil || errors.Is(err, store.ErrNotFound) {
			var c *record.Cluster
			if err == nil {
				if c = new(record.Cluster); c.Decode(e.Value) != nil {
					return // a record that someone scribbled over: the last good one counts
				}
			}
			f.compare(ctx, partition, c)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(askAgain):
		}
	}
}

// compare judges a partition by the cluster's record, which is nil where there is none.
func (f *Follower) compare(ctx context.Context, partition string, c *record.Cluster) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil { // not followed any more
		return
	}
	if why := f.strange(c); why != nil {
		f.doubtIf(why)
		return
	}
	if f.isRenewed(c) {
		delete(f.seen, partition)
	}
	f.origin[partition] = c.History
}

// isRenewed tells a cluster whose records came from another store, or out of a backup, since they were seen last. Records of an older history
// are not renewed: their store went back.
func (f *Follower) isRenewed(c *record.Cluster) bool {
	return c != nil && c.ID == f.cluster && c.Succeeds(&f.known)
}

// isKnown tells the cluster's record that is believed.
func (f *Follower) isKnown(c *record.Cluster) bool {
	return c != nil && c.ID == f.cluster && c.History == f.known.History && c.Generation == f.known.Generation
}

// beginLocked takes the first record of a cluster in: whatever was read before belongs to it.
func (f *Follower) beginLocked(c *record.Cluster) {
	f.cluster, f.known = c.ID, *c
	for p := range f.origin {
		f.origin[p] = c.History
	}
}

// renewLocked begins to believe a store whose records were put there on purpose. What was seen before says nothing about it. What is shown of
// each other partition stays until that has been read again: its watch may be behind this one, in the middle of what the records were before
// they were whole. anew: the watches lead to another store, and each delivers by itself what is different there.
func (f *Follower) renewLocked(c *record.Cluster, anew bool) {
	f.known = *c
	clear(f.seen)
	if f.doubt == nil && anew {
		return
	}
	if f.doubt != nil {
		f.log.Info("the store is believed again: its records were put back", "cluster", c.ID, "history", c.History, "was", f.doubt)
	}
	f.doubt = nil
	f.readAgainLocked(func(partition string) bool { return partition != store.Meta })
}

// readAgainLocked watches partitions anew, from their beginning.
func (f *Follower) readAgainLocked(which func(string) bool) {
	for p, cancel := range f.watches {
		if !which(p) {
			continue
		}
		cancel()
		delete(f.watches, p)
		delete(f.heard, p)
		f.truth = f.truth.Drop(p)
		f.watchLocked(p)
	}
}

// Adopt makes the follower one of another cluster, whose records are to replace those of the store. Everything is read again; until then the
// picture stays as it is.
func (f *Follower) Adopt(cluster string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cluster == cluster {
		return
	}
	f.cluster, f.known, f.doubt = cluster, record.Cluster{}, nil
	clear(f.seen)
	f.readAgainLocked(func(string) bool { return true })
}

// PictureToKeep returns the picture, and of which history of the cluster each of its partitions is: those that the store has not spoken of
// since its records were renewed are of the one before.
func (f *Follower) PictureToKeep() (p *record.Snapshot, histories map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shown.Load(), maps.Clone(f.origin)
}

// Changed returns a channel that is closed when the picture, or whether it is believed, changes next.
func (f *Follower) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}
