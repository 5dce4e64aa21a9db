package memory

import "weft/store"

// Cut takes the client off the world, or puts it back. Its sessions are not renewed meanwhile, and its watches stand still.
func (c *Client) Cut(yes bool) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	c.cut = yes
	if !yes {
		c.world.wakeLocked()
	}
}

// NextUnknown makes the outcome of the client's next transaction unknown; applied says what becomes of it (if its conditions hold).
func (c *Client) NextUnknown(applied bool) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	c.unknown = append(c.unknown, applied)
}

// ForgetHistory makes every watch of the client resync, as a compaction does while the client is cut off.
func (c *Client) ForgetHistory() {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	for w := range c.world.watchers {
		if w.client == c {
			w.queue, w.resync = nil, true
		}
	}
	c.world.wakeLocked()
}

// Expire ends the session that holds k, as if it had not been renewed for its TTL, and tells whether there was one.
func (w *World) Expire(k store.Key) bool {
	w.writes.Lock()
	defer w.writes.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sessions {
		if s.key == k && s.holdsLocked() {
			s.endLocked()
			return true
		}
	}
	return false
}
