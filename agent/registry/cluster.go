package registry

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/store"
	"weft/store/record"
)

// EnsureCluster returns the cluster's record, which it creates from want where there is none.
func (r *Registry) EnsureCluster(ctx context.Context, want record.Cluster) (*record.Cluster, error) {
	var out *record.Cluster
	err := retry(ctx, func(bool) (bool, error) {
		c, rev, err := get[record.Cluster](ctx, r.cfg.Store, record.ClusterKey())
		if err != nil {
			return false, fmt.Errorf("read the cluster's record: %w", err)
		}
		if rev != store.Absent {
			out = c
			return false, nil
		}
		still, err := r.unmoved(ctx, true)
		if err != nil {
			return false, fmt.Errorf("create the cluster's record: %w", err)
		}
		t := txn{}
		t.t.If = []store.Cond{still}
		t.when(record.ClusterKey(), store.Absent)
		t.put(record.ClusterKey(), &want)
		_, err = r.commit(ctx, t)
		if _, lost := conflict(err); lost || err == nil || errors.Is(err, store.ErrUnknown) {
			return true, err // read back what is there now
		}
		return false, fmt.Errorf("create the cluster's record: %w", err)
	})
	return out, err
}

// RegisterHost writes the host's own record and claims its VTEP address in one transaction. Warnings name pools that a new route of this
// host overlaps: such traffic cannot reach both. The record's incarnation must not be lower than the stored one.
func (r *Registry) RegisterHost(ctx context.Context, h record.Host) (rev store.Rev, warnings []string, err error) {
	var apart string
	var revoked bool
	err = retry(ctx, func(bool) (bool, error) {
		view, err := r.readMeta(ctx)
		if err != nil {
			return false, fmt.Errorf("register this host: %w", err)
		}
		var again bool
		rev, again, err = r.tryRegister(ctx, view, trusted(view, h), &warnings)
		apart, revoked = otherFamily(view, h), trusted(view, h).PublicKey != h.PublicKey
		return again, err
	})
	if apart != "" {
		warnings = append(warnings, apart)
	}
	if revoked {
		warnings = append(warnings, "this host "+Untrusted)
	}
	return rev, warnings, err
}

// Untrusted is what is said, after its name, of a host whose key went with its removal from the cluster.
const Untrusted = "was removed from the cluster (weft host rm), and its certificate is not trusted any more: " +
	"remove pki/ in its state directory, and let it join again with a token (weft cluster token)"

// trusted is a host's record without a key that went with its removal.
func trusted(view *record.Snapshot, h record.Host) record.Host {
	if f, _ := view.Fence(h.ID); f != nil && f.Revokes(h.PublicKey) {
		h.PublicKey = ""
	}
	return h
}

// otherFamily warns where tunnels cannot lead to some hosts; "" where they can.
func otherFamily(view *record.Snapshot, h record.Host) string {
	var names []string
	for o := range view.Hosts() {
		if o.ID != h.ID && o.VTEP.IsValid() && o.VTEP.Is4() != h.VTEP.Is4() {
			names = append(names, o.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("this host's tunnel address %s and those of %s are of different address families: their sandboxes do not reach each other; give all hosts a --data-addr of one family", h.VTEP, FirstNames(names))
}

func (r *Registry) tryRegister(ctx context.Context, view *record.Snapshot, h record.Host, warnings *[]string) (store.Rev, bool, error) {
	old, known := view.Host(h.ID)
	if known && old.Incarnation > h.Incarnation {
		return 0, false, refuse(Lost, "host %s is registered with incarnation %d, and this agent knows of %d only: its state directory is an old copy", h.ID, old.Incarnation, h.Incarnation)
	}
	fence, fenceRev := view.Fence(h.ID)
	if fence != nil && fence.Incarnation >= h.Incarnation {
		return 0, false, refuse(Cleared, "host %s was cleared from the cluster (fence at incarnation %d, this is %d)", h.ID, fence.Incarnation, h.Incarnation)
	}
	still, err := r.unmoved(ctx, true)
	if err != nil {
		return 0, false, fmt.Errorf("register this host: %w", err)
	}
	t := txn{}
	t.t.If = []store.Cond{still}
	t.when(record.HostKey(h.ID), view.HostRev(h.ID))
	t.when(record.FenceKey(h.ID), fenceRev)
	if owner, taken := view.VTEPOwner(h.VTEP); !taken {
		t.claim(record.VTEPKey(h.VTEP), string(h.ID))
	} else if owner != h.ID {
		name := string(owner)
		if o, ok := view.Host(owner); ok {
			name = o.Name
		}
		return 0, false, refuse(Exists, "VTEP address %s is the one of host %s (%s) already: give this host its own with --data-addr or --cluster-advertise, or remove the other one's record", h.VTEP, name, record.ShortID(owner))
	}
	if known && old.VTEP != h.VTEP {
		t.del(record.VTEPKey(old.VTEP))
	}
	// Where nothing is added any more, an attempt whose outcome was unknown had been applied: its warnings stand.
	if added := newRoutes(old, h); len(added) > 0 {
		*warnings = overlaps(view, h, added)
		t.when(record.PoolsGenKey(), view.PoolsGen())
		t.t.Then = append(t.t.Then, store.Put(record.PoolsGenKey(), []byte(r.cfg.Now().UTC().Format(time.RFC3339Nano))))
	}
	if known {
		h.KeepUnknown(old)
	}
	t.put(record.HostKey(h.ID), &h)
	rev, err := r.commit(ctx, t)
	if _, lost := conflict(err); lost || errors.Is(err, store.ErrUnknown) {
		return 0, true, err
	}
	return rev, false, err
}

func newRoutes(old *record.Host, h record.Host) []record.Route {
	var out []record.Route
	for _, n := range h.Routes {
		if old == nil || !slices.ContainsFunc(old.Routes, func(o record.Route) bool { return o.Prefix == n.Prefix }) {
			out = append(out, n)
		}
	}
	return out
}

func overlaps(view *record.Snapshot, h record.Host, added []record.Route) []string {
	var out []string
	for n := range view.Networks() {
		for _, p := range n.Pools {
			for _, a := range added {
				if p.Subnet.Overlaps(a.Prefix) {
					out = append(out, fmt.Sprintf("host %s has a route to %s through %s, which overlaps pool %s of network %s", h.Name, a.Prefix, a.Link, p.Subnet, n.Name))
				}
			}
		}
	}
	return out
}

// readMeta lists partition meta: the picture as it is now, and not as it was when the watch last spoke.
func (r *Registry) readMeta(ctx context.Context) (*record.Snapshot, error) {
	l, err := r.cfg.Store.List(ctx, store.Meta)
	if err != nil {
		return nil, err
	}
	return record.Empty().Apply(store.Meta, store.Batch{Rev: l.Rev, Resync: true, Puts: l.Entries}), nil
}

// Life is what a host tells of itself when it opens its session.
type Life struct {
	record.Liveness
	VTEP   netip.Addr
	TTL    time.Duration
	Every  time.Duration // between renewals; 0: the back end's own
	Bound  time.Duration // how long an earlier session of this host may outlive its holder, 0 where that is not known
	Resume string        // ID of the session of this agent's predecessor, "" if it had none
}

// OpenLiveness opens the host's session. A session of another agent is waited for as long as it can outlive its holder; one that is still
// renewed then belongs to a second agent with this host's ID, and both must not go on.
func (r *Registry) OpenLiveness(ctx context.Context, l Life) (store.Session, error) {
	b, err := record.Encode(&l.Liveness)
	if err != nil {
		return nil, err
	}
	cfg := store.SessionConfig{Key: record.AliveKey(l.Host), Value: b, TTL: l.TTL, Every: l.Every, Resume: l.Resume}
	patience, cancel := context.WithTimeout(ctx, max(l.TTL, l.Bound)+3*time.Second)
	defer cancel()
	for {
		s, err := r.cfg.Store.OpenSession(ctx, cfg)
		if _, held := conflict(err); !held {
			return s, err
		}
		select {
		case <-patience.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, r.inUse(ctx, l)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (r *Registry) inUse(ctx context.Context, l Life) error {
	where := "another agent"
	if h, _, err := get[record.Host](ctx, r.cfg.Store, record.HostKey(l.Host)); err == nil && h != nil {
		where = fmt.Sprintf("an agent that registered as %s at %s", h.Name, h.VTEP)
	}
	return refuse(Lost, "host ID %s is in use by %s: two hosts cannot share one ID. Where this state directory is a copy of another host's (a cloned machine), empty it and start again", l.Host, where)
}
