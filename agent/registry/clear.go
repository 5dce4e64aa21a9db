package registry

import (
	"context"
	"errors"
	"fmt"

	"weft/store"
	"weft/store/record"
)

// Clearing says which endpoint of another host may be cleared, and what its host is to hear.
type Clearing struct {
	Live bool // also of a host that is alive; else it is compared that it has no session
	Word bool // leave the word for its host, which then drops the attachment instead of putting the record back

	of *record.Fence // only what that fence covers
}

// ClearEndpoint deletes another host's endpoint with its claims. One that is gone is no error, and done is false. The revision is 0 where it is not known.
func (r *Registry) ClearEndpoint(ctx context.Context, as Actor, n record.NetworkID, id record.EndpointID, c Clearing) (rev store.Rev, done bool, err error) {
	return r.clear(ctx, as, n, id, c)
}

// covers tells whether an endpoint is among what the fence holds back.
func (c Clearing) covers(ep *record.Endpoint) bool {
	return c.of == nil || ep.Host == c.of.Host && ep.Incarnation <= c.of.Incarnation
}

func (r *Registry) clear(ctx context.Context, as Actor, n record.NetworkID, id record.EndpointID, c Clearing) (rev store.Rev, done bool, err error) {
	for {
		step, err := r.clearOnce(ctx, as, n, id, c)
		switch {
		case err != nil:
			return 0, false, fmt.Errorf("clear endpoint %s: %w", record.ShortID(id), err)
		case step.whole:
			return step.rev, step.done, nil
		}
	}
}

// clearStep is what one transaction came to: whole where nothing is left to do, done where there was something.
type clearStep struct {
	rev         store.Rev
	whole, done bool
}

// clearOnce is one transaction of it; more than one is needed for an endpoint of many aliases.
func (r *Registry) clearOnce(ctx context.Context, as Actor, n record.NetworkID, id record.EndpointID, c Clearing) (out clearStep, err error) {
	unknown := false
	err = retry(ctx, func(fresh bool) (bool, error) {
		out.whole = true
		ep, claims, epRev, err := r.claims(ctx, n, id, fresh)
		switch {
		case err != nil || ep == nil && !fresh:
			return err == nil, err // the picture may not have it yet
		case ep == nil:
			out.done = unknown && epRev == store.Absent // by the attempt whose outcome was unknown
			return false, nil
		case !c.covers(ep):
			return !fresh, nil // its host has come back, and has taken it again
		}
		conds, err := r.conditions(ctx, as, fresh)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.t.If = conds
		t.when(record.EndpointKey(n, id), epRev)
		if !c.Live && c.of == nil {
			t.when(record.AliveKey(ep.Host), store.Absent)
		}
		if out.whole, err = r.leaveAll(ctx, &t, ep, 2+len(claims), fresh); err != nil {
			return false, err
		}
		if out.whole {
			t.del(record.EndpointKey(n, id))
			for _, k := range claims {
				t.del(k)
			}
			if c.Word {
				t.put(record.ClearedKey(id), &record.Cleared{Endpoint: id, Network: n, Sandbox: ep.Sandbox, Host: ep.Host, Name: ep.Name, By: as.Host, At: r.cfg.Now().UTC()})
			}
		}
		out.rev, err = r.commit(ctx, t)
		out.done = err == nil
		unknown = unknown || errors.Is(err, store.ErrUnknown)
		k, lost := conflict(err)
		switch {
		case lost && !c.Live && k == record.AliveKey(ep.Host):
			return false, refuse(InUse, "host %s, which has endpoint %s, is alive", r.hostName(ep.Host), ep.Name)
		case lost && as.Session != nil && k == as.Session.Alive().Key:
			return false, refuse(Lost, "this host's session with the store has ended; it is opening a new one, try again")
		}
		return lost || errors.Is(err, store.ErrUnknown), err
	})
	return out, err
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
