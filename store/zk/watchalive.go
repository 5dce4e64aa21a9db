package zk

import (
	"context"
	"errors"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// lookAlive delivers what has changed among the signs of life, and returns a channel that tells of the next change. ZooKeeper counts the
// changes among a node's children: if there were as many as are seen, nothing has come and gone unseen.
func (w *watch) lookAlive(ctx context.Context, l *link) (<-chan zk.Event, error) {
	call, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	n, err := w.signsWatch(call, l)
	if err != nil {
		return nil, err
	}
	var fresh []string
	now := make(map[string]store.Key, len(n.names))
	held := make(map[store.Key]bool, len(n.names))
	for _, leaf := range n.names {
		k, err := ofSign(leaf)
		if err != nil {
			continue // a name that weft cannot have given
		}
		now[leaf] = k
		held[k] = true
		if _, ok := w.signs[leaf]; !ok {
			fresh = append(fresh, leaf)
		}
	}
	b := store.Batch{Rev: store.Rev(n.stat.Pzxid)}
	if b.Puts, err = w.s.readSigns(call, l, fresh); err != nil {
		if errors.Is(err, zk.ErrNoNode) { // gone meanwhile: look again
			wait(ctx, jitter(lookAgain))
			return nil, nil
		}
		return nil, err
	}
	gone := 0
	for leaf, k := range w.signs {
		if _, ok := now[leaf]; ok {
			continue
		}
		if gone++; !held[k] {
			b.Dels = append(b.Dels, k)
		}
	}
	count := int64(n.stat.Cversion)
	seen := count-w.place.next == int64(len(fresh)+gone)
	b.Resync = w.lost || !seen || len(b.Puts)+len(b.Dels) != 1 || b.Rev < w.rev
	if !w.begun || b.Rev < w.rev || len(b.Puts)+len(b.Dels) > 0 {
		if err := w.send(ctx, b); err != nil {
			return nil, err
		}
	}
	w.signs, w.rev, w.place, w.begun, w.lost = now, b.Rev, place{next: count}, true, false
	return n.watch, nil
}

// signsWatch reads the signs' names. Where no session was ever opened there are none, and a watch on the node that would hold them.
func (w *watch) signsWatch(ctx context.Context, l *link) (node, error) {
	n, err := l.childrenWatch(ctx, w.s.signs())
	if !errors.Is(err, zk.ErrNoNode) {
		return n, err
	}
	n, err = l.statWatch(ctx, w.s.signs())
	if err != nil {
		return n, err
	}
	if n.stat != nil {
		return n, errOvertaken
	}
	h, err := w.s.noHead(ctx, l)
	n.stat = &zk.Stat{Pzxid: int64(h.rev)}
	return n, err
}
