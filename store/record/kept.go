package record

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/store"
)

// Kept is net/<network>/kept/<name>: addresses that are held for a sandbox of that name, which has none yet: it had them in the system that
// the network was imported from. Their claims carry its ID, so they have one owner as any address, and nobody else is given them. The endpoint
// of that name takes them over in the transaction that makes it, which also deletes this record.
type Kept struct {
	ID      EndpointID   `json:"id"` // of the endpoint that had them
	Network NetworkID    `json:"network"`
	Name    string       `json:"name"`
	Addrs   []netip.Addr `json:"addrs"`
	MAC     MAC          `json:"mac,omitempty"`
	From    string       `json:"from,omitempty"` // where the endpoint was, in words for the user
	Created time.Time    `json:"created"`
	extra   extra
}

const keptDir = "kept/"

// KeptKey is where what is kept for a name is; as names do, it has no case.
func KeptKey(n NetworkID, name string) store.Key {
	return store.Key{Partition: NetPartition(n), Name: keptDir + Fold(name)}
}

func (r *Kept) kept() *extra { return &r.extra }

func (r *Kept) check() error {
	if r.ID == "" || r.Network == "" || r.Name == "" || len(r.Addrs) == 0 {
		return errors.New("a kept address without an ID, a network, a name or an address")
	}
	for _, a := range r.Addrs {
		if !validAddr(a) {
			return fmt.Errorf("address %s can be no endpoint's", a)
		}
	}
	return nil
}

// Decode reads the stored form of what is kept; see the function of that name.
func (r *Kept) Decode(b []byte) error { return Decode(b, r) }

// Has tells whether an address is among those that are kept.
func (r *Kept) Has(a netip.Addr) bool { return slices.Contains(r.Addrs, a) }

// heldKept is a record with its revision.
type heldKept struct {
	*Kept
	rev store.Rev
}

// Kept returns what is kept for a name, in any case, and the record's revision; nil and store.Absent where nothing is.
func (n *Net) Kept(name string) (*Kept, store.Rev) {
	h, _ := n.keeps.get(n.seed, Fold(name))
	return h.Kept, h.rev
}

// AllKept returns everything that is kept, in no order.
func (n *Net) AllKept() iter.Seq[*Kept] {
	return func(yield func(*Kept) bool) {
		for _, h := range n.keeps.all() {
			if !yield(h.Kept) {
				return
			}
		}
	}
}

// Owner returns the ID that an address is claimed with: an endpoint's, or that of what is kept.
func (n *Net) Owner(a netip.Addr) (EndpointID, bool) { return n.addrs.get(n.seed, a) }

// KeptFor tells whether an address is kept for a name.
func (n *Net) KeptFor(name string, a netip.Addr) bool {
	k, _ := n.Kept(name)
	if k == nil {
		return false
	}
	owner, claimed := n.Owner(a)
	return claimed && owner == k.ID
}

// KeptName returns the folded name that a key of a network's partition keeps addresses for.
func KeptName(k store.Key) (string, bool) { return strings.CutPrefix(k.Name, keptDir) }
