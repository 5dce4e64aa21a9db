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
//
// Nobody is in charge of it, whose death would let a journal grow. Every client that reads one sees when it is long, waits for a random
// moment, and moves if nobody else has; a writer, of a cluster where perhaps nobody watches, looks once in many transactions.
const (
	keepEntries  = 16                     // in a journal at least
	keepFor      = 250 * time.Millisecond // and those that watches may not have read yet, as far as clocks agree
	keepMost     = 512                    // and no more
	trimStep     = 32                     // are moved together
	trimDelay    = 150 * time.Millisecond // at most
	trimEvery    = 256                    // transactions of writers, by chance
	trimMost     = 100                    // entries, in one transaction: Consul takes 128 operations
	trimBytes    = 192 << 10              // and 512 KiB, in base64
	archiveBytes = 4 << 20                // of a shard
	archiveTime  = 2 * time.Minute        // and no longer
	dropMost     = 20                     // of its segments, in one transaction
	trimTime     = 5 * time.Second
)

// surplus are the oldest entries of a journal, if there are enough to be moved.
func surplus(all []entry, now time.Time) []entry {
	n := max(len(all)-keepMost, 0)
	for ; n < len(all)-keepEntries; n++ {
		at, _, err := decode(all[n].value)
		if age := now.Sub(at); err == nil && age < keepFor && age > -keepFor {
			break
		}
	}
	if n < trimStep {
		return nil
	}
	return all[:n]
}

// trimSometimes trims the journals that a transaction has written, one time in many.
func (s *Store) trimSometimes(shards []string) {
	if rand.N(trimEvery) != 0 {
		return
	}
	for _, shard := range shards {
		s.trimLater(shard, func(ctx context.Context) ([]entry, error) {
			all, _, err := s.readJournal(withKind(ctx, read), shard, 0)
			return all, err
		})
	}
}

// trimLong trims a feed's journal soon, if it is long and nobody else does.
func (f *feed) trimLong(p *page) {
	if len(p.entries) < keepEntries+trimStep {
		return
	}
	f.s.trimLater(f.shard, func(ctx context.Context) ([]entry, error) {
		pause(ctx, rand.N(trimDelay), nil)
		p, _ := f.now()
		return p.entries, nil
	})
}

// trimLater trims a journal, if it is long when it is looked at, unless that is going on already.
func (s *Store) trimLater(shard string, look func(context.Context) ([]entry, error)) {
	if _, busy := s.trimming.LoadOrStore(shard, true); busy {
		return
	}
	ok := s.start(func() {
		defer s.trimming.Delete(shard)
		ctx, cancel := context.WithTimeout(s.ctx, trimTime)
		defer cancel()
		all, err := look(ctx)
		if err == nil {
			err = s.trim(ctx, shard, surplus(all, time.Now()))
		}
		if err != nil {
			s.log.Debug("a journal was not trimmed", "shard", shard, "error", reason(err))
		}
	})
	if !ok {
		s.trimming.Delete(shard)
	}
}

// trim moves a journal's oldest entries to its archive.
func (s *Store) trim(ctx context.Context, shard string, oldest []entry) error {
	if len(oldest) == 0 {
		return nil
	}
	old, err := s.outdated(ctx, s.archive(shard), time.Now())
	if err != nil {
		return err
	}
	for len(oldest) > 0 {
		n := portion(oldest)
		_, failed, err := s.apply(ctx, s.moving(shard, oldest[:n], old).ops)
		if err != nil || failed != nil { // another client was faster
			return err
		}
		oldest, old = oldest[n:], nil
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

// moving takes the oldest entries of a journal to its archive, and old segments out of that. The condition that the oldest entry is still
// there keeps two clients from writing segments that overlap, and all from leaving a gap.
func (s *Store) moving(shard string, oldest []entry, old []string) *plan {
	journal, archive := s.journal(shard), s.archive(shard)
	p := &plan{}
	p.add(&api.KVTxnOp{Verb: api.KVCheckIndex, Key: journal + oldest[0].slot, Index: uint64(oldest[0].rev)})
	value := pack(oldest)
	p.add(&api.KVTxnOp{Verb: api.KVSet, Key: archive + segmentName(oldest, len(value)), Value: value})
	for _, e := range oldest {
		p.add(&api.KVTxnOp{Verb: api.KVDelete, Key: journal + e.slot})
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
		b = binary.AppendUvarint(b, e.nonce)
		b = append(binary.AppendUvarint(b, uint64(len(e.value))), e.value...)
	}
	return b
}

func unpack(b []byte) (es []entry, err error) {
	r := reader{b: b}
	for len(r.b) > 0 && r.err == nil {
		e := entry{position: position{rev: store.Rev(r.number()), nonce: r.number()}}
		e.value = r.bytes()
		es = append(es, e)
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
