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

// VIP is net/<network>/vip/<alias>: the virtual address of an alias, one of each family that the network has. It is made in the transaction that
// makes its first member, an endpoint with that alias among its VIPAliases, running or not; and deleted in the one that takes the last one away.
// Who the members are is in their records alone. Each change of membership writes this record again, as it is, and compares its revision: so
// whoever finds no other member beside the one that goes knows that none can come meanwhile.
type VIP struct {
	Network NetworkID    `json:"network"`
	Alias   string       `json:"alias"` // as its first member spelled it
	Addrs   []netip.Addr `json:"addrs"` // one, or one of each family
	Created time.Time    `json:"created"`
	extra   extra
}

const vipDir = "vip/"

// VIPKey is where the virtual address of an alias is; as names do, it has no case.
func VIPKey(n NetworkID, alias string) store.Key {
	return store.Key{Partition: NetPartition(n), Name: vipDir + Fold(alias)}
}

// VIPOwner is what the addresses of an alias are claimed with, in the place of an endpoint's ID.
func VIPOwner(alias string) EndpointID { return EndpointID(vipDir + Fold(alias)) }

// VIPOf returns the folded alias that owns a claim, false where an endpoint does.
func VIPOf(owner EndpointID) (alias string, ok bool) { return strings.CutPrefix(string(owner), vipDir) }

func (r *VIP) kept() *extra { return &r.extra }

func (r *VIP) check() error {
	if r.Network == "" || r.Alias == "" || len(r.Addrs) == 0 {
		return errors.New("a virtual address without a network, an alias or an address")
	}
	for _, a := range r.Addrs {
		if !validAddr(a) {
			return fmt.Errorf("address %s can be no virtual one", a)
		}
	}
	return nil
}

// Decode reads the stored form of a virtual address; see the function of that name.
func (r *VIP) Decode(b []byte) error { return Decode(b, r) }

// heldVIP is a record with its revision.
type heldVIP struct {
	*VIP
	rev store.Rev
}

// VIP returns the virtual address of an alias, in any case, and the record's revision; nil and store.Absent where it has none.
func (n *Net) VIP(alias string) (*VIP, store.Rev) {
	h, _ := n.vips.get(n.seed, Fold(alias))
	return h.VIP, h.rev
}

// AllVIPs returns all virtual addresses, in no order.
func (n *Net) AllVIPs() iter.Seq[*VIP] {
	return func(yield func(*VIP) bool) {
		for _, h := range n.vips.all() {
			if !yield(h.VIP) {
				return
			}
		}
	}
}

// VIPByAddr returns the virtual address that an address is.
func (n *Net) VIPByAddr(a netip.Addr) (*VIP, bool) {
	owner, _ := n.Owner(a)
	alias, ok := VIPOf(owner)
	if !ok {
		return nil, false
	}
	v, _ := n.VIP(alias)
	return v, v != nil
}

// Members returns the endpoints, running and stopped, that an alias with a virtual address leads to, sorted by ID.
func (n *Net) Members(alias string) []*Endpoint {
	return slices.DeleteFunc(n.ByLabel(alias), func(ep *Endpoint) bool { return !ep.HasVIPAlias(alias) })
}

// HasVIPAlias tells whether an alias of the endpoint, in any case, is one with a virtual address.
func (r *Endpoint) HasVIPAlias(alias string) bool { return hasFolded(r.VIPAliases, alias) }

// HasAlias tells whether the endpoint has an alias, in any case, of either kind.
func (r *Endpoint) HasAlias(alias string) bool {
	return hasFolded(r.Aliases, alias) || r.HasVIPAlias(alias)
}

func hasFolded(in []string, alias string) bool {
	return slices.ContainsFunc(in, func(a string) bool { return Fold(a) == Fold(alias) })
}
