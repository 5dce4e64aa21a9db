package agent

import (
	"context"
	"slices"
	"strings"

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

// lost tells whether changes took something away that should be there. What the loop takes away itself it has forgotten before, so that its own
// work wakes nobody.
func (l *loop) lost(changes []kernel.Change) bool {
	return slices.ContainsFunc(changes, func(c kernel.Change) bool {
		switch {
		case c.Doubt, c.Kind == kernel.KindTable, c.Kind == kernel.KindGuest:
			return true
		case c.Kind == kernel.KindVeth:
			return l.hasLink(c.Link)
		}
		return slices.ContainsFunc(l.parts(), func(s kernel.State) bool { _, ok := s[c.Key]; return ok })
	})
}

func (l *loop) parts() []kernel.State {
	var out []kernel.State
	for _, s := range l.have {
		out = append(out, s)
	}
	return out
}

// hasLink tells whether a link of the host is one that should be there: a bridge, a port, or a pair's far end.
func (l *loop) hasLink(name string) bool {
	for _, s := range l.parts() {
		for _, kind := range []kernel.Kind{kernel.KindBridge, kernel.KindVeth} {
			if _, ok := s[kernel.Key{Kind: kind, NS: kernel.HostNS, Link: name}]; ok {
				return true
			}
		}
		if !strings.HasPrefix(name, "weft") { // no far end is in the host but an uplink's: a state can have tens of thousands of objects
			continue
		}
		for _, o := range s {
			if v, ok := o.Spec.(kernel.Veth); ok && v.Peer.NS == kernel.HostNS && v.Peer.Name == name {
				return true
			}
		}
	}
	return false
}
