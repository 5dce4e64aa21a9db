package zk

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// limits of a journal: it keeps the newest entries, some number of them whatever their age, younger ones beyond it, but never more than most.
// A watch that is away for less than the age goes on where it was.
type limits struct {
	keep int
	age  time.Duration
	most int
}

var usual = limits{keep: 512, age: 30 * time.Second, most: 16 << 10}

const (
	trimEvery   = 256 // entries; whoever makes such a one trims, so that it does not matter if the last one who should have did not
	trimBatch   = 128 // deletes in one multi
	trimTimeout = time.Minute
	trimTries   = 5         // against others who trim the same journal
	idleFor     = time.Hour // a journal that long at rest is emptied
)

// trimAfter trims the journals of which the transaction wrote every so manieth entry.
func (s *Store) trimAfter(m *multi, rs []zk.MultiResponse) {
	for p, i := range m.entries {
		if n, err := entryNumber(rs[i].String); err != nil || n%trimEvery != trimEvery-1 {
			continue
		}
		s.mu.Lock()
		_, busy := s.trimming[p]
		s.trimming[p] = busy // whoever trims now does so again
		s.mu.Unlock()
		if busy {
			continue
		}
		s.start(func() { s.trimNow(p) }, func() {})
	}
}

func entryNumber(path string) (int64, error) {
	return strconv.ParseInt(path[strings.LastIndexByte(path, '-')+1:], 10, 64)
}

// trimNow trims one journal, and again where that was due meanwhile. If it cannot, the next one who trims will do more.
func (s *Store) trimNow(partition string) {
	for again := true; again; {
		if err := s.trimOne(partition); err != nil {
			s.log.Debug("a journal was not trimmed", slog.String("partition", partition), slog.Any("error", err))
		}
		s.mu.Lock()
		if again = s.trimming[partition] && s.ctx.Err() == nil; again {
			s.trimming[partition] = false
		} else {
			delete(s.trimming, partition)
		}
		s.mu.Unlock()
	}
}

func (s *Store) trimOne(partition string) error {
	ctx, cancel := context.WithTimeout(s.ctx, trimTimeout)
	defer cancel()
	l, err := s.data.link(ctx)
	if err != nil {
		return err
	}
	if err := trim(ctx, l, s.dir(partition)+logDir, s.limits); err != nil || partition != store.Meta {
		return err
	}
	return s.sweep(ctx, l, idleFor)
}

// trim trims a journal that others may be trimming too: where one of them was first, what is left is looked at again.
func trim(ctx context.Context, l *link, dir string, to limits) error {
	var err error
	for range trimTries {
		if err = trimOnce(ctx, l, dir, to); !errors.Is(err, zk.ErrNoNode) {
			return err
		}
	}
	return err
}

// trimOnce deletes all entries but the newest, and those that are younger than the newest one by less than the age. Time is the servers'.
func trimOnce(ctx context.Context, l *link, dir string, to limits) error {
	n, err := l.children(ctx, dir)
	if err != nil || len(n.names) <= to.keep {
		return err
	}
	slices.Sort(n.names)
	made := func(i int) (int64, error) {
		st, err := l.stat(ctx, dir+"/"+n.names[i])
		if err != nil || st == nil {
			return 0, err // who is gone is old
		}
		return st.Ctime, nil
	}
	newest, err := made(len(n.names) - 1)
	if err != nil {
		return err
	}
	old := sort.Search(len(n.names)-to.keep, func(i int) bool {
		t, e := made(i)
		err = errors.Join(err, e)
		return newest-t < to.age.Milliseconds()
	})
	if err != nil {
		return err
	}
	return deleteAll(ctx, l, dir, n.names[:max(old, len(n.names)-to.most)])
}

func deleteAll(ctx context.Context, l *link, dir string, names []string) error {
	for names := range slices.Chunk(names, trimBatch) {
		m := &multi{}
		for _, name := range names {
			m.del(dir+"/"+name, -1)
		}
		if _, err := l.multi(ctx, m.ops...); err != nil {
			return err
		}
	}
	return nil
}

// sweep empties the journals of partitions that nobody has written to for long: those of networks that are no more would never be trimmed.
// Networks come and go with transactions on partition meta, so whoever trims that journal sweeps. The heads stay: watches stand on them.
func (s *Store) sweep(ctx context.Context, l *link, idle time.Duration) error {
	now, err := l.stat(ctx, s.head(store.Meta))
	if err != nil || now == nil {
		return err
	}
	n, err := l.children(ctx, s.root)
	if err != nil {
		return err
	}
	for _, leaf := range n.names {
		dir := s.root + "/" + leaf
		head, err := l.stat(ctx, dir+headLeaf)
		if err != nil {
			return err
		}
		if head == nil || now.Mtime-head.Mtime < idle.Milliseconds() {
			continue
		}
		entries, err := l.children(ctx, dir+logDir)
		if err == nil {
			err = deleteAll(ctx, l, dir+logDir, entries.names)
		}
		if err != nil && !errors.Is(err, zk.ErrNoNode) {
			return err
		}
	}
	return nil
}
