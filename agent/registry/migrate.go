package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft/store"
	"weft/store/record"
)

// A move takes the records of a cluster from one store to another while its agents run, in steps that each leave something whole:
//
//	BeginMove   the old store says where to; each agent finds out whether it can follow, and holds a session in the new store
//	Fill        the new store gets most of the records, under a mark that keeps everybody off
//	Freeze      nothing is written to the old store any more
//	Fill again  what has changed since; both are compared
//	Finish      the new store holds the cluster, with a history of its own; then the old one says that the records have moved
//
// The last write decides. Before it, AbortMove makes the old store what it was, whoever calls it; after it, every agent that reads the old
// store follows. All writes compare the revision of the move's record, so two who move, or one who moves and one who aborts, cannot both win.

// BeginMove announces a move. The error names who is about another one.
func (r *Registry) BeginMove(ctx context.Context, as Actor, m record.Move) (store.Rev, error) {
	m.State, m.By, m.Started = record.MovePreparing, as.Host, r.cfg.Now().UTC()
	var rev store.Rev
	err := retry(ctx, func(bool) (bool, error) {
		now, had, err := r.readMove(ctx)
		if err != nil {
			return false, err
		}
		if now != nil && now.ID == m.ID {
			rev = had // an attempt whose outcome was unknown had been applied
			return false, nil
		}
		if now != nil {
			return false, refuse(Exists, "the records are being moved to %s already, by host %s: wait for that, or end it with weft store migrate --abort", now.To, r.hostName(now.By))
		}
		conds, err := r.conditions(ctx, as, true)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.t.If = conds // they have the move's key: it is absent
		t.put(record.MovesKey(), &m)
		rev, err = r.commit(ctx, t)
		_, lost := conflict(err)
		return lost || errors.Is(err, store.ErrUnknown), err
	})
	if err != nil {
		return 0, fmt.Errorf("begin to move the records: %w", err)
	}
	return rev, nil
}

// ReplyToMove says whether this host can follow a move, or that it has.
func (r *Registry) ReplyToMove(ctx context.Context, reply record.MoveReply) error {
	now, rev, err := r.readMove(ctx)
	if err != nil || now == nil || now.ID != reply.Move {
		return err // it is over
	}
	t := txn{}
	t.when(record.MovesKey(), rev)
	t.put(record.MoveReplyKey(reply.Host), &reply)
	if _, err = r.commit(ctx, t); err != nil {
		return fmt.Errorf("reply to a move of the records: %w", err)
	}
	return nil
}

// AdvanceMove takes a move from the state that it has at rev to another: to moving, which freezes the store, or to moved, which ends it. Its
// outcome is known, or the error says that it is not.
func (r *Registry) AdvanceMove(ctx context.Context, m record.Move, rev store.Rev, to record.MoveState) (store.Rev, error) {
	m.State = to
	t := txn{}
	t.when(record.MovesKey(), rev)
	t.put(record.MovesKey(), &m)
	if t.err != nil {
		return 0, t.err
	}
	err := persist(ctx, r.cfg.Store, t.t)
	if _, lost := conflict(err); err != nil && !lost {
		return 0, fmt.Errorf("say in the store that the records are %s: %w", to, err)
	}
	now, have, err := r.readMove(ctx)
	switch {
	case err != nil:
		return 0, err
	case now == nil || now.ID != m.ID || now.State != to:
		return 0, ErrMoveEnded
	}
	return have, nil
}

// ErrMoveEnded says that somebody else has ended a move.
var ErrMoveEnded = errors.New("the move was ended by another host or command")

// AbortMove ends a move that has not come to its end: everything goes on in this store. It returns the move that it ended, nil where there is
// none. only, unless it is empty, is the ID of the one to end.
func (r *Registry) AbortMove(ctx context.Context, only string) (*record.Move, error) {
	var ended *record.Move
	err := retry(ctx, func(bool) (bool, error) {
		now, rev, err := r.readMove(ctx)
		switch {
		case err != nil && rev != store.Absent && only == "": // it cannot be read: whoever asks for an end of it by name wants it gone
			now = &record.Move{}
		case err != nil:
			return errors.Is(err, store.ErrUnreachable), err
		}
		switch {
		case now == nil || only != "" && now.ID != only:
			return false, nil
		case now.State == record.MoveMoved:
			return false, refuse(InUse, "the records have moved to %s: that cannot be undone, but they can be moved back", now.To)
		case now.State == record.MoveRestoring:
			return false, refuse(InUse, "a backup is being restored, and nothing moved: finish that with weft restore")
		}
		ended = now
		t := txn{}
		t.when(record.MovesKey(), rev)
		t.del(record.MovesKey())
		_, err = r.commit(ctx, t)
		_, lost := conflict(err)
		return lost || errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrUnreachable), err
	})
	if err != nil {
		return nil, fmt.Errorf("end the move of the records: %w", err)
	}
	_ = r.dropReplies(ctx) // the move is ended, whether this succeeds or not
	return ended, nil
}

// dropReplies deletes what hosts have said to a move that is over. Nobody reads it any more, and the next replies replace it: it is only tidied
// away.
func (r *Registry) dropReplies(ctx context.Context) error {
	view, err := r.readMeta(ctx)
	if err != nil {
		return err
	}
	var keys []store.Key
	for h := range view.Hosts() {
		if _, ok := view.MoveReply(h.ID); ok {
			keys = append(keys, record.MoveReplyKey(h.ID))
		}
	}
	for some := range slices.Chunk(keys, store.MaxOps-1) {
		t := txn{}
		t.when(record.MovesKey(), store.Absent)
		for _, k := range some {
			t.del(k)
		}
		if err := persist(ctx, r.cfg.Store, t.t); err != nil {
			return err
		}
	}
	return nil
}

// Target is the store that records are moved to.
type Target struct {
	fill    *filling
	s       store.Store
	from    store.Store
	cluster record.Cluster
}

// CheckTarget refuses a store that is not free for the records of a cluster: one that holds something else, or this cluster for hosts that are
// not ours. What an earlier move has left there is no matter, nor are the sessions of hosts that are alive here: nobody is alive in two places.
func CheckTarget(ctx context.Context, s store.Store, ours *record.Cluster, aliveHere func(record.HostID) bool) error {
	meta, err := s.List(ctx, store.Meta)
	if err != nil {
		return err
	}
	alive, err := s.List(ctx, store.Alive)
	if err != nil {
		return err
	}
	others := 0
	for _, e := range alive.Entries {
		if !aliveHere(record.HostID(e.Key.Name)) {
			others++
		}
	}
	view := record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries})
	move, _ := view.Move()
	left := move != nil && move.State == record.MoveMoved
	switch c := view.Cluster(); {
	case c != nil && c.ID != ours.ID:
		return refuse(Exists, "it holds cluster %s: give an empty prefix", c.ID)
	case c != nil && !left && c.History == ours.History:
		return refuse(Exists, "it holds this very cluster: it is the same store, or a copy of it")
	case c != nil && !left && others > 0:
		return refuse(Exists, "it holds a copy of this cluster, and %d hosts use that", others)
	case c == nil && len(meta.Entries) > 0 && (move == nil || move.Cluster != ours.ID):
		return refuse(Exists, "there are other keys under its prefix: give an empty one")
	}
	return nil
}

// Aim marks a store as one that a move fills. Before, the move must have begun: were both the same store, it would be seen there.
func (r *Registry) Aim(ctx context.Context, to store.Store, m record.Move) (*Target, error) {
	c, _, err := get[record.Cluster](ctx, r.cfg.Store, record.ClusterKey())
	if err != nil || c == nil {
		return nil, errors.Join(errors.New("the store has no record of the cluster"), err)
	}
	meta, err := to.List(ctx, store.Meta)
	if err != nil {
		return nil, err
	}
	view := record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries})
	if now, _ := view.Move(); now != nil && now.ID == m.ID {
		return nil, refuse(Invalid, "it is the store that the records are in")
	}
	m.Cluster, m.To, m.Opts, m.Generation = c.ID, "", nil, r.generation()
	fill, err := beginFilling(ctx, to, view, m)
	if err != nil {
		return nil, err
	}
	return &Target{fill: fill, s: to, from: r.cfg.Store, cluster: *c}, nil
}

// Fill makes the target hold what the old store holds, and returns what there was to do.
func (t *Target) Fill(ctx context.Context) (Filled, error) {
	var out Filled
	names, meta, err := t.partitions(ctx)
	if err != nil {
		return out, err
	}
	for _, p := range append(names, store.Meta) {
		s := meta
		if p != store.Meta {
			if s, err = t.from.List(ctx, p); err != nil {
				return out, err
			}
		}
		want := make(map[string][]byte, len(s.Entries))
		for _, e := range s.Entries {
			want[e.Key.Name] = e.Value
		}
		c, err := t.fill.partition(ctx, p, want)
		if err != nil {
			return out, fmt.Errorf("copy partition %s: %w", p, err)
		}
		out.Changed += c.Puts + c.Dels
		out.Keys += c.Puts + c.Same
	}
	return out, nil
}

// Filled is what a Fill has done: keys that were not as they should be, and all that are there now.
type Filled struct{ Changed, Keys int }

// partitions are those of both stores, without alive, and the old one's meta.
func (t *Target) partitions(ctx context.Context) ([]string, store.Snapshot, error) {
	meta, err := t.from.List(ctx, store.Meta)
	if err != nil {
		return nil, meta, err
	}
	names, err := partitions(ctx, t.from, meta)
	if err != nil {
		return nil, meta, err
	}
	there, err := t.s.List(ctx, store.Meta)
	if err != nil {
		return nil, meta, err
	}
	more, err := partitions(ctx, t.s, there)
	if err != nil {
		return nil, meta, err
	}
	return networksOnly(append(names, more...)), meta, nil
}

// networksOnly are the partitions of networks, each once: what else is under a prefix is not the cluster's.
func networksOnly(names []string) []string {
	names = slices.DeleteFunc(slices.Clone(names), func(p string) bool { return !strings.HasPrefix(p, record.NetPartition("")) })
	slices.Sort(names)
	return slices.Compact(names)
}

// Complete makes the target hold the cluster.
func (t *Target) Complete(ctx context.Context) error { return t.fill.end(ctx, t.cluster) }

// Clear takes out of a store what a move that was aborted had put there, and makes it say again where its records had moved before, if they
// had. It leaves a store alone that holds anything else.
func Clear(ctx context.Context, to store.Store, move string) error {
	meta, err := to.List(ctx, store.Meta)
	if err != nil {
		return err
	}
	view := record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries})
	mark, rev := view.Move()
	switch c := view.Cluster(); {
	case mark != nil && mark.ID == move && mark.State == record.MoveRestoring && c == nil:
	case c != nil && c.History == move && mark == nil:
		if _, err := beginFilling(ctx, to, view, record.Move{ID: move, Cluster: c.ID}); err != nil {
			return err
		}
		if mark, rev, err = get[record.Move](ctx, to, record.MovesKey()); err != nil {
			return err
		}
	default:
		return nil
	}
	if mark == nil {
		return nil // somebody else has cleared it
	}
	f := &filling{s: to, guard: store.Cond{Key: record.MovesKey(), Rev: rev}}
	names, err := partitions(ctx, to, meta)
	if err != nil {
		return err
	}
	for _, p := range append(networksOnly(names), store.Meta) {
		if _, err := f.partition(ctx, p, nil); err != nil {
			return err
		}
	}
	return f.takeBack(ctx, mark.Superseded)
}

// takeBack ends a filling that is undone: the store says what it said before, which is nothing where before is nil.
func (f *filling) takeBack(ctx context.Context, before *record.Move) error {
	t := txn{}
	t.t.If = []store.Cond{f.guard}
	if before == nil {
		t.del(record.MovesKey())
	} else {
		t.put(record.MovesKey(), before)
	}
	if t.err != nil {
		return t.err
	}
	return persist(ctx, f.s, t.t)
}
