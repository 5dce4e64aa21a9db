package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft/store"
	"weft/store/record"
)

// Clearing a host is in three steps, each of which any agent can go on with where the one before has died: its fence is set, after which the host
// writes nothing in that incarnation any more; what the fence covers is deleted, one endpoint a transaction; and the fence is marked as done or,
// where the host is to be removed, the host's own record goes with its VTEP.

// Fencing says which host may be fenced, and who goes on with a clearing that has been begun.
type Fencing struct {
	Live   bool                     // also one that is alive
	Remove bool                     // its record is to go too
	Busy   func(record.HostID) bool // whether the agent that has begun is there to go on itself
	Still  func() bool              // right before a new fence is set: what this was decided on is still so; nil: it is
}

// FenceHost sets a host's fence at its incarnation, or takes over what another agent has begun and cannot end. Of several that try at the same
// time one has it: nil tells the others that there is nothing for them to do.
func (r *Registry) FenceHost(ctx context.Context, as Actor, id record.HostID, how Fencing) (*record.Fence, error) {
	if id == as.Host {
		return nil, refuse(InUse, "a host cannot be cleared by its own agent: run the command on another host")
	}
	var out *record.Fence
	err := retry(ctx, func(bool) (bool, error) {
		h, hostRev, err := get[record.Host](ctx, r.cfg.Store, record.HostKey(id))
		if err != nil {
			return false, err
		}
		old, rev, err := r.readFence(ctx, id)
		if err != nil {
			return false, err
		}
		next, mine, err := nextFence(as.Host, id, h, old, how)
		if out = next; err != nil || mine || next == nil {
			return false, err
		}
		conds, err := r.conditions(ctx, as, true)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.t.If = conds
		t.when(record.FenceKey(id), rev)
		t.when(record.HostKey(id), hostRev)
		if !how.Live {
			t.when(record.AliveKey(id), store.Absent)
		}
		t.put(record.FenceKey(id), next)
		if anew := old == nil || old.Incarnation < next.Incarnation; anew && how.Still != nil && !how.Still() {
			out = nil
			return false, nil
		}
		_, err = r.commit(ctx, t)
		k, lost := conflict(err)
		switch {
		case lost && k == record.AliveKey(id):
			return false, refuse(InUse, "host %s is alive", r.hostName(id))
		case lost && as.Session != nil && k == as.Session.Alive().Key:
			return false, refuse(Lost, "this host's session with the store has ended; it is opening a new one, try again")
		}
		return lost || errors.Is(err, store.ErrUnknown), err
	})
	if err != nil {
		return nil, fmt.Errorf("clear host %s: %w", r.hostName(id), err)
	}
	return out, nil
}

// nextFence decides who clears a host. The fence is to be written unless it is this agent's already (mine), or nil: nothing is to be done here. It is pure.
func nextFence(self, id record.HostID, h *record.Host, old *record.Fence, how Fencing) (next *record.Fence, mine bool, err error) {
	covered := old != nil && (h == nil || old.Incarnation >= h.Incarnation)
	switch {
	case h == nil && !(covered && old.Clearing):
		if how.Remove && old == nil {
			return nil, false, refuse(NotFound, "host %s is not in the cluster", record.ShortID(id))
		}
		return nil, false, nil // it was removed
	case covered && old.Clearing && old.By != self && how.Busy != nil && how.Busy(old.By) && !how.Remove:
		return nil, false, nil
	case covered && old.Clearing && old.By == self && (old.Removing || !how.Remove):
		return old, true, nil
	case covered && !old.Clearing && !how.Remove:
		return nil, false, nil // it was cleared
	}
	f := record.Fence{Host: id}
	if old != nil {
		f = *old
	}
	if !covered {
		f.Incarnation = h.Incarnation
	}
	f.By, f.Clearing, f.Removing = self, true, covered && old.Clearing && old.Removing || how.Remove
	return &f, false, nil
}

// ClearHost deletes what a fence covers: the host's endpoints with all their claims in every network. Then it marks the fence as done, after it has
// removed the host's record, and the words that wait for the host, where the fence says so: one that comes back is to hear what users wanted
// of it. Each endpoint that went is told to cleared. It may be called again, by any agent, after it broke off.
func (r *Registry) ClearHost(ctx context.Context, as Actor, f *record.Fence, cleared func(*record.Endpoint)) error {
	err := r.clearCovered(ctx, as, f, cleared)
	if err == nil && f.Removing {
		err = r.dropWords(ctx, as, f.Host)
	}
	if err == nil {
		err = r.endClearing(ctx, as, f)
	}
	if err != nil {
		return fmt.Errorf("clear host %s: %w", r.hostName(f.Host), err)
	}
	return nil
}

// clearCovered looks at every network in the store: this host follows but some.
func (r *Registry) clearCovered(ctx context.Context, as Actor, f *record.Fence, cleared func(*record.Endpoint)) error {
	_, others, err := r.whole(ctx)
	if err != nil {
		return err
	}
	for _, part := range others {
		id, isNet := strings.CutPrefix(part, record.NetPartition(""))
		if !isNet {
			continue
		}
		net, err := r.readNet(ctx, record.NetworkID(id))
		if err != nil {
			return err
		}
		for _, ep := range sortedEndpoints(net) {
			if !(Clearing{of: f}).covers(ep) {
				continue
			}
			_, done, err := r.clear(ctx, as, ep.Network, ep.ID, Clearing{of: f})
			if err != nil {
				return err
			}
			if done && cleared != nil {
				cleared(ep)
			}
		}
	}
	return nil
}

func sortedEndpoints(net *record.Net) []*record.Endpoint {
	if net == nil {
		return nil
	}
	return slices.SortedFunc(net.Endpoints(), func(a, b *record.Endpoint) int { return strings.Compare(string(a.ID), string(b.ID)) })
}

// dropWords deletes the words about single endpoints that wait for a host.
func (r *Registry) dropWords(ctx context.Context, as Actor, host record.HostID) error {
	view, err := r.readMeta(ctx)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(view.ClearedOf(host), store.MaxOps/2) {
		err := retry(ctx, func(bool) (bool, error) {
			conds, err := r.conditions(ctx, as, true)
			if err != nil {
				return false, err
			}
			t := txn{}
			t.t.If = conds
			for _, w := range some {
				t.del(record.ClearedKey(w.Endpoint))
			}
			_, err = r.commit(ctx, t)
			_, lost := conflict(err)
			return lost || errors.Is(err, store.ErrUnknown), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// endClearing marks a fence as done, with the host's record and VTEP where they are to go. One that another has moved on is left to that one.
func (r *Registry) endClearing(ctx context.Context, as Actor, f *record.Fence) error {
	return retry(ctx, func(bool) (bool, error) {
		now, rev, err := r.readFence(ctx, f.Host)
		if err != nil || now == nil || !now.Clearing || now.By != as.Host || now.Incarnation != f.Incarnation {
			return false, err
		}
		conds, err := r.conditions(ctx, as, true)
		if err != nil {
			return false, err
		}
		done := *now
		done.Clearing, done.Removing = false, false
		t := txn{}
		t.t.If = conds
		t.when(record.FenceKey(f.Host), rev)
		if now.Removing {
			if err := r.dropHost(ctx, &t, &done); err != nil {
				return false, err
			}
		}
		t.put(record.FenceKey(f.Host), &done)
		_, err = r.commit(ctx, t)
		_, lost := conflict(err)
		return lost || errors.Is(err, store.ErrUnknown), err
	})
}

// dropHost adds to a transaction that a host's record goes, unless it has begun another incarnation meanwhile.
func (r *Registry) dropHost(ctx context.Context, t *txn, f *record.Fence) error {
	h, rev, err := get[record.Host](ctx, r.cfg.Store, record.HostKey(f.Host))
	if err != nil || h == nil || h.Incarnation > f.Incarnation {
		return err
	}
	t.when(record.HostKey(f.Host), rev)
	t.del(record.HostKey(f.Host))
	t.del(record.MoveReplyKey(f.Host))
	f.Revoke(h.PublicKey)
	if e, err := r.cfg.Store.Get(ctx, record.VTEPKey(h.VTEP)); err == nil && record.HostID(e.Value) == h.ID {
		t.when(record.VTEPKey(h.VTEP), e.Rev)
		t.del(record.VTEPKey(h.VTEP))
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}
