package consul

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// A journal is read whole at each change, so it holds the newest entries only. Older ones are moved, many into one key, to an archive that a
// watch reads when it was away for longer. Archived entries go when there are too many or when they are old; so what both hold is bounded.
//
// Nobody is in charge of it, whose death would let a journal grow. Every client that reads one sees when it is long, waits for a random
// moment, and moves if nobody else has. Who was faster is faster next time, and the others wait for longer, so that many clients do not do
// one's work. A writer, of a cluster where perhaps nobody watches, looks once in many transactions.
const (
	keepEntries  = 4                     // in a journal at least
	keepFor      = 25 * time.Millisecond // and those that watches may not have read yet, as far as clocks agree
	keepMost     = 512                   // and no more
	trimStep     = 8                     // are moved together
	minDelay     = 5 * time.Millisecond
	maxDelay     = 2 * time.Second
	trimEvery    = 256             // transactions of a writer
	trimMost     = 100             // entries, in one transaction: Consul takes 128 operations
	trimBytes    = 192 << 10       // and 512 KiB, in base64
	archiveBytes = 4 << 20         // of a shard
	archiveTime  = 2 * time.Minute // and no longer
	dropEvery    = 8               // times that something is added to it
	dropMost     = 20              // of its segments, in one transaction
	readMost     = 100             // of them by name, in one transaction
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
	if s.written.Add(1)%trimEvery != 0 {
		return
	}
	for _, shard := range shards {
		s.trimLater(shard, func(ctx context.Context) error {
			all, _, err := s.readJournal(withKind(ctx, read), shard, 0)
			if err == nil {
				_, err = s.trim(ctx, shard, surplus(all, time.Now()))
			}
			return err
		})
	}
}

// trimLong trims a feed's journal soon, if it is long and nobody else does.
func (f *feed) trimLong(p *page) {
	if !p.long() {
		return
	}
	f.s.trimLater(f.shard, func(ctx context.Context) error {
		pause(ctx, rand.N(f.delay), nil)
		p, _ := f.now()
		won := false
		if p.long() {
			oldest := surplus(p.entries, time.Now())
			if len(oldest) == 0 {
				return nil // under load
			}
			var err error
			if won, err = f.s.trim(ctx, f.shard, oldest); err != nil {
				return err
			}
		}
		if won {
			f.delay = max(f.delay/2, minDelay)
		} else {
			f.delay = min(f.delay*2, maxDelay)
		}
		return nil
	})
}

func (p *page) long() bool { return len(p.entries) >= keepEntries+trimStep }

// trimLater runs what trims a journal, unless that is going on already.
func (s *Store) trimLater(shard string, trim func(context.Context) error) {
	if _, busy := s.trimming.LoadOrStore(shard, true); busy {
		return
	}
	ok := s.start(func() {
		defer s.trimming.Delete(shard)
		ctx, cancel := context.WithTimeout(s.ctx, trimTime)
		defer cancel()
		if err := trim(ctx); err != nil {
			s.log.Debug("a journal was not trimmed", "shard", shard, "error", reason(err))
		}
	})
	if !ok {
		s.trimming.Delete(shard)
	}
}

// trim moves a journal's oldest entries to its archive; false if another client was faster.
func (s *Store) trim(ctx context.Context, shard string, oldest []entry) (bool, error) {
	if len(oldest) == 0 {
		return false, nil
	}
	var old []segment
	if rand.N(dropEvery) == 0 {
		all, err := s.segments(ctx, shard)
		if err != nil {
			return false, err
		}
		old = outdated(all, time.Now())
	}
	for len(oldest) > 0 {
		n := portion(oldest)
		_, failed, err := s.apply(ctx, s.moving(shard, oldest[:n], old).ops)
		if err != nil || failed != nil {
			return false, err
		}
		oldest, old = oldest[n:], nil
	}
	return true, nil
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

// moving takes the oldest entries of a journal to its archive, and old segments out of that. The condition that the first is still there keeps
// two clients from writing segments that overlap, and all from leaving a gap; that the last is there, too, from archiving what a restored
// Consul has never seen. The mark names the newest segment.
func (s *Store) moving(shard string, oldest []entry, old []segment) *plan {
	journal, archive := s.journal(shard), s.archive(shard)
	p := &plan{}
	for _, e := range []entry{oldest[0], oldest[len(oldest)-1]} {
		p.add(&api.KVTxnOp{Verb: api.KVCheckIndex, Key: journal + e.slot, Index: uint64(e.rev)})
	}
	value := pack(oldest)
	name := segmentName(oldest, len(value))
	p.add(&api.KVTxnOp{Verb: api.KVSet, Key: archive + name, Value: value})
	p.add(&api.KVTxnOp{Verb: api.KVSet, Key: s.mark(shard), Value: []byte(name)})
	for _, e := range oldest {
		p.add(&api.KVTxnOp{Verb: api.KVDelete, Key: journal + e.slot})
	}
	for _, g := range old {
		p.add(&api.KVTxnOp{Verb: api.KVDelete, Key: archive + g.name})
	}
	return p
}

// segment is an archived part of a journal, by what its name says: the first revision, which orders, the newest entry's time, the size.
type segment struct {
	name  string
	first store.Rev
	at    time.Time
	size  uint64
}

func segmentName(es []entry, size int) string {
	at, _, err := decode(es[len(es)-1].value)
	if err != nil {
		at = time.Now()
	}
	return fmt.Sprintf("%016x.%x.%x", uint64(es[0].rev), at.UnixMilli(), size)
}

// segments are those of an archive, oldest first.
func (s *Store) segments(ctx context.Context, shard string) ([]segment, error) {
	archive := s.archive(shard)
	var keys []string
	err := s.withToken(func() (err error) {
		keys, _, err = s.cli.KV().Keys(archive, "", (&api.QueryOptions{RequireConsistent: true}).WithContext(withKind(ctx, read)))
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(keys)
	out := make([]segment, len(keys)) // what has another name is as old as can be, and goes
	for i, k := range keys {
		g := segment{name: strings.TrimPrefix(k, archive)}
		var ms int64
		if _, err := fmt.Sscanf(g.name, "%x.%x.%x", &g.first, &ms, &g.size); err == nil {
			g.at = time.UnixMilli(ms)
		}
		out[i] = g
	}
	return out, nil
}

// outdated are the oldest segments of an archive, beyond what it may hold. A clock that differs keeps more, or less.
func outdated(all []segment, now time.Time) []segment {
	size := uint64(0)
	for i := len(all) - 1; i >= 0; i-- {
		if size += all[i].size; size > archiveBytes || now.Sub(all[i].at) > archiveTime {
			return all[:min(i+1, dropMost)]
		}
	}
	return nil
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

// history reads archive and journal, from the entry at a revision on, as they were at one moment; without that entry if it is not there.
func (s *Store) history(ctx context.Context, shard string, from store.Rev) ([]entry, error) {
	for range attempts {
		all, err := s.segments(ctx, shard)
		if err != nil {
			return nil, err
		}
		i, _ := slices.BinarySearchFunc(all, from+1, func(g segment, rev store.Rev) int { return cmp.Compare(g.first, rev) })
		all = all[max(i-1, 0):]
		if len(all) > readMost {
			break
		}
		ops := make([]*api.KVTxnOp, len(all))
		for i, g := range all {
			ops[i] = &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.archive(shard) + g.name}
		}
		out, mark, err := s.readHistory(ctx, shard, ops)
		if err != nil || len(all) == 0 && mark == "" || len(all) > 0 && mark == all[len(all)-1].name {
			return out, err
		} // else there is a segment that was not asked for
	}
	out, _, err := s.readHistory(ctx, shard, []*api.KVTxnOp{{Verb: api.KVGetTree, Key: s.archive(shard)}})
	return out, err
}

// readHistory reads segments, which are sorted, the journal, and the newest segment's name.
func (s *Store) readHistory(ctx context.Context, shard string, segments []*api.KVTxnOp) (out []entry, mark string, err error) {
	journal, archive := s.journal(shard), s.archive(shard)
	got, err := s.read(ctx, append(segments, &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.mark(shard)}, &api.KVTxnOp{Verb: api.KVGetTree, Key: journal})...)
	if err != nil {
		return nil, "", err
	}
	var tail api.KVPairs
	for _, kv := range got {
		switch {
		case kv.Key == s.mark(shard):
			mark = string(kv.Value)
		case strings.HasPrefix(kv.Key, journal):
			tail = append(tail, kv)
		case strings.HasPrefix(kv.Key, archive):
			es, err := unpack(kv.Value)
			if err != nil {
				return nil, "", err
			}
			out = append(out, es...)
		}
	}
	return append(out, entries(journal, tail)...), mark, nil
}
