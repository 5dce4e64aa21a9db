package registry

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/store"
	"weft/store/record"
)

// AddrTakenError says that an address has an owner.
type AddrTakenError struct {
	Addr  netip.Addr
	Owner string // its name, or the short ID of an owner that has no record
	Host  string
}

func (e *AddrTakenError) Error() string {
	where := ""
	if e.Host != "" {
		where = " on host " + e.Host
	}
	return fmt.Sprintf("Address already in use: %s belongs to %s%s", e.Addr, e.Owner, where)
}

// NameTakenError says that a name has an owner in a network.
type NameTakenError struct {
	Name, Network string
	Owner         *record.Endpoint // nil where its record is corrupt
	Host          string
}

func (e *NameTakenError) Error() string {
	where := ""
	if e.Host != "" {
		where = " (on host " + e.Host + ")"
	}
	return fmt.Sprintf("endpoint with name %s already exists in network %s%s", e.Name, e.Network, where)
}

// CreateEndpoint writes an endpoint's record and claims its addresses and its name, in one transaction that also checks that the network is
// active and that this host may write. In the good case that is one round trip. Errors: *AddrTakenError, *NameTakenError, *MACTakenError, *Error, and
// those of store.Store; after ErrUnknown the endpoint may exist or come to exist, and its ID is to be released.
func (r *Registry) CreateEndpoint(ctx context.Context, as Actor, ep *record.Endpoint) (store.Rev, error) {
	var rev store.Rev
	whole, tries := ep, 0
	netRev := r.activeInPicture(ep.Network)
	err := retry(ctx, func(fresh bool) (bool, error) {
		tries++
		if fresh || netRev == store.Absent {
			var err error
			if netRev, err = r.activeNetwork(ctx, ep.Network); err != nil {
				return false, err
			}
		}
		conds, err := r.conditions(ctx, as, fresh)
		if err != nil {
			return false, err
		}
		kept, keptRev, err := r.keptFor(ctx, ep, fresh)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.when(record.EndpointKey(ep.Network, ep.ID), store.Absent)
		t.t.If = append(t.t.If, conds...)
		t.when(record.NetworkKey(ep.Network), netRev)
		t.takeOver(kept, keptRev, ep)
		for _, a := range ep.Addrs {
			if kept == nil || !kept.Has(a) {
				t.claim(record.AddrKey(ep.Network, a), string(ep.ID))
			}
		}
		t.claim(record.EndpointNameKey(ep.Network, ep.Name), string(ep.ID))
		t.claimMAC(ep.Network, ep.ID, nil, ep)
		if ep, err = r.joinFirst(ctx, &t, whole, fresh); err != nil {
			return false, err
		}
		t.put(record.EndpointKey(ep.Network, ep.ID), ep)
		rev, err = r.commit(ctx, t)
		return r.createOutcome(ctx, as, ep, err, &rev)
	})
	if err != nil || len(whole.VIPAliases) < 2 || tries == 1 && len(ep.VIPAliases) == len(whole.VIPAliases) {
		return rev, err
	}
	// The rest had no room; or an attempt whose outcome was unknown may have made an endpoint with fewer.
	return r.UpdateEndpoint(ctx, as, ep.Network, ep.ID, func(now *record.Endpoint) { now.Aliases, now.VIPAliases = whole.Aliases, whole.VIPAliases })
}

// joinFirst adds to the transaction that makes an endpoint what makes it a member of as many aliases as there is room for, and returns the endpoint
// with those alone.
func (r *Registry) joinFirst(ctx context.Context, t *txn, ep *record.Endpoint, fresh bool) (*record.Endpoint, error) {
	m, err := r.membership(ctx, ep, nil, ep.VIPAliases, fresh)
	if m == nil {
		return ep, err
	}
	now, err := m.step(t, 1)
	if err != nil {
		return nil, err
	}
	return withVIPs(ep, now), nil
}

// createOutcome says whether to try again, or what came of it.
func (r *Registry) createOutcome(ctx context.Context, as Actor, ep *record.Endpoint, err error, rev *store.Rev) (bool, error) {
	var c *store.ConflictError
	switch {
	case errors.Is(err, store.ErrUnknown):
		return true, err
	case !errors.As(err, &c):
		return false, err
	case c.Key == record.EndpointKey(ep.Network, ep.ID):
		*rev = c.Have // nobody else knows this ID: an attempt whose outcome was unknown had been applied
		return false, nil
	case as.Session != nil && c.Key == as.Session.Alive().Key:
		return false, refuse(Lost, "this host's session with the store has ended; it is opening a new one, try again")
	case c.Key == record.EndpointNameKey(ep.Network, ep.Name):
		return false, r.nameTaken(ctx, ep)
	case ep.StaticMAC && c.Key == record.MACKey(ep.Network, ep.MAC):
		return false, r.macTaken(ctx, ep.Network, c.Key)
	case strings.HasPrefix(c.Key.Name, "addr/"):
		if kept, _, err := r.keptFor(ctx, ep, true); err == nil && kept != nil && slices.ContainsFunc(ep.Addrs, kept.Has) {
			return true, fmt.Errorf("%s is kept for %s", c.Key, ep.Name) // the picture did not have it yet
		}
		if !claims(ep, c.Key) {
			return true, fmt.Errorf("%s was taken meanwhile", c.Key) // chosen for an alias: another will do
		}
		return false, r.addrTaken(ctx, ep.Network, c.Key)
	}
	return true, err // the network's record, the fence or what was kept: look at the store itself
}

// claims tells whether an address' key is of one of the endpoint's own.
func claims(ep *record.Endpoint, k store.Key) bool {
	return slices.ContainsFunc(ep.Addrs, func(a netip.Addr) bool { return record.AddrKey(ep.Network, a) == k })
}

// vipOwner is the alias whose virtual address a claim is.
func (r *Registry) vipOwner(ctx context.Context, claim store.Key) (string, bool) {
	e, err := r.cfg.Store.Get(ctx, claim)
	if err != nil {
		return "", false
	}
	return record.VIPOf(record.EndpointID(e.Value))
}

// activeInPicture returns the revision of an active network in the picture; store.Absent where only the store itself can tell. A transaction
// that compared the revision of a network that is deleting would be applied.
func (r *Registry) activeInPicture(id record.NetworkID) store.Rev {
	view := r.cfg.Picture()
	if n, ok := view.Network(id); ok && n.State == record.Active {
		return view.NetworkRev(id)
	}
	return store.Absent
}

// activeNetwork returns the revision of a network in which endpoints may be made; it waits for a removal under way to end either way.
func (r *Registry) activeNetwork(ctx context.Context, id record.NetworkID) (store.Rev, error) {
	for {
		n, rev, err := get[record.Network](ctx, r.cfg.Store, record.NetworkKey(id))
		switch {
		case err != nil:
			return 0, err
		case n == nil:
			return 0, refuse(NotFound, "network %s not found: it was removed", record.ShortID(id))
		case n.State == record.Active:
			return rev, nil
		}
		select {
		case <-ctx.Done():
			return 0, refuse(InUse, "network %s is being removed by another host", n.Name)
		case <-time.After(deletingWait):
		}
	}
}

func (r *Registry) nameTaken(ctx context.Context, ep *record.Endpoint) error {
	e := &NameTakenError{Name: ep.Name, Network: r.networkName(ep.Network)}
	if o := r.owner(ctx, ep.Network, record.EndpointNameKey(ep.Network, ep.Name)); o != nil {
		e.Owner, e.Host = o, r.hostName(o.Host)
	}
	return e
}

func (r *Registry) addrTaken(ctx context.Context, id record.NetworkID, k store.Key) error {
	a, err := netip.ParseAddr(strings.TrimPrefix(k.Name, "addr/"))
	if err != nil {
		return err
	}
	e := &AddrTakenError{Addr: a, Owner: "another endpoint"}
	if o := r.owner(ctx, id, k); o != nil {
		e.Owner, e.Host = o.Name, r.hostName(o.Host)
	} else if alias, ok := r.vipOwner(ctx, k); ok {
		e.Owner = "the alias " + alias + " as its virtual address"
	} else if k := r.keeper(id, a); k != nil {
		e.Owner = k.Name + ", for which it is kept since it was imported"
	}
	return e
}

// owner reads who holds a claim; nil where that cannot be found out, which the refusal must not wait for.
func (r *Registry) owner(ctx context.Context, id record.NetworkID, claim store.Key) *record.Endpoint {
	e, err := r.cfg.Store.Get(ctx, claim)
	if err != nil {
		return nil
	}
	ep, _, err := get[record.Endpoint](ctx, r.cfg.Store, record.EndpointKey(id, record.EndpointID(e.Value)))
	if err != nil {
		return nil
	}
	return ep
}

func (r *Registry) networkName(id record.NetworkID) string {
	if n, ok := r.cfg.Picture().Network(id); ok {
		return n.Name
	}
	return record.ShortID(id)
}

// UpdateEndpoint changes an endpoint's record, and with it which addresses and which name it claims. change gets a copy and may be called again
// after a lost race; the network and the ID must stay. Errors are those of CreateEndpoint.
func (r *Registry) UpdateEndpoint(ctx context.Context, as Actor, n record.NetworkID, id record.EndpointID, change func(*record.Endpoint)) (store.Rev, error) {
	for {
		rev, whole, err := r.updateOnce(ctx, as, n, id, change)
		if err != nil || whole {
			return rev, err
		}
	}
}

// updateOnce is one transaction; whole tells that nothing is left for another: each has room for a few aliases with a virtual address.
func (r *Registry) updateOnce(ctx context.Context, as Actor, n record.NetworkID, id record.EndpointID, change func(*record.Endpoint)) (rev store.Rev, whole bool, err error) {
	key := record.EndpointKey(n, id)
	err = retry(ctx, func(fresh bool) (bool, error) {
		old, oldRev, err := r.endpoint(ctx, n, id, fresh)
		if err != nil {
			return false, err
		}
		if old == nil {
			return false, refuse(NotFound, "endpoint %s not found in network %s", record.ShortID(id), r.networkName(n))
		}
		conds, err := r.conditions(ctx, as, fresh)
		if err != nil {
			return false, err
		}
		next := edited(old, change)
		m, err := r.membership(ctx, next, old.VIPAliases, next.VIPAliases, fresh)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.t.If = conds
		t.when(key, oldRev)
		for _, a := range next.Addrs {
			if !slices.Contains(old.Addrs, a) {
				t.claim(record.AddrKey(n, a), string(id))
			}
		}
		for _, a := range old.Addrs {
			if !slices.Contains(next.Addrs, a) {
				t.del(record.AddrKey(n, a))
			}
		}
		t.claimMAC(n, id, old, next)
		if was, is := record.EndpointNameKey(n, old.Name), record.EndpointNameKey(n, next.Name); was != is {
			t.claim(is, string(id))
			t.del(was)
		}
		if whole, err = m.update(&t, next); err != nil {
			return false, err
		}
		rev, err = r.commit(ctx, t)
		k, lost := conflict(err)
		if lost && (claims(next, k) || k == record.EndpointNameKey(n, next.Name) || next.StaticMAC && k == record.MACKey(n, next.MAC)) {
			return r.claimOutcome(ctx, n, id, k, next)
		}
		if lost && as.Session != nil && k == as.Session.Alive().Key {
			return false, refuse(Lost, "this host's session with the store has ended; it is opening a new one, try again")
		}
		return lost || errors.Is(err, store.ErrUnknown), err
	})
	return rev, whole, err
}

func edited(old *record.Endpoint, change func(*record.Endpoint)) *record.Endpoint {
	next := *old
	change(&next)
	return &next
}

// claimOutcome: an address or a name that is ours already was claimed by an attempt whose outcome was unknown.
func (r *Registry) claimOutcome(ctx context.Context, n record.NetworkID, id record.EndpointID, k store.Key, next *record.Endpoint) (bool, error) {
	if e, err := r.cfg.Store.Get(ctx, k); err == nil && record.EndpointID(e.Value) == id {
		return true, errors.New("claimed already")
	}
	switch k {
	case record.EndpointNameKey(n, next.Name):
		return false, r.nameTaken(ctx, next)
	case record.MACKey(n, next.MAC):
		return false, r.macTaken(ctx, n, k)
	}
	return false, r.addrTaken(ctx, n, k)
}

// endpoint returns a record from the picture or, where a fresh look is asked for, from the store.
func (r *Registry) endpoint(ctx context.Context, n record.NetworkID, id record.EndpointID, fresh bool) (*record.Endpoint, store.Rev, error) {
	if !fresh {
		if net, ok := r.cfg.Picture().Net(n); ok {
			if ep, ok := net.Endpoint(id); ok {
				return ep, net.EndpointRev(id), nil
			}
		}
	}
	return get[record.Endpoint](ctx, r.cfg.Store, record.EndpointKey(n, id))
}
