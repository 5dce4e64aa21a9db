package consul

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// A journal is read whole at each change, so it holds the newest entries only. Older ones are moved, many into one key, to an archive that a
// watch reads when it was away for longer. Archived entries go when there are too many or when they are old; so what both hold is bounded.
const (
	keepEntries  = 64              // in a journal
	trimEvery    = 32              // transactions, by chance: nobody is in charge of it, whose death would let a journal grow
	trimMost     = 100             // entries, in one transaction: Consul takes 128 operations
	trimBytes    = 192 << 10       // and 512 KiB, in base64
	archiveBytes = 4 << 20         // of a shard
	archiveTime  = 2 * time.Minute // and no longer
	dropMost     = 20              // of its segments, in one transaction
	trimTime     = 5 * time.Second
)

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
			if err := s.trim(ctx, shard, keepEntries); err != nil {
				s.log.Debug("a journal was not trimmed", "shard", shard, "error", reason(err))
			}
		})
		if !ok {
			s.trimming.Delete(shard)
		}
	}
}

// trim moves all but the newest entries of a journal to its archive.
func (s *Store) trim(ctx context.Context, shard string, keep int) error {
	all, _, err := s.readJournal(withKind(ctx, read), shard, 0)
	if err != nil {
		return err
	}
	for len(all) > keep {
		n := portion(all[:len(all)-keep])
		moved, err := s.move(ctx, shard, all[:n])
		if err != nil || !moved {
			return err
		}
		all = all[n:]
	}
	return nil
}

// portion is how many of some entries fit one transaction.
func portion(all []entry) int {
	size := 0
	for i, e := range all {
		if size += len(e.value); i == trimMost || i > 0 && size > trimBytes {
			return i
		}
	}
	return len(all)
}

// move takes the oldest entries of a journal to its archive, and old ones out of that; false if another client was faster. The condition that
// the oldest entry is still there keeps two from writing segments that overlap, and all from leaving a gap.
func (s *Store) move(ctx context.Context, shard string, oldest []entry) (bool, error) {
	old, err := s.outdated(ctx, s.archive(shard), time.Now())
	if err != nil {
		return false, err
	}
	_, failed, err := s.apply(ctx, s.moving(shard, oldest, old).ops)
	return err == nil && failed == nil, err
}

func (s *Store) moving(shard string, oldest []entry, old []string) *plan {
	journal, archive := s.journal(shard), s.archive(shard)
	p := &plan{}
	p.add(&api.KVTxnOp{Verb: api.KVCheckIndex, Key: journal + oldest[0].nonce, Index: uint64(oldest[0].rev)})
	value := pack(oldest)
	p.add(&api.KVTxnOp{Verb: api.KVSet, Key: archive + segmentName(oldest, len(value)), Value: value})
	for _, e := range oldest {
		p.add(&api.KVTxnOp{Verb: api.KVDelete, Key: journal + e.nonce})
	}
	for _, key := range old {
		p.add(&api.KVTxnOp{Verb: api.KVDelete, Key: key})
	}
	return p
}

// segmentName says what must be known of a segment without reading it: its first revision, which orders, its newest entry's time, its size.
func segmentName(es []entry, size int) string {
	at, _, err := decode(es[len(es)-1].value)
	if err != nil {
		at = time.Now()
	}
	return fmt.Sprintf("%016x.%x.%x", uint64(es[0].rev), at.UnixMilli(), size)
}

// outdated are the keys of an archive's oldest segments, beyond what it may hold.
func (s *Store) outdated(ctx context.Context, archive string, now time.Time) ([]string, error) {
	var keys []string
	err := s.withToken(func() (err error) {
		keys, _, err = s.cli.KV().Keys(archive, "", (&api.QueryOptions{}).WithContext(withKind(ctx, read)))
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(keys)
	size := uint64(0)
	for i := len(keys) - 1; i >= 0; i-- {
		part := strings.Split(strings.TrimPrefix(keys[i], archive), ".")
		if len(part) != 3 {
			return keys[:min(i+1, dropMost)], nil
		}
		ms, err := strconv.ParseInt(part[1], 16, 64)
		bytes, err2 := strconv.ParseUint(part[2], 16, 64)
		size += bytes
		age := now.Sub(time.UnixMilli(ms)) // a clock that differs keeps more, or less
		if err != nil || err2 != nil || age > archiveTime || size > archiveBytes {
			return keys[:min(i+1, dropMost)], nil
		}
	}
	return nil, nil
}

// pack makes a segment: of each entry its revision, nonce and value.
func pack(es []entry) []byte {
	var b []byte
	for _, e := range es {
		b = binary.AppendUvarint(b, uint64(e.rev))
		for _, s := range [][]byte{[]byte(e.nonce), e.value} {
			b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
		}
	}
	return b
}

func unpack(b []byte) (es []entry, err error) {
	r := reader{b: b}
	for len(r.b) > 0 && r.err == nil {
		rev := store.Rev(r.number())
		es = append(es, entry{position{string(r.bytes()), rev}, r.bytes()})
	}
	return es, r.err
}

// readAll reads archive and journal as they were at one moment.
func (s *Store) readAll(ctx context.Context, shard string) ([]entry, error) {
	journal, archive := s.journal(shard), s.archive(shard)
	got, err := s.read(ctx, &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.idKey()},
		&api.KVTxnOp{Verb: api.KVGetTree, Key: archive}, &api.KVTxnOp{Verb: api.KVGetTree, Key: journal})
	if err != nil {
		return nil, err
	}
	var out []entry
	var tail api.KVPairs
	for _, kv := range got {
		switch {
		case strings.HasPrefix(kv.Key, journal):
			tail = append(tail, kv)
		case strings.HasPrefix(kv.Key, archive): // sorted by their names, and so by their first revisions
			es, err := unpack(kv.Value)
			if err != nil {
				return nil, err
			}
			out = append(out, es...)
		}
	}
	return append(out, entries(journal, tail)...), nil
}
