package agent

import (
	"context"
	"slices"

	"weft/kernel"
)

// listen tells the loop what others change in the host, until ctx ends. A watch that breaks off is begun again; what it missed meanwhile is a doubt.
func (l *loop) listen(ctx context.Context, changes chan<- []kernel.Change) {
	for ctx.Err() == nil {
		err := l.watch(ctx, changes)
		if ctx.Err() != nil {
			return
		}
		l.log.Warn("cannot hear what changes in the kernel; it is looked at every minute meanwhile", "again", lastRetry, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-l.clock.After(lastRetry):
		}
		select {
		case changes <- []kernel.Change{{Doubt: true}}:
		case <-ctx.Done():
		}
	}
}

// lost tells whether changes took something away that should be there, or made something else of it. What the loop itself takes away it has forgotten
// before, and what it puts is as it should be, so that its own work wakes nobody.
func (l *loop) lost(changes []kernel.Change) bool {
	var ends map[kernel.Key]kernel.Object
	return slices.ContainsFunc(changes, func(c kernel.Change) bool {
		if c.Doubt || c.Kind == kernel.KindTable || c.Kind == kernel.KindGuest {
			return true
		}
		if o, ok := l.holds(c.Key); ok {
			return c.Breaks(o)
		}
		if c.Kind != kernel.KindVeth {
			return false
		}
		if ends == nil { // a state can have tens of thousands of objects: once is enough
			ends = l.farEnds()
		}
		o, ok := ends[c.Key]
		return ok && c.Breaks(o)
	})
}

// holds finds an object that should be there.
func (l *loop) holds(k kernel.Key) (kernel.Object, bool) {
	for _, s := range l.have {
		if o, ok := s[k]; ok {
			return o, true
		}
	}
	return kernel.Object{}, false
}

// farEnds are the pairs by their far ends.
func (l *loop) farEnds() map[kernel.Key]kernel.Object {
	out := map[kernel.Key]kernel.Object{}
	for _, s := range l.have {
		for _, o := range s {
			if v, ok := o.Spec.(kernel.Veth); ok {
				out[kernel.Key{Kind: kernel.KindVeth, NS: v.Peer.NS, Link: v.Peer.Name}] = o
			}
		}
	}
	return out
}
