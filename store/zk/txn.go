package zk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// Txn applies a transaction: it reads what the versions are that its conditions mean, and sends one multi that checks them.
func (s *Store) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	if err := t.Check(); err != nil {
		return 0, err
	}
	for _, o := range t.Then {
		if o.Key.Partition == store.Alive && !o.Delete {
			return 0, fmt.Errorf("%w: %s is written by a session only", store.ErrInvalid, o.Key)
		}
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	l, err := s.data.link(ctx)
	if err != nil {
		return 0, notApplied(err)
	}
	for lost := 0; ; {
		rev, next, err := s.try(ctx, l, t, lost > 0)
		switch next {
		case over:
			return rev, err
		case overtaken:
			lost++
			wait(ctx, min(time.Duration(lost), 20)*rand.N(time.Millisecond))
		case unfounded:
		}
	}
}

// notApplied is the error of what was to be read before a transaction is sent.
func notApplied(err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("zk: %w (%w)", store.ErrUnreachable, err)
	}
	return err
}

// outcome says how a transaction that was tried goes on.
type outcome int

const (
	over      outcome = iota // it is applied, or failed
	overtaken                // something changed between its reads and its multi, and all its conditions hold nevertheless: again
	unfounded                // nodes that it needs were missing and are there now: again
)

// try sends the transaction once.
func (s *Store) try(ctx context.Context, l *link, t store.Txn, again bool) (store.Rev, outcome, error) {
	f, err := s.look(ctx, l, t, again)
	if err != nil {
		return 0, over, notApplied(s.readError(l, "read the conditions", err))
	}
	if f.doubt {
		err := s.conflict(ctx, l, t)
		return 0, nextAfter(err), err
	}
	m := s.build(l, t, f)
	rs, err := l.multi(ctx, m.ops...)
	if err == nil {
		l.memory.applied(t.Then)
		s.trimAfter(m, rs)
		return store.Rev(rs[m.rev].Stat.Mzxid), over, nil
	}
	var op *refusedOp
	if !errors.As(err, &op) || !raced(op.err) {
		return 0, over, s.writeError(l, err)
	}
	if errors.Is(op.err, zk.ErrNoNode) {
		made, err := s.ensure(ctx, l, partitions(t)...)
		if err != nil {
			return 0, over, notApplied(s.readError(l, "make the partition", err))
		}
		if made {
			return 0, unfounded, nil
		}
	}
	err = s.conflict(ctx, l, t)
	return 0, nextAfter(err), err
}

func nextAfter(conflict error) outcome {
	if conflict == nil {
		return overtaken
	}
	return over
}

// raced tells the answers to a multi that come from what others wrote.
func raced(err error) bool {
	return errors.Is(err, zk.ErrNoNode) || errors.Is(err, zk.ErrNodeExists) || errors.Is(err, zk.ErrBadVersion) || errors.Is(err, zk.ErrNotEmpty)
}

// partitions are those whose nodes a transaction needs.
func partitions(t store.Txn) []string {
	all := map[string]bool{}
	for _, c := range t.If {
		all[c.Key.Partition] = true
	}
	for _, o := range t.Then {
		all[o.Key.Partition] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// facts are what a transaction's multi is built on.
type facts struct {
	epochs map[string]int32   // of the partitions with a condition on a revision
	nodes  map[store.Key]fact // of the keys that had to be read
	doubt  bool               // a condition does not seem to hold
}

type fact struct {
	exists  bool
	version int32
	rev     store.Rev
	sign    string // of a key in partition alive: the node that goes with it
}

// look reads what must be known: nothing for keys that are to be absent, which a create checks, or only to exist. The epochs come first: a
// delete that comes between them and the keys must show.
func (s *Store) look(ctx context.Context, l *link, t store.Txn, again bool) (facts, error) {
	conds := map[store.Key]store.Rev{}
	for _, c := range t.If {
		conds[c.Key] = c.Rev
	}
	f, epochs, read := s.unknown(l, t, conds, again)
	if again && len(read) > 0 {
		if err := l.sync(ctx, s.root); err != nil {
			return f, err
		}
	}
	versions := make([]int32, len(epochs))
	err := each(ctx, len(epochs), func(ctx context.Context, i int) error {
		st, err := l.stat(ctx, s.epoch(epochs[i]))
		if st != nil {
			versions[i] = st.Version
		}
		return err
	})
	if err != nil {
		return f, err
	}
	for i, p := range epochs {
		f.epochs[p] = versions[i]
	}
	found := make([]fact, len(read))
	err = each(ctx, len(read), func(ctx context.Context, i int) (err error) { found[i], err = s.fact(ctx, l, read[i]); return })
	for i, k := range read {
		f.nodes[k] = found[i]
		if want, ok := conds[k]; ok && !found[i].holds(want) {
			f.doubt = true
		}
	}
	if err == nil {
		l.memory.learn(f)
	}
	return f, err
}

// unknown returns what is known already, and the partitions and keys that must be read.
func (s *Store) unknown(l *link, t store.Txn, conds map[store.Key]store.Rev, again bool) (f facts, epochs []string, read []store.Key) {
	f = facts{epochs: map[string]int32{}, nodes: map[store.Key]fact{}}
	dated := map[string][]store.Cond{}
	for _, c := range t.If {
		if c.Rev == store.Absent || c.Rev == store.Exists {
			continue
		}
		if c.Key.Partition != store.Alive {
			dated[c.Key.Partition] = append(dated[c.Key.Partition], c)
		} else if x, ok := s.fence(c); ok && !again {
			f.nodes[c.Key] = x
		} else {
			read = append(read, c.Key)
		}
	}
	for p, cs := range dated {
		known, epoch, ok := l.memory.holds(cs)
		if ok && !again {
			maps.Copy(f.nodes, known)
			f.epochs[p] = epoch
			continue
		}
		epochs = append(epochs, p)
		for _, c := range cs {
			read = append(read, c.Key)
		}
	}
	for _, o := range t.Then {
		want, conditional := conds[o.Key]
		switch {
		case !conditional && !o.Delete && !again && l.memory.has(o.Key):
			f.nodes[o.Key] = fact{exists: true}
		case !conditional || o.Key.Partition == store.Alive && want == store.Exists:
			read = append(read, o.Key)
		}
	}
	return f, epochs, read
}

func (s *Store) fact(ctx context.Context, l *link, k store.Key) (fact, error) {
	if k.Partition == store.Alive {
		return s.aliveFact(ctx, l, k)
	}
	st, err := l.stat(ctx, s.path(k))
	if err != nil || st == nil {
		return fact{}, err
	}
	return fact{exists: true, version: st.Version, rev: store.Rev(st.Mzxid)}, nil
}

// holds tells whether a condition on the key holds.
func (x fact) holds(want store.Rev) bool {
	switch want {
	case store.Absent:
		return !x.exists
	case store.Exists:
		return x.exists
	}
	return x.exists && x.rev == want
}

// conflict returns the first condition that does not hold now, nil if all do.
func (s *Store) conflict(ctx context.Context, l *link, t store.Txn) error {
	err := l.sync(ctx, s.root)
	found := make([]fact, len(t.If))
	if err == nil {
		err = each(ctx, len(t.If), func(ctx context.Context, i int) (err error) { found[i], err = s.fact(ctx, l, t.If[i].Key); return })
	}
	if err != nil {
		return notApplied(s.readError(l, "look for the conflict", err))
	}
	for i, c := range t.If {
		if !found[i].holds(c.Rev) {
			return &store.ConflictError{Key: c.Key, Have: found[i].rev}
		}
	}
	return nil
}
