package consul

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// snapshot is a partition as it was at one moment, and the newest journal entry then.
type snapshot struct {
	store.Snapshot
	at position
}

// snapshot reads the key that is always answered, the data and the journal in one transaction.
func (s *Store) snapshot(ctx context.Context, partition string) (snapshot, error) {
	// The end of a session writes no journal, and what Consul tells of a prefix's index may go back when it forgets deletions.
	var floor store.Rev
	if partition == store.Alive {
		var err error
		if floor, err = s.newest(ctx); err != nil {
			return snapshot{}, err
		}
	}
	dir, journal := s.dir(partition), s.journal(shardOf(partition))
	got, err := s.read(ctx,
		&api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.idKey()}, &api.KVTxnOp{Verb: api.KVGetTree, Key: dir}, &api.KVTxnOp{Verb: api.KVGetTree, Key: journal})
	if err != nil {
		return snapshot{}, err
	}
	if len(got) == 0 || got[0].Key != s.idKey() {
		return snapshot{}, &deniedError{"no right to read"}
	}
	if got[0].ModifyIndex == 0 {
		s.identified.Store(false)
	}
	out := snapshot{Snapshot: store.Snapshot{Rev: floor}}
	for _, kv := range got[1:] {
		if strings.HasPrefix(kv.Key, journal) {
			if rev := store.Rev(kv.ModifyIndex); rev > out.at.rev {
				out.at = position{rev, kv.Flags}
			}
		} else if e, ok := s.entry(partition, kv); ok {
			out.Entries = append(out.Entries, e)
			out.Rev = max(out.Rev, e.Rev)
		}
	}
	out.Rev = max(out.Rev, out.at.rev)
	// Escaped names sort otherwise than the names.
	slices.SortFunc(out.Entries, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	return out, nil
}

// entry is false for a key that weft cannot have written.
func (s *Store) entry(partition string, kv *api.KVPair) (store.Entry, bool) {
	escaped, ok := strings.CutPrefix(kv.Key, s.dir(partition))
	if !ok {
		return store.Entry{}, false
	}
	name, ok := unescape(escaped)
	return store.Entry{Key: store.Key{Partition: partition, Name: name}, Value: kv.Value, Rev: store.Rev(kv.ModifyIndex)}, ok
}

// newest returns the index of the last write to the whole key-value store: it comes with the answer that a key is not there.
func (s *Store) newest(ctx context.Context) (store.Rev, error) {
	var rev store.Rev
	err := s.withToken(func() error {
		_, m, err := s.cli.KV().Get(s.link.probeKey, (&api.QueryOptions{RequireConsistent: true}).WithContext(withKind(ctx, read)))
		if err == nil {
			rev = store.Rev(m.LastIndex)
		}
		return err
	})
	return rev, err
}

// identify makes sure, before the first write of a client, that this history has an ID.
func (s *Store) identify(ctx context.Context) error {
	if s.identified.Load() {
		return nil
	}
	id, err := s.id(ctx)
	if err != nil {
		return s.readError("look for the store's ID", err)
	}
	if id == "" {
		ops := api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: s.idKey(), Value: []byte(rand.Text())}}}
		if _, _, err := s.apply(ctx, ops); err != nil { // that another was faster is fine
			return s.notApplied("give the store an ID", err)
		}
	}
	s.identified.Store(true)
	return nil
}

// id returns the ID of this history, "" where there is none yet.
func (s *Store) id(ctx context.Context) (string, error) {
	got, err := s.read(ctx, &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.idKey()})
	if err != nil {
		return "", err
	}
	return string(got[0].Value), nil
}

// Status asks the endpoint in use.
func (s *Store) Status(ctx context.Context) (store.Status, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	out := store.Status{Backend: "consul", Endpoints: s.link.endpoints}
	begin := time.Now()
	id, err := s.id(ctx)
	if err != nil {
		return out, s.readError("ask for status", err)
	}
	out.Latency, out.ClusterID = time.Since(begin), id
	if out.Rev, err = s.lastTxn(ctx); err != nil {
		return out, s.readError("ask for the newest revision", err)
	}
	q := (&api.QueryOptions{}).WithContext(withKind(ctx, read))
	if out.Leader, err = s.cli.Status().LeaderWithQueryOptions(q); err != nil {
		out.Leader = ""
	}
	out.Version = s.version(ctx)
	return out, nil
}

// lastTxn returns the revision of the newest transaction. Others write to Consul, too, and so do those who trim journals: its own newest index
// says nothing of what this prefix holds.
func (s *Store) lastTxn(ctx context.Context) (rev store.Rev, err error) {
	ops := []*api.KVTxnOp{{Verb: api.KVGetOrEmpty, Key: s.idKey()}}
	for _, shard := range allShards() {
		ops = append(ops, &api.KVTxnOp{Verb: api.KVGetTree, Key: s.journal(shard)})
	}
	got, err := s.read(ctx, ops...)
	if err != nil {
		return 0, err
	}
	for _, kv := range got {
		rev = max(rev, store.Rev(kv.ModifyIndex))
	}
	return rev, nil
}

// version is the agent's, "" if the token may not ask.
func (s *Store) version(ctx context.Context) string {
	var self struct{ Config struct{ Version string } }
	if _, err := s.cli.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(withKind(ctx, read))); err != nil {
		return ""
	}
	return self.Config.Version
}
