package consul

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// position is a journal entry: two histories may have one index for two transactions, but not one nonce.
type position struct {
	rev   store.Rev
	nonce uint64
}

// entry is one transaction in a journal, encoded.
type entry struct {
	position
	slot  string // its key, in the journal
	value []byte
}

// slots names the keys of a client's journal entries, again and again. Consul remembers each name that was deleted for a quarter of an hour,
// and looks at all of them when it answers a query of the prefix that they had: with a new name for each entry, a cluster of some changes
// would soon have its watchers pay for hundreds of thousands.
type slots struct {
	client string // no other client takes these
	next   atomic.Uint32
	width  atomic.Uint32 // how many names there are: more than entries that wait to be trimmed
}

const (
	fewSlots  = 32
	manySlots = 1 << 16
)

func newSlots() *slots {
	x := &slots{client: strings.ToLower(rand.Text()[:10])}
	x.width.Store(fewSlots)
	return x
}

func (x *slots) take() string {
	return fmt.Sprintf("%s-%x", x.client, x.next.Add(1)%x.width.Load())
}

// widen is called when a name was still in use.
func (x *slots) widen() {
	w := x.width.Load()
	x.width.CompareAndSwap(w, min(2*w, manySlots))
}

const version = 1

// encode makes a journal entry: version, time in milliseconds, then for each write its kind, partition, name and value.
func encode(ops []store.Op) []byte {
	b := binary.AppendUvarint([]byte{version}, uint64(time.Now().UnixMilli()))
	str := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	for _, o := range ops {
		kind := byte(0)
		if o.Delete {
			kind = 1
		}
		b = append(b, kind)
		str(o.Key.Partition)
		str(o.Key.Name)
		str(string(o.Value))
	}
	return b
}

var errEntry = errors.New("not an entry of a journal")

// reader takes numbers and strings off encoded bytes, up to the first that is wrong.
type reader struct {
	b   []byte
	err error
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.err = nil, errEntry
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	size := r.number()
	if size > uint64(len(r.b)) {
		r.b, r.err = nil, errEntry
		return nil
	}
	out := r.b[:size:size]
	r.b = r.b[size:]
	return out
}

// decode returns an entry's time and writes.
func decode(b []byte) (at time.Time, ops []store.Op, err error) {
	if len(b) == 0 || b[0] != version {
		return at, nil, errEntry
	}
	r := reader{b: b[1:]}
	at = time.UnixMilli(int64(r.number()))
	for len(r.b) > 0 && r.err == nil {
		kind := r.b[0]
		r.b = r.b[1:]
		k := store.Key{Partition: string(r.bytes()), Name: string(r.bytes())}
		ops = append(ops, store.Op{Key: k, Value: r.bytes(), Delete: kind == 1})
	}
	return at, ops, r.err
}

// entries are those of a journal's keys, oldest first.
func entries(journal string, kvs api.KVPairs) []entry {
	out := make([]entry, len(kvs))
	for i, kv := range kvs {
		out[i] = entry{position{store.Rev(kv.ModifyIndex), kv.Flags}, strings.TrimPrefix(kv.Key, journal), kv.Value}
	}
	slices.SortFunc(out, func(a, b entry) int { return cmp.Compare(a.rev, b.rev) })
	return out
}

// readJournal reads a shard's journal, at once or when its index is above the given one.
func (s *Store) readJournal(ctx context.Context, shard string, above uint64) ([]entry, uint64, error) {
	kvs, index, err := s.list(ctx, s.journal(shard), above)
	return entries(s.journal(shard), kvs), index, err
}

func (s *Store) list(ctx context.Context, prefix string, above uint64) (api.KVPairs, uint64, error) {
	var kvs api.KVPairs
	var index uint64
	err := s.withToken(func() error {
		q := &api.QueryOptions{WaitIndex: above}
		if above > 0 {
			q.WaitTime = waitTime
		}
		got, m, err := s.cli.KV().List(prefix, q.WithContext(ctx))
		if err == nil {
			kvs, index = got, m.LastIndex
		}
		return err
	})
	return kvs, index, err
}
