package follow

import (
	"weft/store"
	"weft/store/record"
)

// isRenewed tells a cluster whose records came from another store, or out of a backup, since they were seen last.
func (f *Follower) isRenewed(c *record.Cluster) bool {
	return c != nil && c.ID == f.cluster && c.History != f.history
}

// renewLocked begins to believe a store whose records were put there on purpose. What was seen before says nothing about it. Where the store was
// in doubt, what is shown of each other partition stays until that has been read again: its watch may be behind this one, in the middle of
// what the records were before they were whole.
func (f *Follower) renewLocked(c *record.Cluster) {
	f.history = c.History
	clear(f.seen)
	if f.doubt == nil {
		return
	}
	f.log.Info("the store is believed again: its records were put back", "cluster", c.ID, "history", c.History, "was", f.doubt)
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
	f.cluster, f.history, f.doubt = cluster, "", nil
	clear(f.seen)
	f.readAgainLocked(func(string) bool { return true })
}

// Changed returns a channel that is closed when the picture, or whether it is believed, changes next.
func (f *Follower) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}
