package etcd

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/store"
)

// seen is what a watch remembers of an entry that it delivered.
type seen struct {
	rev store.Rev
	sum uint64 // of the value
}

var seed = maphash.MakeSeed()

func sawOf(e store.Entry) seen { return seen{e.Rev, maphash.Bytes(seed, e.Value)} }

// samePast finds out whether the partition was, at the revision where the watch stands, what the watch delivered. A server that was
// restored from a backup has the old cluster's ID and may have outgrown the revision by now; its past is another all the same, and a watch
// that went on from here would never tell the difference.
func (w *watch) samePast(ctx context.Context) error {
	same, err := w.sameKeys(ctx)
	if err == nil && same {
		same, err = w.sameValues(ctx)
	}
	if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev) {
		same, err = false, nil
	}
	w.lost = w.lost || err == nil && !same
	return err
}

// sameKeys compares names and revisions.
func (w *watch) sameKeys(ctx context.Context) (bool, error) {
	from, end := w.s.dir(w.partition), clientv3.GetPrefixRangeEnd(w.s.dir(w.partition))
	for n := 0; ; {
		r, err := w.s.cli.Get(ctx, from, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(keysPage), clientv3.WithRev(int64(w.rev)))
		if err != nil {
			return false, err
		}
		if r.Header.ClusterId != w.cluster {
			return false, nil
		}
		for _, kv := range r.Kvs {
			e, err := w.s.entry(w.partition, kv)
			if err != nil {
				continue // no key of weft's
			}
			if w.known[e.Key.Name].rev != e.Rev {
				return false, nil
			}
			n++
		}
		if !r.More {
			return n == len(w.known), nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// sameValues compares the values of the newest keys: where two pasts part, both may write the same key at the same revision. What was
// written before they part is the same, so that the newest tell.
func (w *watch) sameValues(ctx context.Context) (bool, error) {
	names := slices.SortedFunc(maps.Keys(w.known), func(a, b string) int { return int(w.known[b].rev) - int(w.known[a].rev) })
	names = names[:min(len(names), newest)]
	if len(names) == 0 {
		return true, nil
	}
	var gets []clientv3.Op
	for _, n := range names {
		gets = append(gets, clientv3.OpGet(w.s.path(store.Key{Partition: w.partition, Name: n}), clientv3.WithRev(int64(w.rev))))
	}
	r, err := w.s.cli.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return false, err
	}
	for i, n := range names {
		kvs := r.Responses[i].GetResponseRange().Kvs
		if len(kvs) != 1 {
			return false, nil
		}
		e, err := w.s.entry(w.partition, kvs[0])
		if err != nil || sawOf(e) != w.known[n] {
			return false, nil
		}
	}
	return true, nil
}

// How much is asked for at once: names of a page, and values.
const (
	keysPage = 10_000
	newest   = 16
)
