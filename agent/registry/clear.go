package registry

import (
	"context"
	"errors"
	"fmt"

	"weft/store"
	"weft/store/record"
)

// ClearEndpoint deletes another host's endpoint with its claims, and leaves the word of it for that host. Where live is false the host must not
// be alive: that there is no session of it is compared. One that is gone is no error.
func (r *Registry) ClearEndpoint(ctx context.Context, as Actor, n record.NetworkID, id record.EndpointID, live bool) (store.Rev, error) {
	for {
		rev, whole, err := r.clearOnce(ctx, as, n, id, live)
		switch {
		case err != nil:
			return 0, fmt.Errorf("clear endpoint %s: %w", record.ShortID(id), err)
		case whole:
			return rev, nil
		}
	}
}

// clearOnce is one transaction of it; more than one is needed for an endpoint of many aliases.
func (r *Registry) clearOnce(ctx context.Context, as Actor, n record.NetworkID, id record.EndpointID, live bool) (rev store.Rev, whole bool, err error) {
	err = retry(ctx, func(fresh bool) (bool, error) {
		whole = true
		ep, claims, epRev, err := r.claims(ctx, n, id, fresh)
		if err != nil || ep == nil {
			return err == nil && !fresh, err // the picture may not have it yet
		}
		conds, err := r.conditions(ctx, as, fresh)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.t.If = conds
		t.when(record.EndpointKey(n, id), epRev)
		if !live {
			t.when(record.AliveKey(ep.Host), store.Absent)
		}
		if whole, err = r.leaveAll(ctx, &t, ep, 2+len(claims), fresh); err != nil {
			return false, err
		}
		if whole {
			t.del(record.EndpointKey(n, id))
			for _, k := range claims {
				t.del(k)
			}
			t.put(record.ClearedKey(id), &record.Cleared{Endpoint: id, Network: n, Host: ep.Host, Name: ep.Name, By: as.Host, At: r.cfg.Now().UTC()})
		}
		rev, err = r.commit(ctx, t)
		k, lost := conflict(err)
		switch {
		case lost && !live && k == record.AliveKey(ep.Host):
			return false, refuse(InUse, "host %s, which has endpoint %s, is alive", r.hostName(ep.Host), ep.Name)
		case lost && as.Session != nil && k == as.Session.Alive().Key:
			return false, refuse(Lost, "this host's session with the store has ended; it is opening a new one, try again")
		}
		return lost || errors.Is(err, store.ErrUnknown), err
	})
	return rev, whole, err
}

// Obeyed deletes the word that an endpoint of this host was cleared.
func (r *Registry) Obeyed(ctx context.Context, as Actor, id record.EndpointID) error {
	as.Session = nil // as a release
	key := record.ClearedKey(id)
	err := retry(ctx, func(bool) (bool, error) {
		c, rev, err := get[record.Cleared](ctx, r.cfg.Store, key)
		if err != nil || c == nil {
			return false, err
		}
		conds, err := r.conditions(ctx, as, true)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.t.If = conds
		t.when(key, rev)
		t.del(key)
		_, err = r.commit(ctx, t)
		_, lost := conflict(err)
		return lost || errors.Is(err, store.ErrUnknown), err
	})
	if err != nil {
		return fmt.Errorf("note that endpoint %s is gone: %w", record.ShortID(id), err)
	}
	return nil
}
