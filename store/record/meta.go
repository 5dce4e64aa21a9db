package record

import (
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"

	"weft/store"
)

// metaPart is the picture of partition meta. It is small, so a change copies its maps whole.
type metaPart struct {
	cluster   *Cluster
	networks  map[NetworkID]*Network
	hosts     map[HostID]*Host
	fences    map[HostID]*Fence
	names     map[string]NetworkID // claims, folded
	vnis      map[uint32]NetworkID
	vteps     map[netip.Addr]HostID
	move      *Move
	replies   map[HostID]*MoveReply
	cleared   map[EndpointID]*Cleared
	authority *Authority
	revs      map[string]store.Rev // by key name, for compare-revision
}

func (m metaPart) apply(b store.Batch, bad *badEdit) metaPart {
	next := metaPart{
		cluster: m.cluster, networks: clone(m.networks), hosts: clone(m.hosts), fences: clone(m.fences),
		names: clone(m.names), vnis: clone(m.vnis), vteps: clone(m.vteps), revs: clone(m.revs),
		move: m.move, replies: clone(m.replies), cleared: clone(m.cleared), authority: m.authority,
	}
	for _, k := range b.Dels {
		bad.set(k, next.del(k.Name))
	}
	for _, e := range b.Puts {
		next.revs[e.Key.Name] = e.Rev
		bad.set(e.Key, next.put(e.Key.Name, e.Value))
	}
	return next
}

func clone[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return map[K]V{}
	}
	return maps.Clone(m)
}

// put takes one entry in. A record that cannot be read leaves the last good one in place: a network does not end because someone
// scribbled over its definition.
func (m *metaPart) put(name string, value []byte) error {
	dir, id, _ := strings.Cut(name, "/")
	switch dir {
	case "cluster":
		return take(value, &Cluster{}, func(r *Cluster) { m.cluster = r })
	case authorityName:
		return take(value, &Authority{}, func(r *Authority) { m.authority = r })
	case "networks":
		return take(value, &Network{}, func(r *Network) { m.networks[NetworkID(id)] = r })
	case "hosts":
		return take(value, &Host{}, func(r *Host) { m.hosts[HostID(id)] = r })
	case "fences":
		return take(value, &Fence{}, func(r *Fence) { m.fences[HostID(id)] = r })
	case "moves":
		if id == "" {
			return take(value, &Move{}, func(r *Move) { m.move = r })
		}
		if strings.HasPrefix(id, retoldDir) {
			return nil // for those who put records back, who read it from the store itself
		}
		return take(value, &MoveReply{}, func(r *MoveReply) { m.replies[HostID(id)] = r })
	case clearedDir:
		return take(value, &Cleared{}, func(r *Cleared) { m.cleared[EndpointID(id)] = r })
	case "names":
		m.names[id] = NetworkID(value)
	case "vnis":
		n, err := strconv.ParseUint(id, 10, 24)
		if err != nil {
			return fmt.Errorf("key of a VNI: %w", err)
		}
		m.vnis[uint32(n)] = NetworkID(value)
	case "vteps":
		a, err := netip.ParseAddr(id)
		if err != nil {
			return fmt.Errorf("key of a VTEP: %w", err)
		}
		m.vteps[a] = HostID(value)
	}
	return nil // a key of a later version, or pools-gen, of which only the revision matters
}

func take[R checked](value []byte, r R, set func(R)) error {
	if err := Decode(value, r); err != nil {
		return err
	}
	set(r)
	return nil
}

func (m *metaPart) del(name string) error {
	delete(m.revs, name)
	dir, id, _ := strings.Cut(name, "/")
	switch dir {
	case "cluster":
		m.cluster = nil
	case authorityName:
		m.authority = nil
	case "networks":
		delete(m.networks, NetworkID(id))
	case "hosts":
		delete(m.hosts, HostID(id))
	case "fences":
		delete(m.fences, HostID(id))
	case "moves":
		if id == "" {
			m.move = nil
		}
		delete(m.replies, HostID(id))
	case clearedDir:
		delete(m.cleared, EndpointID(id))
	case "names":
		delete(m.names, id)
	case "vnis":
		if n, err := strconv.ParseUint(id, 10, 24); err == nil {
			delete(m.vnis, uint32(n))
		}
	case "vteps":
		if a, err := netip.ParseAddr(id); err == nil {
			delete(m.vteps, a)
		}
	}
	return nil
}
