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
	now, fresh := w.compare(n.names)
	b := store.Batch{Rev: store.Rev(n.stat.Pzxid)}
	if b.Puts, err = w.s.readSigns(call, l, fresh); err != nil {
		if errors.Is(err, zk.ErrNoNode) { // gone meanwhile: look again
			wait(ctx, jitter(lookAgain))
			return nil, nil
		}
		return nil, err
	}
	var changes int
	b.Dels, changes = w.gone(now)
	count := int64(n.stat.Cversion)
	seen := count-w.place.next == int64(len(fresh)+changes)
	b.Resync = w.lost || !seen || len(b.Puts)+len(b.Dels) != 1 || b.Rev < w.rev
	if !w.begun || b.Rev < w.rev || len(b.Puts)+len(b.Dels) > 0 {
		if err := w.send(ctx, b); err != nil {
			return nil, err
		}
	}
	w.signs, w.rev, w.place, w.begun, w.lost = now, b.Rev, place{next: count}, true, false
	return n.watch, nil
}

// compare returns the keys of the signs that there are now, and the names of those that were not there before.
func (w *watch) compare(leaves []string) (now map[string]store.Key, fresh []string) {
	now = make(map[string]store.Key, len(leaves))
	for _, leaf := range leaves {
		k, err := ofSign(leaf)
		if err != nil {
			continue // a name that weft cannot have given
		}
		now[leaf] = k
		if _, ok := w.signs[leaf]; !ok {
			fresh = append(fresh, leaf)
		}
	}
	return now, fresh
}

// gone returns the keys that have no sign any more, and how many signs went: a key that was taken over has another.
func (w *watch) gone(now map[string]store.Key) (keys []store.Key, signs int) {
	held := make(map[store.Key]bool, len(now))
	for _, k := range now {
		held[k] = true
	}
	for leaf, k := range w.signs {
		if _, ok := now[leaf]; ok {
			continue
		}
		if signs++; !held[k] {
			keys = append(keys, k)
		}
	}
	return keys, signs
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
