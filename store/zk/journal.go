package zk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"weft/store"
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
