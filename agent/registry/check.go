package registry

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weft/store"
	"weft/store/record"
)

// Check returns every violation of the invariants on ownership and overlap in a cluster's partitions, which must have been listed with
// nothing written in between, or be of one transaction's moment.
func Check(meta store.Snapshot, nets map[record.NetworkID]store.Snapshot) []error {
	var errs []error
	view := record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries})
	for k, err := range view.Corrupt() {
		errs = append(errs, fmt.Errorf("%s: %w", k, err))
	}
	var pools []record.Pool
	for n := range view.Networks() {
		for _, p := range n.Pools {
			for _, o := range pools {
				if o.Subnet.Overlaps(p.Subnet) {
					errs = append(errs, fmt.Errorf("pools %s and %s overlap", o.Subnet, p.Subnet))
				}
			}
			pools = append(pools, p)
		}
	}
	for _, e := range meta.Entries {
		errs = append(errs, checkMetaClaim(view, e)...)
	}
	for id, s := range nets {
		if _, ok := view.Network(id); !ok && len(s.Entries) > 0 {
			errs = append(errs, fmt.Errorf("network %s is gone and has %d keys", id, len(s.Entries)))
		}
		errs = append(errs, checkNet(id, s)...)
	}
	return errs
}

func checkMetaClaim(view *record.Snapshot, e store.Entry) []error {
	dir, id, _ := strings.Cut(e.Key.Name, "/")
	ok := true
	switch dir {
	case "networks":
		n, found := view.Network(record.NetworkID(id))
		if !found {
			return nil // corrupt: reported
		}
		byName, _ := view.NetworkByName(n.Name)
		owner, _ := view.VNIOwner(n.VNI)
		ok = byName == n && (n.VNI == 0 || owner == n.ID)
	case "names":
		n, found := view.Network(record.NetworkID(e.Value))
		ok = found && record.Fold(n.Name) == id
	case "vnis":
		n, found := view.Network(record.NetworkID(e.Value))
		ok = found && strconv.Itoa(int(n.VNI)) == id
	case "vteps":
		h, found := view.Host(record.HostID(e.Value))
		ok = found && h.VTEP.String() == id
	}
	if !ok {
		return []error{fmt.Errorf("%s and the record that it belongs to do not match", e.Key)}
	}
	return nil
}

func checkNet(id record.NetworkID, s store.Snapshot) []error {
	var errs []error
	n, _ := record.Empty().Apply(record.NetPartition(id), store.Batch{Rev: s.Rev, Puts: s.Entries}).Net(id)
	for _, e := range s.Entries {
		dir, name, _ := strings.Cut(e.Key.Name, "/")
		ok := true
		switch dir {
		case "ep":
			ep, found := n.Endpoint(record.EndpointID(name))
			if !found {
				errs = append(errs, fmt.Errorf("%s is corrupt", e.Key))
				continue
			}
			ok = ownsAll(n, ep)
		case "addr":
			a, err := netip.ParseAddr(name)
			ep, found := n.ByAddr(a)
			ok = err == nil && (found && hasAddr(ep, a) || keptBy(n, record.EndpointID(e.Value), a) || isVIP(n, a))
		case "mac":
			ep, found := n.ByMAC(record.MAC(name))
			ok = found && ep.StaticMAC && string(ep.MAC) == name
		case "name":
			ep, found := n.ByName(name)
			ok = found && record.Fold(ep.Name) == name
		case "vip":
			v, _ := n.VIP(name)
			if v == nil {
				errs = append(errs, fmt.Errorf("%s is corrupt", e.Key))
				continue
			}
			ok = record.Fold(v.Alias) == name && isSound(n, v)
		case "kept":
			k, _ := n.Kept(name)
			if k == nil {
				errs = append(errs, fmt.Errorf("%s is corrupt", e.Key))
				continue
			}
			ok = record.Fold(k.Name) == name
			for _, a := range k.Addrs {
				ok = ok && n.KeptFor(k.Name, a)
			}
		}
		if !ok {
			errs = append(errs, fmt.Errorf("%s and the record that it belongs to do not match", e.Key))
		}
	}
	return errs
}

// ownsAll tells whether all that an endpoint has is claimed for it.
func ownsAll(n *record.Net, ep *record.Endpoint) bool {
	byName, _ := n.ByName(ep.Name)
	ok := byName == ep
	if ep.StaticMAC {
		byMAC, _ := n.ByMAC(ep.MAC)
		ok = ok && byMAC == ep
	}
	for _, a := range ep.Addrs {
		byAddr, _ := n.ByAddr(a)
		ok = ok && byAddr == ep
	}
	for _, alias := range ep.VIPAliases {
		v, _ := n.VIP(alias)
		ok = ok && v != nil
	}
	return ok
}

// isSound tells whether a virtual address has a member and its claims.
func isSound(n *record.Net, v *record.VIP) bool {
	ok := len(n.Members(v.Alias)) > 0
	for _, a := range v.Addrs {
		byAddr, _ := n.VIPByAddr(a)
		ok = ok && byAddr == v
	}
	return ok
}

func keptBy(n *record.Net, id record.EndpointID, a netip.Addr) bool {
	for k := range n.AllKept() {
		if k.ID == id {
			return k.Has(a)
		}
	}
	return false
}

func hasAddr(ep *record.Endpoint, a netip.Addr) bool {
	for _, x := range ep.Addrs {
		if x == a {
			return true
		}
	}
	return false
}

func isVIP(n *record.Net, a netip.Addr) bool {
	v, ok := n.VIPByAddr(a)
	return ok && slices.Contains(v.Addrs, a)
}
