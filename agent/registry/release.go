package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"weft/store"
	"weft/store/record"
)

// DeleteEndpoint deletes an endpoint's record and claims in one transaction under this host's fence. One that is gone is no error.
func (r *Registry) DeleteEndpoint(ctx context.Context, as Actor, n record.NetworkID, id record.EndpointID) (store.Rev, error) {
	as.Session = nil // a release is right also while this host has no session: the fence alone guards it
	for {
		rev, whole, err := r.deleteOnce(ctx, as, n, id)
		switch {
		case err != nil:
			return 0, fmt.Errorf("release endpoint %s: %w", record.ShortID(id), err)
		case whole:
			return rev, nil
		}
	}
}

// deleteOnce is one transaction; where it has no room for all aliases with a virtual address, it takes some from the endpoint, and whole is false.
func (r *Registry) deleteOnce(ctx context.Context, as Actor, n record.NetworkID, id record.EndpointID) (rev store.Rev, whole bool, err error) {
	key := record.EndpointKey(n, id)
	err = retry(ctx, func(fresh bool) (bool, error) {
		whole = true
		ep, claims, oldRev, err := r.claims(ctx, n, id, fresh)
		if err != nil || oldRev == store.Absent {
			return err == nil && !fresh, err // the picture may not have it yet
		}
		conds, err := r.conditions(ctx, as, fresh)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.t.If = conds
		t.when(key, oldRev)
		if whole, err = r.leaveAll(ctx, &t, ep, 1+len(claims), fresh); err != nil {
			return false, err
		}
		if whole {
			t.del(key)
			for _, k := range claims {
				t.del(k)
			}
		}
		rev, err = r.commit(ctx, t)
		_, lost := conflict(err)
		return lost || errors.Is(err, store.ErrUnknown), err
	})
	return rev, whole, err
}

// leaveAll ends an endpoint's memberships, as many as there is room for beside reserve writes; where some are left, the endpoint's record
// goes on with those.
func (r *Registry) leaveAll(ctx context.Context, t *txn, ep *record.Endpoint, reserve int, fresh bool) (whole bool, err error) {
	if ep == nil { // a corrupt one: whatever it was a member of
		return true, nil
	}
	m, err := r.membership(ctx, ep, ep.VIPAliases, nil, fresh)
	if m == nil {
		return true, err
	}
	now, err := m.step(t, reserve)
	if err != nil || len(now) == 0 {
		return err == nil, err
	}
	t.put(record.EndpointKey(ep.Network, ep.ID), withVIPs(ep, now))
	return false, nil
}

// claims returns an endpoint, nil where it is corrupt, the keys that it holds beside its record, and the record's revision. Those of a corrupt record are looked for.
func (r *Registry) claims(ctx context.Context, n record.NetworkID, id record.EndpointID, fresh bool) (*record.Endpoint, []store.Key, store.Rev, error) {
	ep, rev, err := r.endpoint(ctx, n, id, fresh)
	if ep != nil {
		keys := []store.Key{record.EndpointNameKey(n, ep.Name)}
		for _, a := range ep.Addrs {
			keys = append(keys, record.AddrKey(n, a))
		}
		if ep.StaticMAC {
			keys = append(keys, record.MACKey(n, ep.MAC))
		}
		return ep, keys, rev, nil
	}
	if err == nil || rev == store.Absent {
		return nil, nil, rev, err
	}
	l, err := r.cfg.Store.List(ctx, record.NetPartition(n))
	if err != nil {
		return nil, nil, 0, err
	}
	var keys []store.Key
	rev = store.Absent
	for _, e := range l.Entries {
		switch {
		case e.Key == record.EndpointKey(n, id):
			rev = e.Rev
		case !strings.HasPrefix(e.Key.Name, "ep/") && string(e.Value) == string(id):
			keys = append(keys, e.Key)
		}
	}
	return nil, keys, rev, nil
}
