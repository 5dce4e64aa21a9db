package registry

import (
	"context"
	"fmt"
	"strings"

	"weft/store"
	"weft/store/record"
)

// MACTakenError says that a hardware address has an owner in a network.
type MACTakenError struct {
	MAC   record.MAC
	Owner string
	Host  string
}

func (e *MACTakenError) Error() string {
	where := ""
	if e.Host != "" {
		where = " on host " + e.Host
	}
	return fmt.Sprintf("Address already in use: hardware address %s belongs to %s%s", e.MAC, e.Owner, where)
}

func (r *Registry) macTaken(ctx context.Context, id record.NetworkID, k store.Key) error {
	e := &MACTakenError{MAC: record.MAC(strings.TrimPrefix(k.Name, "mac/")), Owner: "another endpoint"}
	if o := r.owner(ctx, id, k); o != nil {
		e.Owner, e.Host = o.Name, r.hostName(o.Host)
	}
	return e
}

// claimMAC adds to a transaction what a change of an endpoint's hardware address claims and gives back; old is nil for a new endpoint.
func (t *txn) claimMAC(n record.NetworkID, id record.EndpointID, old, next *record.Endpoint) {
	var was, is record.MAC
	if old != nil && old.StaticMAC {
		was = old.MAC
	}
	if next.StaticMAC {
		is = next.MAC
	}
	if was == is {
		return
	}
	if is != "" {
		t.claim(record.MACKey(n, is), string(id))
	}
	if was != "" {
		t.del(record.MACKey(n, was))
	}
}
