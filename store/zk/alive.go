package zk

import (
	"context"
	"errors"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// Partition alive has no journal: ZooKeeper itself deletes keys, with the session that held them. Each key is two ephemeral nodes of one
// transaction. The one under its name keeps others out. The other, its sign, has a name that is never given twice and a value that never
// changes: to check that it is there is to check that this very key is; and the names of all signs are the partition's whole state, so that
// a watch on them needs to read new ones only.

func (s *Store) aliveFact(ctx context.Context, l *link, k store.Key) (fact, error) {
	n, err := l.get(ctx, s.path(k))
	if errors.Is(err, zk.ErrNoNode) {
		return fact{}, nil
	}
	if err != nil {
		return fact{}, err
	}
	return fact{exists: true, rev: store.Rev(n.stat.Mzxid), sign: s.sign(k, string(n.data))}, nil
}

// fence returns what is known of a session's key without reading: a revision never changes its meaning.
func (s *Store) fence(c store.Cond) (fact, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.fences[c.Key]
	return x, ok && x.rev == c.Rev
}

// getAlive reads the key, then its sign. Where that is gone, the key is, too, or has another by now.
func (s *Store) getAlive(ctx context.Context, l *link, k store.Key) (store.Entry, error) {
	for {
		x, err := s.aliveFact(ctx, l, k)
		if err == nil && !x.exists {
			err = zk.ErrNoNode
		}
		if err != nil {
			return store.Entry{}, err
		}
		n, err := l.get(ctx, x.sign)
		if !errors.Is(err, zk.ErrNoNode) || ctx.Err() != nil {
			return store.Entry{Key: k, Value: n.data, Rev: x.rev}, err
		}
		wait(ctx, jitter(lookAgain))
	}
}

// viewAlive reads the signs' names, which were all there at one moment, and what they hold.
func (s *Store) viewAlive(ctx context.Context, l *link) (view, error) {
	n, err := l.children(ctx, s.signs())
	if errors.Is(err, zk.ErrNoNode) {
		h, err := s.noHead(ctx, l)
		return view{rev: h.rev}, err
	}
	if err != nil {
		return view{}, err
	}
	found, err := s.readSigns(ctx, l, n.names)
	v := view{rev: store.Rev(n.stat.Pzxid), entries: map[string]store.Entry{}}
	for _, e := range found {
		v.entries[e.Key.Name] = e
	}
	return v, err
}

func (s *Store) signs() string { return s.dir(store.Alive) + signsDir }

func (s *Store) readSigns(ctx context.Context, l *link, leaves []string) ([]store.Entry, error) {
	out := make([]store.Entry, len(leaves))
	err := each(ctx, len(leaves), func(ctx context.Context, i int) error {
		k, err := ofSign(leaves[i])
		if err != nil {
			return err
		}
		n, err := l.get(ctx, s.signs()+"/"+leaves[i])
		if err == nil {
			out[i] = store.Entry{Key: k, Value: n.data, Rev: store.Rev(n.stat.Czxid)}
		}
		return err
	})
	return out, err
}
