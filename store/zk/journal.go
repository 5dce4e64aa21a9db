package zk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// A journal keeps the newest entries: some number of them whatever their age, younger ones beyond it, but never more than most. A watch that
// is away for less than the age goes on where it was.
const (
	keepEntries = 512
	keepFor     = 30 * time.Second
	mostEntries = 16 << 10
	trimEvery   = 256 // entries; whoever makes such a one trims, so that it does not matter if the last one who should have did not
	trimBatch   = 128 // deletes in one multi
	trimTimeout = time.Minute
)

// inHead is the size up to which the newest entry stands in the head, too: a watch that is not behind reads nothing else.
const inHead = 4 << 10

// Kinds of a record's first byte.
const (
	whole    = 1
	markOnly = 2
)

// record is what a journal entry or a head holds.
type record struct {
	mark string
	ops  []store.Op // their keys are without partition
	full bool       // ops is all
}

func encode(mark string, ops []store.Op) []byte {
	b := append([]byte{whole}, mark...)
	for _, o := range ops {
		kind := byte(0)
		if o.Delete {
			kind = 1
		}
		b = append(b, kind)
		b = bytesOf(b, []byte(o.Key.Name))
		if !o.Delete {
			b = bytesOf(b, o.Value)
		}
	}
	return b
}

func bytesOf(b, x []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(x))), x...)
}

func headData(mark string, entry []byte) []byte {
	if len(entry) <= inHead {
		return entry
	}
	return append([]byte{markOnly}, mark...)
}

var errRecord = errors.New("this is not an entry of a journal")

// decode reads a record. No data at all is the head of a partition in which nothing was written yet.
func decode(b []byte) (record, error) {
	if len(b) == 0 {
		return record{}, nil
	}
	if len(b) < 1+markSize || b[0] != whole && b[0] != markOnly {
		return record{}, errRecord
	}
	r := record{mark: string(b[1 : 1+markSize]), full: b[0] == whole}
	for b = b[1+markSize:]; len(b) > 0; {
		o := store.Op{Delete: b[0] == 1}
		name, rest, ok := cutBytes(b[1:])
		if ok && !o.Delete {
			o.Value, rest, ok = cutBytes(rest)
		}
		if !ok {
			return record{}, errRecord
		}
		o.Key.Name = string(name)
		r.ops = append(r.ops, o)
		b = rest
	}
	return r, nil
}

func cutBytes(b []byte) (x, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, false
	}
	b = b[size:]
	return b[:n:n], b[n:], true
}

// batch is a record as a watch delivers it.
func (r record) batch(partition string, rev store.Rev) store.Batch {
	b := store.Batch{Rev: rev}
	for _, o := range r.ops {
		k := store.Key{Partition: partition, Name: o.Key.Name}
		if o.Delete {
			b.Dels = append(b.Dels, k)
		} else {
			b.Puts = append(b.Puts, store.Entry{Key: k, Value: o.Value, Rev: rev})
		}
	}
	return b
}

// entryAt reads one journal entry.
func (s *Store) entryAt(ctx context.Context, l *link, partition string, n int64) (record, store.Rev, error) {
	x, err := l.get(ctx, s.entry(partition, n))
	if err != nil {
		return record{}, 0, err
	}
	r, err := decode(x.data)
	if err != nil {
		return record{}, 0, fmt.Errorf("%s: %w", s.entry(partition, n), err)
	}
	return r, store.Rev(x.stat.Czxid), nil
}

// trimAfter trims the journals of which the transaction wrote every so manieth entry.
func (s *Store) trimAfter(m *multi, rs []zk.MultiResponse) {
	for p, i := range m.entries {
		if n, err := entryNumber(rs[i].String); err != nil || n%trimEvery != trimEvery-1 {
			continue
		}
		s.mu.Lock()
		busy := s.trimming[p]
		s.trimming[p] = true
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

// trimNow trims one journal. If it cannot, the next one who trims will do more.
func (s *Store) trimNow(partition string) {
	ctx, cancel := context.WithTimeout(s.ctx, trimTimeout)
	defer cancel()
	if l, err := s.data.link(ctx); err == nil {
		_ = s.trim(ctx, l, partition, keepEntries, keepFor)
	}
	s.mu.Lock()
	delete(s.trimming, partition)
	s.mu.Unlock()
}

// trim deletes all entries but the newest, and those that are younger than the newest one by less than the age. Time is the servers'.
func (s *Store) trim(ctx context.Context, l *link, partition string, keep int, age time.Duration) error {
	dir := s.dir(partition) + logDir
	n, err := l.children(ctx, dir)
	if err != nil || len(n.names) <= keep {
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
	old := sort.Search(len(n.names)-keep, func(i int) bool {
		t, e := made(i)
		err = errors.Join(err, e)
		return newest-t < age.Milliseconds()
	})
	if err != nil {
		return err
	}
	old = max(old, len(n.names)-mostEntries)
	for names := range slices.Chunk(n.names[:old], trimBatch) {
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
