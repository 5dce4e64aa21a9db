package registry

import (
	"context"
	"errors"
	"fmt"

	"weft/store"
	"weft/store/record"
)

// RemoveNetwork deletes a network that has no endpoint (invariant 3): it lists; sets deleting, after which no endpoint can be made; lists
// again; and deletes, or sets active again and refuses.
func (r *Registry) RemoveNetwork(ctx context.Context, as Actor, id record.NetworkID) (store.Rev, error) {
	n, rev, err := get[record.Network](ctx, r.cfg.Store, record.NetworkKey(id))
	if err != nil {
		return 0, fmt.Errorf("remove network: %w", err)
	}
	if n == nil {
		return 0, refuse(NotFound, "network %s not found", id)
	}
	if err := r.refuseIfUsed(ctx, n); err != nil {
		return 0, err
	}
	if rev, err = r.setState(ctx, as, n, rev, record.Deleting); err != nil {
		return 0, fmt.Errorf("remove network %s: %w", n.Name, err)
	}
	return r.finishRemoval(ctx, as, n, rev)
}

// FinishRemoval ends what a dead deleter left: the network goes if it is empty, and is active again if not.
func (r *Registry) FinishRemoval(ctx context.Context, as Actor, id record.NetworkID) error {
	n, rev, err := get[record.Network](ctx, r.cfg.Store, record.NetworkKey(id))
	if err != nil || n == nil || n.State != record.Deleting {
		return err
	}
	_, err = r.finishRemoval(ctx, as, n, rev)
	if KindOf(err) == InUse {
		return nil // it is active again
	}
	return err
}

// finishRemoval goes on from "deleting at rev".
func (r *Registry) finishRemoval(ctx context.Context, as Actor, n *record.Network, rev store.Rev) (store.Rev, error) {
	if used := r.refuseIfUsed(ctx, n); used != nil {
		if _, err := r.setState(ctx, as, n, rev, record.Active); err != nil {
			return 0, errors.Join(used, fmt.Errorf("make network %s active again: %w", n.Name, err))
		}
		return 0, used
	}
	var gone store.Rev
	err := retry(ctx, func(bool) (bool, error) {
		conds, err := r.conditions(ctx, as, true)
		if err != nil {
			return false, err
		}
		gen, err := r.cfg.Store.Get(ctx, record.PoolsGenKey())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
		t := txn{}
		t.t.If = conds
		t.when(record.NetworkKey(n.ID), rev)
		t.when(record.PoolsGenKey(), gen.Rev)
		t.del(record.NetworkKey(n.ID))
		t.del(record.NetworkNameKey(n.Name))
		if n.VNI != 0 {
			t.del(record.VNIKey(n.VNI))
		}
		t.t.Then = append(t.t.Then, store.Put(record.PoolsGenKey(), []byte(n.ID)))
		gone, err = r.commit(ctx, t)
		if k, lost := conflict(err); lost && k == record.NetworkKey(n.ID) {
			var mine bool
			mine, rev, err = r.removedByOther(ctx, as, n)
			return mine, err
		} else if lost {
			return true, err
		}
		return errors.Is(err, store.ErrUnknown), err
	})
	if err != nil {
		return 0, fmt.Errorf("remove network %s: %w", n.Name, err)
	}
	return gone, nil
}

// removedByOther tells success (it is gone: an unknown outcome of ours, or another's removal) from a network that was set active again, and from
// one that is still being removed by us at another revision: the records have moved meanwhile.
func (r *Registry) removedByOther(ctx context.Context, as Actor, n *record.Network) (mine bool, rev store.Rev, err error) {
	now, rev, err := get[record.Network](ctx, r.cfg.Store, record.NetworkKey(n.ID))
	if err != nil || now == nil {
		return false, rev, err
	}
	if now.State == record.Deleting && now.Deleter != nil && *now.Deleter == (record.Deleter{Host: as.Host, Incarnation: as.Incarnation}) {
		return true, rev, nil
	}
	return false, rev, refuse(InUse, "another host is changing network %s; try again", n.Name)
}

func (r *Registry) setState(ctx context.Context, as Actor, n *record.Network, rev store.Rev, s record.NetworkState) (store.Rev, error) {
	next := *n
	next.State, next.Deleter = s, nil
	if s == record.Deleting {
		next.Deleter = &record.Deleter{Host: as.Host, Incarnation: as.Incarnation}
	}
	var out store.Rev
	err := retry(ctx, func(fresh bool) (bool, error) {
		conds, err := r.conditions(ctx, as, fresh)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.t.If = conds
		t.when(record.NetworkKey(n.ID), rev)
		t.put(record.NetworkKey(n.ID), &next)
		out, err = r.commit(ctx, t)
		k, lost := conflict(err)
		switch {
		case lost && k == record.NetworkKey(n.ID):
			again, now, err := r.stateWasSet(ctx, n, next, &out)
			rev = now
			return again, err
		case lost || errors.Is(err, store.ErrUnknown):
			return true, err
		}
		return false, err
	})
	return out, err
}

// stateWasSet tells whether the record is as we wanted it already: by an attempt of ours whose outcome was unknown. One that is as it was, at
// another revision, is to be set again: the records have moved meanwhile.
func (r *Registry) stateWasSet(ctx context.Context, was *record.Network, want record.Network, out *store.Rev) (again bool, rev store.Rev, err error) {
	now, rev, err := get[record.Network](ctx, r.cfg.Store, record.NetworkKey(was.ID))
	switch {
	case err != nil:
		return false, rev, err
	case now == nil:
		return false, rev, refuse(NotFound, "network %s not found: another host removed it", want.Name)
	case sameState(now, &want):
		*out = rev
		return false, rev, nil
	case sameState(now, was):
		return true, rev, nil
	}
	return false, rev, refuse(InUse, "another host is changing network %s; try again", want.Name)
}

func sameState(a, b *record.Network) bool {
	return a.State == b.State && (a.Deleter == nil) == (b.Deleter == nil) && (a.Deleter == nil || *a.Deleter == *b.Deleter)
}
