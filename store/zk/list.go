package zk

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// List returns a partition as it was at one moment.
func (s *Store) List(ctx context.Context, partition string) (store.Snapshot, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	l, err := s.data.link(ctx)
	if err != nil {
		return store.Snapshot{}, err
	}
	if err = l.sync(ctx, s.root); err == nil {
		var v view
		if v, err = s.view(ctx, l, partition); err == nil {
			return v.snapshot(), nil
		}
	}
	return store.Snapshot{}, s.readError(l, "list "+partition, err)
}

// view is a partition at one moment, and the place in its history that this is.
type view struct {
	rev     store.Rev
	entries map[string]store.Entry // by name
	place   place
}

// place is where in a journal, or among the children of alive/s, a watch stands.
type place struct {
	next int64  // the entry that comes next; or the version of the children
	mark string // of the entry before
}

func (v view) snapshot() store.Snapshot {
	return store.Snapshot{Rev: v.rev, Entries: slices.SortedFunc(maps.Values(v.entries), byName)}
}

func byName(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) }

// view reads a partition, again if what it needs is trimmed or gone meanwhile.
func (s *Store) view(ctx context.Context, l *link, partition string) (v view, err error) {
	for {
		if partition == store.Alive {
			v, err = s.viewAlive(ctx, l)
		} else {
			v, err = s.viewKeys(ctx, l, partition)
		}
		if !errors.Is(err, zk.ErrNoNode) || ctx.Err() != nil {
			return v, err
		}
		wait(ctx, jitter(lookAgain))
	}
}

// lookAgain is how soon a list that was overtaken begins again.
const lookAgain = 20 * time.Millisecond

// viewKeys reads the nodes one by one while others write, then applies the entries that these left: they carry whole values, which makes of
// nodes read at different moments the state after the last of the entries.
func (s *Store) viewKeys(ctx context.Context, l *link, partition string) (view, error) {
	before, err := s.headOf(ctx, l, partition)
	if err != nil || before.missing {
		return view{rev: before.rev}, err
	}
	entries, err := s.nodes(ctx, l, partition)
	if err != nil {
		return view{}, err
	}
	after, err := s.headOf(ctx, l, partition)
	if err != nil {
		return view{}, err
	}
	for n := before.place.next; n < after.place.next; n += pipelined {
		batches, _, err := s.batches(ctx, l, partition, n, min(n+pipelined, after.place.next))
		if err != nil {
			return view{}, err
		}
		for _, b := range batches {
			for _, e := range b.Puts {
				entries[e.Key.Name] = e
			}
			for _, k := range b.Dels {
				delete(entries, k.Name)
			}
		}
	}
	return view{rev: after.rev, entries: entries, place: after.place}, nil
}

// journalHead is the head of a partition's journal.
type journalHead struct {
	missing bool // the partition was never written
	rev     store.Rev
	place   place
	newest  record
}

func (s *Store) headOf(ctx context.Context, l *link, partition string) (journalHead, error) {
	n, err := l.get(ctx, s.head(partition))
	if errors.Is(err, zk.ErrNoNode) {
		return s.noHead(ctx, l)
	}
	if err != nil {
		return journalHead{}, err
	}
	return headFrom(n), nil
}

// headFrom takes a head that someone scribbled over for one without a mark: a watch lists then.
func headFrom(n node) journalHead {
	r, err := decode(n.data)
	if err != nil {
		r = record{}
	}
	return journalHead{rev: store.Rev(n.stat.Mzxid), place: place{next: int64(n.stat.Version), mark: r.mark}, newest: r}
}

// noHead stands for the head of a partition that was never written: it is as old as the tree.
func (s *Store) noHead(ctx context.Context, l *link) (journalHead, error) {
	h := journalHead{missing: true}
	st, err := l.stat(ctx, s.root)
	if st != nil {
		h.rev = store.Rev(st.Czxid)
	}
	return h, err
}

// nodes reads the entries as they are at different moments.
func (s *Store) nodes(ctx context.Context, l *link, partition string) (map[string]store.Entry, error) {
	dir := s.dir(partition) + keysDir
	n, err := l.children(ctx, dir)
	if err != nil {
		return nil, err
	}
	found := make([]store.Entry, len(n.names))
	err = each(ctx, len(n.names), func(ctx context.Context, i int) error {
		x, err := l.get(ctx, dir+"/"+n.names[i])
		if errors.Is(err, zk.ErrNoNode) {
			return nil // deleted since: the journal has it
		}
		if err != nil {
			return err
		}
		name, err := url.PathUnescape(n.names[i])
		found[i] = store.Entry{Key: store.Key{Partition: partition, Name: name}, Value: x.data, Rev: store.Rev(x.stat.Mzxid)}
		return err
	})
	out := make(map[string]store.Entry, len(found))
	for _, e := range found {
		if e.Rev != 0 {
			out[e.Key.Name] = e
		}
	}
	return out, err
}

// batches reads journal entries from one number to before another. It returns the mark of the last one, too.
func (s *Store) batches(ctx context.Context, l *link, partition string, from, to int64) ([]store.Batch, string, error) {
	out := make([]store.Batch, to-from)
	var last string
	err := each(ctx, len(out), func(ctx context.Context, i int) error {
		r, rev, err := s.entryAt(ctx, l, partition, from+int64(i))
		out[i] = r.batch(partition, rev)
		if i == len(out)-1 {
			last = r.mark
		}
		return err
	})
	return out, last, err
}
