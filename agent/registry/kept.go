package registry

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"weft/store"
	"weft/store/record"
)

// keptFor returns what is kept for an endpoint that is to be made, with its revision; nil where nothing is.
func (r *Registry) keptFor(ctx context.Context, ep *record.Endpoint, fresh bool) (*record.Kept, store.Rev, error) {
	var k *record.Kept
	var rev store.Rev
	if fresh {
		return get[record.Kept](ctx, r.cfg.Store, record.KeptKey(ep.Network, ep.Name))
	}
	if net, ok := r.cfg.Picture().Net(ep.Network); ok {
		k, rev = net.Kept(ep.Name)
	}
	return k, rev, nil
}

// takeOver gives what was kept to the endpoint that has come, and lets go of what that one does not use: while the record is as it was read,
// its claims are its own.
func (t *txn) takeOver(k *record.Kept, rev store.Rev, ep *record.Endpoint) {
	if k == nil {
		return
	}
	key := record.KeptKey(ep.Network, ep.Name)
	t.when(key, rev)
	t.del(key)
	for _, a := range k.Addrs {
		if slices.Contains(ep.Addrs, a) {
			t.t.Then = append(t.t.Then, store.Put(record.AddrKey(ep.Network, a), []byte(ep.ID)))
		} else {
			t.del(record.AddrKey(ep.Network, a))
		}
	}
}

// keeper is what keeps an address, as far as the picture knows.
func (r *Registry) keeper(id record.NetworkID, a netip.Addr) *record.Kept {
	net, ok := r.cfg.Picture().Net(id)
	if !ok {
		return nil
	}
	for k := range net.AllKept() {
		if net.KeptFor(k.Name, a) {
			return k
		}
	}
	return nil
}

// keepsPerTxn is how many a transaction may keep (five conditions and writes each, beside the network's and this host's own) or release (three).
const keepsPerTxn = (store.MaxOps - 4) / 5

// keepAddrs keeps those addresses of a network that choose finds to be kept on a look at the store, in as many transactions as it takes.
// choose is asked again after a lost race. What was kept when an error comes stays kept: the next import goes on from there.
func (r *Registry) keepAddrs(ctx context.Context, as Actor, id record.NetworkID, choose func(*record.Net) []*record.Kept) (rev store.Rev, err error) {
	err = retry(ctx, func(bool) (bool, error) {
		netRev, err := r.activeNetwork(ctx, id)
		if err != nil {
			return false, err
		}
		net, err := r.readNet(ctx, id)
		if err != nil {
			return false, err
		}
		conds, err := r.conditions(ctx, as, true)
		if err != nil {
			return false, err
		}
		for some := range slices.Chunk(choose(net), keepsPerTxn) {
			t := txn{}
			t.t.If = slices.Clone(conds)
			t.when(record.NetworkKey(id), netRev)
			for _, k := range some {
				t.when(record.EndpointNameKey(id, k.Name), store.Absent) // it has not come meanwhile
				t.when(record.KeptKey(id, k.Name), store.Absent)
				t.put(record.KeptKey(id, k.Name), k)
				for _, a := range k.Addrs {
					t.claim(record.AddrKey(id, a), string(k.ID))
				}
			}
			at, err := r.commit(ctx, t)
			if again, err := r.keptOutcome(as, err); err != nil {
				return again, fmt.Errorf("keep addresses: %w", err)
			}
			rev = at
		}
		return false, nil
	})
	return rev, err
}

// keptOutcome tells whether to look at the store again.
func (r *Registry) keptOutcome(as Actor, err error) (bool, error) {
	k, lost := conflict(err)
	if lost && as.Session != nil && k == as.Session.Alive().Key {
		return false, refuse(Lost, "this host's session with the store has ended; it is opening a new one, try again")
	}
	return lost || errors.Is(err, store.ErrUnknown), err
}

// ReleaseKept gives back what a network keeps for names, or for all where there are none, and returns whose it was.
func (r *Registry) ReleaseKept(ctx context.Context, as Actor, id record.NetworkID, names []string) ([]string, error) {
	var tried []string // also those of whose release the store did not tell: what is gone when it is looked at again is released
	err := retry(ctx, func(bool) (bool, error) {
		net, err := r.readNet(ctx, id)
		if err != nil {
			return false, err
		}
		conds, err := r.conditions(ctx, as, true)
		if err != nil {
			return false, err
		}
		todo, err := toRelease(net, names, tried, r.networkName(id))
		if err != nil {
			return false, err
		}
		for some := range slices.Chunk(todo, keepsPerTxn) {
			t := txn{}
			t.t.If = slices.Clone(conds)
			for _, k := range some {
				_, rev := net.Kept(k.Name)
				t.when(record.KeptKey(id, k.Name), rev)
				t.del(record.KeptKey(id, k.Name))
				for _, a := range k.Addrs {
					t.del(record.AddrKey(id, a))
				}
				tried = append(tried, k.Name)
			}
			_, err := r.commit(ctx, t)
			if again, err := r.keptOutcome(as, err); err != nil {
				return again, fmt.Errorf("release kept addresses: %w", err)
			}
		}
		return false, nil
	})
	slices.Sort(tried)
	return slices.Compact(tried), err
}

// toRelease finds what is to be released. Names that this call has tried before are not missed.
func toRelease(net *record.Net, names, tried []string, network string) ([]*record.Kept, error) {
	var out []*record.Kept
	if len(names) == 0 {
		out = slices.Collect(net.AllKept())
		slices.SortFunc(out, byName)
		return out, nil
	}
	for _, name := range names {
		k, _ := net.Kept(name)
		switch {
		case k != nil && !slices.Contains(out, k):
			out = append(out, k)
		case k == nil && !slices.ContainsFunc(tried, func(r string) bool { return record.Fold(r) == record.Fold(name) }):
			return nil, refuse(NotFound, "network %s keeps no address for %s", network, name)
		}
	}
	return out, nil
}

// readNet lists a network's partition: the picture as it is now.
func (r *Registry) readNet(ctx context.Context, id record.NetworkID) (*record.Net, error) {
	net, _, err := r.readEntries(ctx, id)
	return net, err
}

// readEntries is readNet, with what the store has, by name: also records that cannot be decoded.
func (r *Registry) readEntries(ctx context.Context, id record.NetworkID) (*record.Net, map[string]store.Entry, error) {
	part := record.NetPartition(id)
	l, err := r.cfg.Store.List(ctx, part)
	if err != nil {
		return nil, nil, fmt.Errorf("list network %s: %w", r.networkName(id), err)
	}
	entries := make(map[string]store.Entry, len(l.Entries))
	for _, e := range l.Entries {
		entries[e.Key.Name] = e
	}
	net, _ := record.Empty().Apply(part, store.Batch{Rev: l.Rev, Resync: true, Puts: l.Entries}).Net(id)
	return net, entries, nil
}
