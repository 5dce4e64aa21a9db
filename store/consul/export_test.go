package consul

import (
	"context"
	"errors"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// MaxConnections is how many a client has at most.
const MaxConnections = maxConns

// Forget takes all but the newest entry out of a partition's journal, and all out of its archive, as time and load do.
func Forget(ctx context.Context, s store.Store, partition string) error {
	x, ok := s.(*Store)
	if !ok {
		return errors.New("not a store of Consul")
	}
	shard := shardOf(partition)
	all, _, err := x.readJournal(withKind(ctx, read), shard, 0)
	if err != nil {
		return err
	}
	if _, err := x.trim(ctx, shard, all[:max(len(all)-1, 0)]); err != nil {
		return err
	}
	_, failed, err := x.apply(ctx, api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVSet, Key: x.prefix + "~forgot", Value: []byte(shard)}},
		{KV: &api.KVTxnOp{Verb: api.KVDeleteTree, Key: x.archive(shard)}},
	})
	if failed != nil {
		err = errors.New(failed[0].What)
	}
	return err
}

// History returns how many entries a partition's journal and its archive have.
func History(ctx context.Context, s store.Store, partition string) (journal, archive int, err error) {
	x := s.(*Store)
	tail, _, err := x.readJournal(withKind(ctx, read), shardOf(partition), 0)
	if err != nil {
		return 0, 0, err
	}
	all, err := x.history(ctx, shardOf(partition), 0)
	return len(tail), len(all) - len(tail), err
}
