package consul

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// What a journal holds: the newest keepMin entries, and older ones for a moment, so that a watch that reads a little late under load
// finds its place. Each reading returns all of it: this is what a change costs a watcher.
const (
	keepMin   = 64
	keepMax   = 256
	keepBytes = 1 << 20
	keepFor   = 2 * time.Second
	trimEvery = 32  // transactions, by chance: nobody is in charge of it whose death would let a journal grow
	trimMost  = 120 // entries in one transaction; Consul takes 128 operations
	trimTime  = 5 * time.Second
)

// position is a journal entry, by its key and index.
type position struct {
	key string
	rev store.Rev
}

// entry is one transaction in a journal.
type entry struct {
	position
	value []byte
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

// decode returns an entry's time and writes.
func decode(b []byte) (at time.Time, ops []store.Op, err error) {
	if len(b) == 0 || b[0] != version {
		return at, nil, errEntry
	}
	b = b[1:]
	ms, n := binary.Uvarint(b)
	if n <= 0 {
		return at, nil, errEntry
	}
	b = b[n:]
	str := func() (s []byte) {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			err = errEntry
			return nil
		}
		s, b = b[n:n+int(size)], b[n+int(size):]
		return s
	}
	for len(b) > 0 && err == nil {
		o := store.Op{Delete: b[0] == 1}
		b = b[1:]
		o.Key = store.Key{Partition: string(str()), Name: string(str())}
		o.Value = str()
		ops = append(ops, o)
	}
	return time.UnixMilli(int64(ms)), ops, err
}

// entries are those of a journal's keys, oldest first.
func entries(kvs api.KVPairs) []entry {
	out := make([]entry, len(kvs))
	for i, kv := range kvs {
		out[i] = entry{position{kv.Key, store.Rev(kv.ModifyIndex)}, kv.Value}
	}
	slices.SortFunc(out, func(a, b entry) int {
		if a.rev < b.rev {
			return -1
		}
		return 1
	})
	return out
}

// surplus are the entries to take out, the oldest ones.
func surplus(all []entry, now time.Time) []entry {
	size := 0
	for i := len(all) - 1; i >= 0; i-- {
		size += len(all[i].value)
		kept := len(all) - 1 - i
		if kept < keepMin && size <= keepBytes || kept == 0 {
			continue
		}
		at, _, err := decode(all[i].value)
		age := now.Sub(at)
		young := err == nil && age < keepFor && age > -keepFor // not if clocks differ
		if kept >= keepMax || size > keepBytes || !young {
			return all[:i+1]
		}
	}
	return nil
}

// trimSometimes trims the journals of some shards, one time in many.
func (s *Store) trimSometimes(shards []string) {
	if rand.N(trimEvery) != 0 {
		return
	}
	for _, shard := range shards {
		if _, busy := s.trimming.LoadOrStore(shard, true); busy {
			continue
		}
		ok := s.start(func() {
			defer s.trimming.Delete(shard)
			ctx, cancel := context.WithTimeout(s.ctx, trimTime)
			defer cancel()
			if err := s.trim(ctx, shard, surplus); err != nil {
				s.log.Debug("a journal was not trimmed", "shard", shard, "error", reason(err))
			}
		})
		if !ok {
			s.trimming.Delete(shard)
		}
	}
}

// trim takes out what a rule says. Each transaction takes the oldest ones, so that no gap can arise, whoever else trims meanwhile.
func (s *Store) trim(ctx context.Context, shard string, rule func([]entry, time.Time) []entry) error {
	all, _, err := s.readJournal(withKind(ctx, read), shard, 0)
	if err != nil {
		return err
	}
	for out := range slices.Chunk(rule(all, time.Now()), trimMost) {
		var ops api.TxnOps
		for _, e := range out {
			ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVDelete, Key: e.key}})
		}
		var none api.TxnErrors
		err := s.withToken(func() error {
			ok, r, _, err := s.cli.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(withKind(ctx, write)))
			if err == nil && !ok {
				none = r.Errors
				err = missingRight(none)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readJournal reads a shard's journal, at once or when its index is above the given one.
func (s *Store) readJournal(ctx context.Context, shard string, above uint64) ([]entry, uint64, error) {
	kvs, index, err := s.list(ctx, s.journal(shard), above)
	return entries(kvs), index, err
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
