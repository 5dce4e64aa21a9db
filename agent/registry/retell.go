package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/store"
	"weft/store/record"
)

// Knowledge is what a host knows of its cluster's records while their store is not believed.
type Knowledge struct {
	Picture   *record.Snapshot
	Histories map[string]string  // of which history of the cluster each partition of the picture is
	Own       []*record.Endpoint // of this host's sandboxes, from its journal: a picture may be a moment older
}

// partitions are those that this host can say something about: not those that it has not read since the records were put somewhere else. It may be
// none: an agent that has died soon after its first joining had saved no picture yet.
func (k Knowledge) partitions() (out []string) {
	if k.Picture.Cluster() == nil {
		return nil
	}
	for _, p := range k.Picture.Partitions() {
		if p != store.Alive && k.Histories[p] == k.Picture.Cluster().History {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// Times of putting partitions back.
const (
	retellEvery = 50 * time.Millisecond
	stealAfter  = 5 * time.Second // from who has begun with a partition and does not end
)

// Retell puts into a store that is being reseeded what a host knows, and says that it has. move is the store's mark and rev its revision: when
// that changes, the reseed has come to its end or was begun again, and Retell fails.
func (r *Registry) Retell(ctx context.Context, host record.HostID, move *record.Move, rev store.Rev, know Knowledge) error {
	t := &retelling{
		s: r.cfg.Store, host: host, move: move.ID, guard: store.Cond{Key: record.MovesKey(), Rev: rev}, know: know, began: map[string]time.Time{},
	}
	left := know.partitions()
	if len(left) == 0 {
		if err := r.awaitMeta(ctx, t); err != nil {
			return err
		}
	}
	for len(left) > 0 {
		var next []string
		for _, p := range left {
			done, err := t.partition(ctx, p)
			if err != nil {
				return fmt.Errorf("put %s back: %w", p, err)
			}
			if !done {
				next = append(next, p)
			}
		}
		if left = next; len(left) == 0 {
			break
		}
		select {
		case <-time.After(retellEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := t.own(ctx); err != nil {
		return fmt.Errorf("put the endpoints of this host back: %w", err)
	}
	say := txn{}
	say.t.If = []store.Cond{t.guard}
	say.put(record.MoveReplyKey(host), &record.MoveReply{Host: host, Move: move.ID, Told: true, Skipped: t.skipped})
	if say.err != nil {
		return say.err
	}
	return persist(ctx, t.s, say.t)
}

// awaitMeta waits until somebody has put partition meta back: only then is it known which networks there are.
func (r *Registry) awaitMeta(ctx context.Context, t *retelling) error {
	for {
		now, _, err := get[record.Retold](ctx, t.s, record.RetoldKey(store.Meta))
		if err != nil {
			return err
		}
		if now != nil && now.Move == t.move && now.Done {
			return nil
		}
		if _, rev, err := r.Move(ctx); err != nil || rev != t.guard.Rev {
			return errors.Join(errors.New("the reseed has ended, or was begun again"), err)
		}
		select {
		case <-time.After(retellEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// retelling is one host's part in a reseed.
type retelling struct {
	s       store.Store
	host    record.HostID
	move    string
	guard   store.Cond // the mark is as it was
	know    Knowledge
	began   map[string]time.Time // since when somebody else has been at a partition
	skipped []string
}

// partition puts one partition back, unless somebody else does whose picture is newer. It returns false where that one has not ended yet.
func (t *retelling) partition(ctx context.Context, p string) (done bool, err error) {
	mine := record.Retold{Move: t.move, Host: t.host, Generation: t.know.Picture.Cluster().Generation, Rev: t.know.Picture.Rev(p)}
	theirs, rev, err := get[record.Retold](ctx, t.s, record.RetoldKey(p))
	if err != nil {
		return false, err
	}
	if theirs != nil && theirs.Move == t.move && !theirs.Before(&mine) {
		since, seen := t.began[p]
		if !seen {
			t.began[p] = time.Now()
		}
		if theirs.Done || theirs.Host != t.host && (!seen || time.Since(since) < stealAfter) {
			return theirs.Done, nil
		}
	}
	at, err := t.note(ctx, p, rev, mine)
	if err == nil {
		err = t.fill(ctx, p, at)
	}
	if err == nil {
		mine.Done = true
		_, err = t.note(ctx, p, at.Rev, mine)
	}
	if k, lost := conflict(err); lost && k == record.RetoldKey(p) { // somebody with a newer picture was faster, or an outcome was unknown
		return false, nil
	}
	return err == nil, err
}

// note writes who puts a partition back, and returns what to compare as long as that is so.
func (t *retelling) note(ctx context.Context, p string, rev store.Rev, what record.Retold) (store.Cond, error) {
	k := record.RetoldKey(p)
	w := txn{}
	w.t.If = []store.Cond{t.guard}
	w.when(k, rev)
	w.put(k, &what)
	if w.err != nil {
		return store.Cond{}, w.err
	}
	if err := persist(ctx, t.s, w.t); err != nil {
		return store.Cond{}, err
	}
	e, err := t.s.Get(ctx, k)
	if err != nil {
		return store.Cond{}, err
	}
	var now record.Retold
	if err := now.Decode(e.Value); err != nil || now.Host != t.host || now.Move != t.move {
		return store.Cond{}, &store.ConflictError{Key: k, Have: e.Rev}
	}
	return store.Cond{Key: k, Rev: e.Rev}, nil
}

// fill makes a partition what the picture has. What is of a later version, and no picture of this one's, stays.
func (t *retelling) fill(ctx context.Context, p string, at store.Cond) error {
	d, err := t.know.Picture.Dump(p)
	if err != nil {
		return err
	}
	want := map[string][]byte{}
	for _, e := range d.Entries {
		want[e.Key.Name] = e.Value
	}
	ops, _, err := difference(ctx, t.s, p, want)
	if err != nil {
		return err
	}
	ops = slices.DeleteFunc(ops, func(o store.Op) bool { return o.Delete && !pictured(o.Key) })
	return writeAll(ctx, t.s, ops, t.guard, at)
}

// pictured tells a key that a picture of this version has.
func pictured(k store.Key) bool {
	dir, _, _ := strings.Cut(k.Name, "/")
	return slices.Contains([]string{
		"networks", "hosts", "fences", "names", "vnis", "vteps", "cleared", "authority", "pools-gen", "ep", "addr", "name", "mac", "kept", "vip",
	}, dir)
}

// own puts back the endpoints of this host's own sandboxes that nobody's picture had.
func (t *retelling) own(ctx context.Context) error {
	meta, err := t.s.List(ctx, store.Meta)
	if err != nil {
		return err
	}
	view := record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries})
	for _, ep := range t.know.Own {
		n, ok := view.Network(ep.Network)
		if !ok {
			t.skip(ep, "network "+record.ShortID(ep.Network)+" was removed, as far as any host knows")
			continue
		}
		if err := t.ownOne(ctx, n, ep); err != nil {
			return err
		}
	}
	return nil
}

func (t *retelling) skip(ep *record.Endpoint, why string) {
	const most = 100 // a reply has to fit the store
	if len(t.skipped) < most {
		t.skipped = append(t.skipped, fmt.Sprintf("endpoint %s of host %s: %s", ep.Name, record.ShortID(ep.Host), why))
	}
}

// ownOne claims what an endpoint has, as its creation does.
func (t *retelling) ownOne(ctx context.Context, n *record.Network, ep *record.Endpoint) error {
	have, _, err := get[record.Endpoint](ctx, t.s, record.EndpointKey(n.ID, ep.ID))
	if err != nil || have != nil {
		return err
	}
	bare := withVIPs(ep, nil) // what they share is put right when the store is believed
	w := txn{}
	w.t.If = []store.Cond{t.guard}
	w.when(record.EndpointKey(n.ID, ep.ID), store.Absent)
	for _, a := range ep.Addrs {
		w.claim(record.AddrKey(n.ID, a), string(ep.ID))
	}
	w.claim(record.EndpointNameKey(n.ID, ep.Name), string(ep.ID))
	w.claimMAC(n.ID, ep.ID, nil, ep)
	w.put(record.EndpointKey(n.ID, ep.ID), bare)
	if w.err != nil {
		return w.err
	}
	err = persist(ctx, t.s, w.t)
	var c *store.ConflictError
	switch {
	case !errors.As(err, &c) || c.Key == t.guard.Key:
		return err
	case c.Key == record.EndpointKey(n.ID, ep.ID):
		return nil // an attempt whose outcome was unknown
	}
	t.skip(ep, fmt.Sprintf("%s in network %s is another one's", c.Key.Name, n.Name))
	return nil
}
