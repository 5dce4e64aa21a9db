// Package registry makes every change of the cluster's state: one exported method, one transaction. It chooses from a picture that may
// be a moment old, and the transaction's conditions make the choice right or refuse it; after a refusal it looks at the store itself and
// chooses again. What is applied comes back through the watch like anybody's change.
package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/store"
	"weft/store/record"
)

// Registry changes the records of one cluster.
type Registry struct {
	cfg Config
}

// Config is what a Registry needs.
type Config struct {
	Store   store.Store
	Picture func() *record.Snapshot
	Now     func() time.Time
	// Local makes it the registry of one host's own networks (driver bridge, scope local); it is the cluster's otherwise (overlay, global).
	Local bool
	// Beside is the other scope's picture: a name or a pool there is not given again here. Nil: there is none.
	Beside func() *record.Snapshot
	// Routes are those of this host now, which a local network's pools must leave alone. Nil: those of all hosts in the picture.
	Routes func() ([]record.Route, error)
	// HostName is a host's name for users. Nil: as the picture has it.
	HostName func(record.HostID) string
	// Underlay is the MTU of this host's way out; nil or 0: that of the hosts in the picture.
	Underlay func() int
	// ULA names whose automatic IPv6 subnets are given out; "" is the cluster's.
	ULA string
	// Random returns a number in [0,n): a loser of a race for an address takes one of the next at random.
	Random func(n int) int
}

// New returns a Registry.
func New(cfg Config) *Registry { return &Registry{cfg: cfg} }

// Actor is who changes something: a host in one incarnation, with the session that says that it is alive.
type Actor struct {
	Host        record.HostID
	Incarnation uint64
	Session     store.Session // nil before the host has one: then only the fence is compared
}

// Kind sorts errors for those who must answer differently to them.
type Kind uint8

// The kinds of Error.
const (
	Invalid     Kind = iota + 1 // it can never be
	Unsupported                 // it cannot be yet
	NotFound                    // what it is about does not exist
	Exists                      // a name, an address or an ID is taken
	InUse                       // what it is about is used by others
	Lost                        // this host's session ended, or its identity is another's
	Cleared                     // this host was cleared: it has to begin a new incarnation
)

// Error is a refusal in words for the user.
type Error struct {
	Kind Kind
	Msg  string
}

func (e *Error) Error() string { return e.Msg }

func refuse(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...)}
}

// KindOf returns the kind of a refusal, 0 for any other error.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var a *AddrTakenError
	var n *NameTakenError
	var m *MACTakenError
	if errors.As(err, &a) || errors.As(err, &n) || errors.As(err, &m) {
		return Exists
	}
	return 0
}

// conditions are what every write of a host compares: that it was not cleared, that the records are not being moved and, where it has a
// session, that this is alive.
func (r *Registry) conditions(ctx context.Context, as Actor, fresh bool) ([]store.Cond, error) {
	fence, rev := r.cfg.Picture().Fence(as.Host)
	if fresh {
		var err error
		if fence, rev, err = r.readFence(ctx, as.Host); err != nil {
			return nil, err
		}
	}
	if fence != nil && fence.Incarnation >= as.Incarnation {
		return nil, refuse(Cleared, "this host was cleared from the cluster (fence at incarnation %d, this is %d)", fence.Incarnation, as.Incarnation)
	}
	still, err := r.unmoved(ctx, fresh)
	if err != nil {
		return nil, err
	}
	conds := []store.Cond{{Key: record.FenceKey(as.Host), Rev: rev}, still}
	if as.Session != nil {
		conds = append(conds, as.Session.Alive())
	}
	return conds, nil
}

// Fence returns a host's fence as the store has it now, nil where there is none.
func (r *Registry) Fence(ctx context.Context, id record.HostID) (*record.Fence, error) {
	f, _, err := r.readFence(ctx, id)
	return f, err
}

func (r *Registry) readFence(ctx context.Context, id record.HostID) (*record.Fence, store.Rev, error) {
	e, err := r.cfg.Store.Get(ctx, record.FenceKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, store.Absent, nil
	}
	if err != nil {
		return nil, 0, err
	}
	f := &record.Fence{}
	if err := record.Decode(e.Value, f); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", e.Key, err)
	}
	return f, e.Rev, nil
}

// txn is one transaction in the making: conditions and writes.
type txn struct {
	t   store.Txn
	err error
}

func (t *txn) when(k store.Key, rev store.Rev) { t.t.If = append(t.t.If, store.Cond{Key: k, Rev: rev}) }
func (t *txn) claim(k store.Key, owner string) {
	t.when(k, store.Absent)
	t.t.Then = append(t.t.Then, store.Put(k, []byte(owner)))
}
func (t *txn) put(k store.Key, rec any) {
	b, err := record.Encode(rec)
	if err == nil && len(b) > store.MaxValue {
		err = refuse(Invalid, "%s takes %d bytes in the store, and at most %d are possible: give it less", describe(rec), len(b), store.MaxValue)
	}
	t.err = errors.Join(t.err, err)
	t.t.Then = append(t.t.Then, store.Put(k, b))
}

// describe names a record, and what may be long in it.
func describe(rec any) string {
	switch r := rec.(type) {
	case *record.Network:
		return fmt.Sprintf("the definition of network %s with its subnets, auxiliary addresses, options and labels", r.Name)
	case *record.Endpoint:
		return fmt.Sprintf("endpoint %s with its aliases and links", r.Name)
	case *record.Host:
		return fmt.Sprintf("the record of host %s with its %d routes", r.Name, len(r.Routes))
	}
	return "the record"
}

func (t *txn) del(k store.Key) { t.t.Then = append(t.t.Then, store.Del(k)) }

func (r *Registry) commit(ctx context.Context, t txn) (store.Rev, error) {
	if t.err != nil {
		return 0, t.err
	}
	return r.cfg.Store.Txn(ctx, t.t)
}

// retry runs try until it is done, ctx ends, or it fails for good. try is told whether to look at the store itself; it returns again
// when it lost a race or does not know its outcome, in which case it must find out by the IDs that it chose before.
func retry(ctx context.Context, try func(fresh bool) (again bool, err error)) error {
	wait := time.Millisecond
	for fresh := false; ; fresh = true {
		again, err := try(fresh)
		if !again {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(wait):
			wait = min(2*wait, 200*time.Millisecond)
		}
	}
}

// conflict returns the key that a transaction was refused for.
func conflict(err error) (store.Key, bool) {
	var c *store.ConflictError
	if errors.As(err, &c) {
		return c.Key, true
	}
	return store.Key{}, false
}

// get reads and decodes one record; nil and store.Absent where there is none.
func get[R any, P interface {
	*R
	decodable
}](ctx context.Context, s store.Store, k store.Key) (P, store.Rev, error) {
	e, err := s.Get(ctx, k)
	if errors.Is(err, store.ErrNotFound) {
		return nil, store.Absent, nil
	}
	if err != nil {
		return nil, 0, err
	}
	p := P(new(R))
	if err := p.Decode(e.Value); err != nil {
		return nil, e.Rev, fmt.Errorf("%s: %w", k, err)
	}
	return p, e.Rev, nil
}

type decodable interface{ Decode([]byte) error }
