package consul

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// attempts of a transaction that was refused although, when it was read back, all its conditions held.
const attempts = 3

// Txn applies a transaction.
func (s *Store) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	if err := t.Check(); err != nil {
		return 0, err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if len(t.Then) == 0 {
		return s.holds(ctx, t.If)
	}
	if err := s.identify(ctx); err != nil {
		return 0, err
	}
	for try := 1; ; try++ {
		p, rev, failed, err := s.commit(ctx, func() *plan { return s.plan(t) })
		switch {
		case err != nil:
			return 0, s.writeError(err)
		case failed == nil:
			s.trimSometimes(p.shards)
			return rev, nil
		}
		if at := p.condition(failed); at < 0 {
			return 0, fmt.Errorf("consul: %w: %s", store.ErrRefused, failed[0].What)
		}
		conflict, err := s.conflict(ctx, t.If)
		if err != nil {
			return 0, s.readError("find out why a transaction was refused", err)
		}
		if conflict != nil {
			return 0, conflict
		}
		if try == attempts {
			return 0, &store.ConflictError{Key: t.If[p.condition(failed)].Key, Have: store.Absent}
		}
	}
}

// plan is a transaction in Consul's terms.
type plan struct {
	ops    api.TxnOps
	conds  map[int]int  // operation that tests a condition → the condition
	slots  map[int]bool // operations that write to a journal
	shards []string     // whose journals they are
}

func (p *plan) add(op *api.KVTxnOp) { p.ops = append(p.ops, &api.TxnOp{KV: op}) }

// plan puts the tests first: they are of what is there before anything is written.
func (s *Store) plan(t store.Txn) *plan {
	p := &plan{conds: map[int]int{}}
	written := make(map[store.Key]bool, len(t.Then))
	for _, o := range t.Then {
		written[o.Key] = !o.Delete
	}
	merged := map[store.Key]int{}
	for i, c := range t.If {
		if written[c.Key] && c.Rev != store.Exists {
			merged[c.Key] = i
			continue
		}
		p.conds[len(p.ops)] = i
		p.add(s.test(c))
	}
	nonce := rand.Uint64()
	for _, o := range t.Then {
		op := &api.KVTxnOp{Verb: api.KVDelete, Key: s.path(o.Key)}
		if !o.Delete {
			op.Verb, op.Value, op.Flags = api.KVSet, o.Value, nonce
		}
		if i, ok := merged[o.Key]; ok {
			op.Verb, op.Index = api.KVCAS, uint64(t.If[i].Rev) // 0 is absent for both
			p.conds[len(p.ops)] = i
		}
		p.add(op)
	}
	s.note(p, nonce, t.Then)
	return p
}

// note adds an entry to the journal of each shard that is touched.
func (s *Store) note(p *plan, nonce uint64, ops []store.Op) {
	per := map[string][]store.Op{}
	for _, o := range ops {
		shard := shardOf(o.Key.Partition)
		if per[shard] == nil {
			p.shards = append(p.shards, shard)
		}
		per[shard] = append(per[shard], o)
	}
	p.slots = map[int]bool{}
	for _, shard := range p.shards {
		p.slots[len(p.ops)] = true
		p.add(&api.KVTxnOp{Verb: api.KVCAS, Key: s.journal(shard) + s.slots.take(), Value: encode(per[shard]), Flags: nonce})
	}
}

// commit plans and sends a transaction, and again as long as a slot that it chose in a journal is taken.
func (s *Store) commit(ctx context.Context, build func() *plan) (*plan, store.Rev, api.TxnErrors, error) {
	for {
		p := build()
		rev, failed, err := s.apply(ctx, p.ops)
		if err != nil || !p.taken(failed) {
			return p, rev, failed, err
		}
		s.slots.widen()
	}
}

// taken tells that nothing failed but slots.
func (p *plan) taken(failed api.TxnErrors) bool {
	return len(failed) > 0 && !slices.ContainsFunc(failed, func(e *api.TxnError) bool { return !p.slots[e.OpIndex] })
}

func (s *Store) test(c store.Cond) *api.KVTxnOp {
	switch c.Rev {
	case store.Absent:
		return &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: s.path(c.Key)}
	case store.Exists:
		return &api.KVTxnOp{Verb: api.KVGet, Key: s.path(c.Key)}
	}
	return &api.KVTxnOp{Verb: api.KVCheckIndex, Key: s.path(c.Key), Index: uint64(c.Rev)}
}

// condition returns the condition that a failed operation tested, or -1 if what failed is something else.
func (p *plan) condition(failed api.TxnErrors) int {
	for _, e := range failed {
		if i, ok := p.conds[e.OpIndex]; ok {
			return i
		}
	}
	return -1
}

// apply sends a transaction once. It returns its revision, or what failed of it so that nothing was written.
func (s *Store) apply(ctx context.Context, ops api.TxnOps) (store.Rev, api.TxnErrors, error) {
	var rev store.Rev
	var failed api.TxnErrors
	err := s.withToken(func() error {
		ok, r, _, err := s.cli.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(withKind(ctx, write)))
		if err != nil {
			return err
		}
		failed = nil
		if !ok {
			failed = r.Errors
			return missingRight(failed)
		}
		for _, x := range r.Results {
			if x.KV != nil {
				rev = max(rev, store.Rev(x.KV.ModifyIndex))
			}
		}
		return nil
	})
	if err == nil && failed == nil && rev == 0 {
		err = errors.New("an answer without an index")
	}
	return rev, failed, err
}

// missingRight is for transactions whose operations were looked at before anything else, and some of which the token may not do.
func missingRight(failed api.TxnErrors) error {
	for _, e := range failed {
		if strings.Contains(e.What, denied) {
			return &deniedError{e.What}
		}
	}
	if len(failed) == 0 {
		return errors.New("refused without a reason")
	}
	return nil
}

// conflict reads back why a transaction was refused: the first condition that does not hold now, nil if they all do.
func (s *Store) conflict(ctx context.Context, conds []store.Cond) (*store.ConflictError, error) {
	ops := make([]*api.KVTxnOp, len(conds))
	for i, c := range conds {
		ops[i] = &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.path(c.Key)}
	}
	got, err := s.read(ctx, ops...)
	if err != nil {
		return nil, err
	}
	have := make(map[string]store.Rev, len(got))
	for _, kv := range got {
		have[kv.Key] = store.Rev(kv.ModifyIndex)
	}
	for i, c := range conds {
		now, ok := have[ops[i].Key]
		if !ok {
			return nil, &deniedError{"no right to read " + c.Key.String()}
		}
		if c.Rev == now || c.Rev == store.Exists && now != store.Absent {
			continue
		}
		return &store.ConflictError{Key: c.Key, Have: now}, nil
	}
	return nil, nil
}

// holds is a transaction that writes nothing.
func (s *Store) holds(ctx context.Context, conds []store.Cond) (store.Rev, error) {
	rev, err := s.newest(ctx)
	if err != nil {
		return 0, s.readError("look for the newest revision", err)
	}
	if len(conds) == 0 {
		return rev, nil
	}
	conflict, err := s.conflict(ctx, conds)
	if err != nil {
		return 0, s.readError("compare", err)
	}
	if conflict != nil {
		return 0, conflict
	}
	return rev, nil
}

// read asks a leader that has made sure of its leadership for some keys or prefixes, all at one moment. What the token may not read is left
// out of the answer; a key that may be read and is not there has index 0.
func (s *Store) read(ctx context.Context, ops ...*api.KVTxnOp) (api.KVPairs, error) {
	var t api.TxnOps
	for _, op := range ops {
		t = append(t, &api.TxnOp{KV: op})
	}
	var out api.KVPairs
	err := s.withToken(func() error {
		ok, r, _, err := s.cli.Txn().Txn(t, (&api.QueryOptions{RequireConsistent: true}).WithContext(withKind(ctx, read)))
		switch {
		case err != nil:
			return err
		case !ok:
			if err := missingRight(r.Errors); err != nil {
				return err
			}
			return &statusError{409, r.Errors[0].What}
		case len(r.Results) == 0:
			return &deniedError{"no right to read"}
		}
		out = out[:0]
		for _, x := range r.Results {
			out = append(out, x.KV)
		}
		return nil
	})
	return out, err
}
