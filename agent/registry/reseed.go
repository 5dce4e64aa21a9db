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

// A reseed puts back what hosts know into a store that has lost the cluster's records, or has older ones. It is a filling whose contents come from
// all hosts that are there: from its mark on no agent writes otherwise or believes the store, and each puts back the partitions that its picture
// has (retell.go). Where it breaks off, that stays so, and the next one begins again.

// ReseedRequest says how to put records back.
type ReseedRequest struct {
	By     record.HostID
	Force  bool // also where the store holds another cluster, and where a host is away that alone knows who is in a network
	DryRun bool
	Settle time.Duration // how long agents that believe the store have to hear that they should not
	// Patience is how long the hosts that have not told anything are waited for after the last one that has.
	Patience time.Duration
}

// ReseedResult is what a reseed has done, or would do.
type ReseedResult struct {
	Cluster                    string
	Networks, Hosts, Endpoints int      // put back, or brought up to date
	Same                       int      // of these kinds, that were there
	Skipped                    []string // what could not be put back, and why
	Pending                    []string // names of hosts that have not told what they know: they put back what is their own when they are back
}

// reseedEvery is how often it is looked who has told what he knows.
const reseedEvery = 100 * time.Millisecond

// reseedQuiet is how long nobody must have told anything new before all are taken to have: this host's picture may be too old to know of hosts that
// are there. They look every half a second whether they are asked.
const reseedQuiet = time.Second

// Reseed makes the store hold what the hosts know. know is what this host does.
func (r *Registry) Reseed(ctx context.Context, req ReseedRequest, know Knowledge) (ReseedResult, error) {
	c := know.Picture.Cluster()
	if c == nil {
		return ReseedResult{}, refuse(NotFound, "this host does not know the cluster's records: run it on a host that has been a member, or weft restore a backup")
	}
	out := ReseedResult{Cluster: c.ID}
	meta, others, err := r.whole(ctx)
	if err != nil {
		return out, fmt.Errorf("reseed: %w", err)
	}
	view := record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries})
	if err := mayReseed(view, c.ID, req); err != nil {
		return out, err
	}
	before, err := readAll(ctx, r.cfg.Store)
	if err != nil {
		return out, fmt.Errorf("reseed: %w", err)
	}
	if req.DryRun {
		return dryReseed(out, before, know, req.By)
	}
	fill, err := r.beginReseed(ctx, view, c.ID, req)
	if err != nil {
		return out, fmt.Errorf("reseed: %w", err)
	}
	w := &reseeding{registry: r, req: req, know: know, fill: fill, old: others}
	if err := w.run(ctx, *c); err != nil {
		return out, fmt.Errorf("the reseed has not ended, and no agent uses the store before it has; run it again: %w", err)
	}
	out.Skipped, out.Pending = w.skipped, w.pending
	after, err := readAll(ctx, r.cfg.Store)
	out.count(before, after)
	return out, err
}

// mayReseed refuses what would take records of others away without being asked to.
func mayReseed(view *record.Snapshot, cluster string, req ReseedRequest) error {
	if m, _ := view.Move(); m != nil && m.State != record.MoveRestoring {
		return refuse(InUse, "the cluster's records are being moved, or were moved, to %s: start this host with that store (weft store migrate --abort ends a move that has not ended)", m.To)
	}
	c := view.Cluster()
	if c == nil || c.ID == cluster || req.Force {
		return nil
	}
	return refuse(Exists, "the store holds cluster %s, and this host belongs to %s: give --cluster-store the right address, or --force to replace what is there", c.ID, cluster)
}

// beginReseed sets the mark, and gives the agents that believe the store time to hear of it.
func (r *Registry) beginReseed(ctx context.Context, view *record.Snapshot, cluster string, req ReseedRequest) (*filling, error) {
	fill, err := beginFilling(ctx, r.cfg.Store, view, record.Move{
		ID: NewID()[:32], Cluster: cluster, By: req.By, Started: r.cfg.Now().UTC(), Generation: r.generation(), Reseed: true,
	})
	if err != nil || view.Cluster() == nil {
		return fill, err
	}
	select {
	case <-time.After(req.Settle):
		return fill, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reseeding is a reseed under way.
type reseeding struct {
	registry         *Registry
	req              ReseedRequest
	know             Knowledge
	fill             *filling
	old              []string // partitions that the store had
	skipped, pending []string
}

func (w *reseeding) run(ctx context.Context, c record.Cluster) error {
	if err := w.registry.Retell(ctx, w.req.By, &w.fill.move, w.fill.guard.Rev, w.know); err != nil {
		return err
	}
	told, err := w.await(ctx)
	if err != nil {
		return err
	}
	if err := w.judge(told); err != nil {
		return err
	}
	if err := w.fill.shut(ctx); err != nil { // nobody tells anything from here on
		return err
	}
	if err := w.tidy(ctx); err != nil {
		return err
	}
	return w.fill.end(ctx, c)
}

// telling is what the store says of who has told what.
type telling struct {
	meta    *record.Snapshot
	done    map[string]bool // partitions that are as somebody knows them
	undone  map[string]record.HostID
	replies map[record.HostID]*record.MoveReply
}

func (t telling) progress() int { return len(t.replies) + len(t.done) + len(t.undone) }

// missing are the hosts that have not told what they know, by name.
func (t telling) missing() (names []string) {
	for h := range t.meta.Hosts() {
		if t.replies[h.ID] == nil {
			names = append(names, h.Name)
		}
	}
	slices.Sort(names)
	return names
}

// look reads how far the hosts have come.
func (w *reseeding) look(ctx context.Context) (telling, error) {
	l, err := w.registry.cfg.Store.List(ctx, store.Meta)
	if err != nil {
		return telling{}, err
	}
	t := telling{
		meta: record.Empty().Apply(store.Meta, store.Batch{Rev: l.Rev, Puts: l.Entries}),
		done: map[string]bool{}, undone: map[string]record.HostID{}, replies: map[record.HostID]*record.MoveReply{},
	}
	if m, rev := t.meta.Move(); m == nil || rev != w.fill.guard.Rev {
		return t, errors.New("somebody else has begun to put the records back")
	}
	for _, e := range l.Entries {
		p, ok := record.RetoldPartition(e.Key)
		if !ok {
			continue
		}
		var r record.Retold
		if err := r.Decode(e.Value); err != nil || r.Move != w.fill.move.ID {
			continue // of an earlier attempt
		}
		if r.Done {
			t.done[p] = true
		} else {
			t.undone[p] = r.Host
		}
	}
	for h := range t.meta.Hosts() {
		if r, ok := t.meta.MoveReply(h.ID); ok && r.Move == w.fill.move.ID && r.Told {
			t.replies[h.ID] = r
		}
	}
	return t, nil
}

// await waits until all hosts have told what they know and no other begins to, or until nothing was told for as long as the request's patience.
func (w *reseeding) await(ctx context.Context) (telling, error) {
	last, since := -1, time.Now()
	for {
		t, err := w.look(ctx)
		if err != nil {
			return t, err
		}
		if n := t.progress(); n != last {
			last, since = n, time.Now()
		}
		patience := w.req.Patience
		if len(t.missing()) == 0 {
			patience = min(patience, reseedQuiet)
		}
		if time.Since(since) > patience {
			return t, nil
		}
		select {
		case <-time.After(reseedEvery):
		case <-ctx.Done():
			return t, ctx.Err()
		}
	}
}

// judge refuses to end where an address could be given out twice: as long as a host is away, nobody may know which it has in a network of which
// none of the others knows anything.
func (w *reseeding) judge(t telling) error {
	for p, host := range t.undone {
		return fmt.Errorf("host %s has begun to put %s back, and has not ended", w.registry.hostName(host), p)
	}
	w.pending = t.missing()
	for _, r := range t.replies {
		w.skipped = append(w.skipped, r.Skipped...)
	}
	slices.Sort(w.skipped)
	var dark []string
	for n := range t.meta.Networks() {
		if !t.done[record.NetPartition(n.ID)] {
			dark = append(dark, n.Name)
		}
	}
	if len(w.pending) == 0 || len(dark) == 0 || w.req.Force {
		return nil
	}
	slices.Sort(dark)
	return refuse(InUse, "of network %s no host that is there knows the addresses, and %s may have some of them: start the agents of these hosts and run it again, or give --force if they are gone for good",
		FirstNames(dark), FirstNames(w.pending))
}

// tidy takes away what was said on the way, and what belongs to no network.
func (w *reseeding) tidy(ctx context.Context) error {
	s := w.registry.cfg.Store
	l, now, err := w.registry.whole(ctx) // an older picture may have put a network back that a newer one does not have
	if err != nil {
		return err
	}
	var ops []store.Op
	for _, e := range l.Entries {
		if strings.HasPrefix(e.Key.Name, record.MovesKey().Name+"/") {
			ops = append(ops, store.Del(e.Key))
		}
	}
	networks := map[string]bool{}
	for n := range record.Empty().Apply(store.Meta, store.Batch{Rev: l.Rev, Puts: l.Entries}).Networks() {
		networks[record.NetPartition(n.ID)] = true
	}
	for _, p := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(w.old, now)))) {
		if !strings.HasPrefix(p, record.NetPartition("")) || networks[p] {
			continue
		}
		gone, err := s.List(ctx, p)
		if err != nil {
			return err
		}
		for _, e := range gone.Entries {
			ops = append(ops, store.Del(e.Key))
		}
	}
	return writeAll(ctx, s, ops, w.fill.guard)
}

// shut writes the mark again: what compares its revision is refused from now on.
func (f *filling) shut(ctx context.Context) error {
	t := txn{}
	t.t.If = []store.Cond{f.guard}
	t.put(record.MovesKey(), &f.move)
	if t.err != nil {
		return t.err
	}
	err := persist(ctx, f.s, t.t)
	if _, lost := conflict(err); err != nil && !lost {
		return err
	}
	now, rev, readErr := get[record.Move](ctx, f.s, record.MovesKey())
	switch {
	case readErr != nil:
		return readErr
	case now == nil || now.ID != f.move.ID || rev == f.guard.Rev:
		return errors.New("somebody else has begun to put the records back")
	}
	f.guard.Rev = rev // also of an attempt whose outcome was unknown
	return nil
}

// dryReseed says what this host alone would put back.
func dryReseed(out ReseedResult, before record.Holdings, know Knowledge, by record.HostID) (ReseedResult, error) {
	after := record.Holdings{Others: map[string]store.Snapshot{}}
	for _, p := range know.partitions() {
		d, err := know.Picture.Dump(p)
		if err != nil {
			return out, err
		}
		if p == store.Meta {
			after.Meta = d
		} else {
			after.Others[p] = d
		}
	}
	for h := range know.Picture.Hosts() {
		if h.ID != by {
			out.Pending = append(out.Pending, h.Name)
		}
	}
	slices.Sort(out.Pending)
	out.count(before, after)
	return out, nil
}

// count compares what the store had with what it has.
func (out *ReseedResult) count(before, after record.Holdings) {
	had := map[store.Key]string{}
	for _, s := range append(partsOf(before), before.Meta) {
		for _, e := range s.Entries {
			had[e.Key] = string(e.Value)
		}
	}
	for _, s := range append(partsOf(after), after.Meta) {
		for _, e := range s.Entries {
			dir, _, _ := strings.Cut(e.Key.Name, "/")
			n, counts := map[string]*int{"networks": &out.Networks, "hosts": &out.Hosts, "ep": &out.Endpoints}[dir]
			switch {
			case !counts:
			case had[e.Key] == string(e.Value):
				out.Same++
			default:
				*n++
			}
		}
	}
}

func partsOf(h record.Holdings) (out []store.Snapshot) {
	for _, s := range h.Others {
		out = append(out, s)
	}
	return out
}
