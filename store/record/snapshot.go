package record

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"weft/store"
)

// Snapshot is one immutable picture of what an agent follows: the networks, the hosts, who is alive, and the endpoints of some
// networks. Readers share it without a lock; Apply makes the next one and leaves this one as it is. The records that it returns are
// shared too: copy one before changing it.
type Snapshot struct {
	meta  metaPart
	alive map[HostID]*Liveness
	nets  map[NetworkID]*Net
	revs  map[string]store.Rev // newest seen, by partition
	bad   map[store.Key]error  // records that could not be decoded: named and skipped
	local *Snapshot            // of Union: the networks of this host alone
}

// Errors of FindNetwork.
var (
	ErrNotFound  = errors.New("not found")
	ErrAmbiguous = errors.New("ambiguous")
)

// Empty is the picture of an agent that has seen nothing yet.
func Empty() *Snapshot { return &Snapshot{} }

// Apply returns the picture after a batch of a partition. A batch with Resync may be a difference or, as the first one, everything.
func (s *Snapshot) Apply(partition string, b store.Batch) *Snapshot {
	next := *s
	next.revs = with(s.revs, partition, b.Rev)
	bad := badEdit{to: s.bad}
	switch {
	case partition == store.Meta:
		next.meta = s.meta.apply(b, &bad)
	case partition == store.Alive:
		next.alive = applyAlive(s.alive, b, &bad)
	case strings.HasPrefix(partition, netPrefix):
		id := NetworkID(partition[len(netPrefix):])
		old := s.nets[id]
		if old == nil {
			old = newNet(id)
		}
		next.nets = with(s.nets, id, old.apply(b, &bad))
	}
	next.bad = bad.to
	return &next
}

// Drop returns the picture without a partition: what is in it is unknown from now on.
func (s *Snapshot) Drop(partition string) *Snapshot {
	next := *s
	next.revs = without(s.revs, partition)
	switch partition {
	case store.Meta:
		next.meta = metaPart{}
	case store.Alive:
		next.alive = nil
	}
	if id, ok := strings.CutPrefix(partition, netPrefix); ok {
		next.nets = without(s.nets, NetworkID(id))
	}
	next.bad = maps.Clone(s.bad)
	maps.DeleteFunc(next.bad, func(k store.Key, _ error) bool { return k.Partition == partition })
	return &next
}

// Rev is the newest revision seen in a partition, 0 if it was never read.
func (s *Snapshot) Rev(partition string) store.Rev {
	if rev, ok := s.revs[partition]; ok || s.local == nil || partition == store.Meta || partition == store.Alive {
		return rev
	}
	return s.local.Rev(partition)
}

// Corrupt returns the records that could not be decoded, and why.
func (s *Snapshot) Corrupt() map[store.Key]error {
	if s.local == nil || len(s.local.bad) == 0 {
		return s.bad
	}
	out := maps.Clone(s.local.bad)
	maps.Copy(out, s.bad)
	return out
}

// Cluster returns the cluster's record, or nil if there is none.
func (s *Snapshot) Cluster() *Cluster { return s.meta.cluster }

// PoolsGen is the revision of the counter that every change of pools raises; store.Absent where there was none yet.
func (s *Snapshot) PoolsGen() store.Rev { return s.meta.revs["pools-gen"] }

// Network returns a network by its full ID.
func (s *Snapshot) Network(id NetworkID) (*Network, bool) {
	n, ok := s.meta.networks[id]
	if !ok && s.local != nil {
		return s.local.Network(id)
	}
	return n, ok
}

// NetworkRev is the revision of the network's record, store.Absent where there is none.
func (s *Snapshot) NetworkRev(id NetworkID) store.Rev { return s.meta.revs[NetworkKey(id).Name] }

// NetworkByName returns the network that has claimed a name, in any case; of a union, the cluster's where both scopes have one.
func (s *Snapshot) NetworkByName(name string) (*Network, bool) {
	if n, ok := s.Network(s.meta.names[Fold(name)]); ok || s.local == nil {
		return n, ok
	}
	return s.local.NetworkByName(name)
}

// FindNetwork returns the network that ref names: a full ID, a name, or the only ID that begins with ref.
func (s *Snapshot) FindNetwork(ref string) (*Network, error) {
	if n, ok := s.Network(NetworkID(ref)); ok {
		return n, nil
	}
	if n, ok := s.NetworkByName(ref); ok {
		if err := s.twice(n); err != nil {
			return nil, err
		}
		return n, nil
	}
	var found *Network
	for id, n := range s.byID() {
		if ref == "" || !strings.HasPrefix(string(id), ref) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("network %s is %w: several IDs begin with it", ref, ErrAmbiguous)
		}
		found = n
	}
	if found == nil {
		return nil, fmt.Errorf("network %s %w", ref, ErrNotFound)
	}
	return found, nil
}

// Networks returns all networks, sorted by name.
func (s *Snapshot) Networks() iter.Seq[*Network] {
	return slices.Values(slices.SortedFunc(values(s.byID()), func(a, b *Network) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	}))
}

// VNIOwner returns the network that has claimed a VNI.
func (s *Snapshot) VNIOwner(vni uint32) (NetworkID, bool) {
	id, ok := s.meta.vnis[vni]
	return id, ok
}

// VTEPOwner returns the host that has claimed a VTEP address.
func (s *Snapshot) VTEPOwner(a netip.Addr) (HostID, bool) {
	id, ok := s.meta.vteps[a]
	return id, ok
}

// Host returns a host by its ID.
func (s *Snapshot) Host(id HostID) (*Host, bool) {
	h, ok := s.meta.hosts[id]
	return h, ok
}

// KeyRev is the revision of a record that has one of its own: any of partition meta, and an endpoint. It is store.Absent for what is not there
// and for all other keys.
func (s *Snapshot) KeyRev(k store.Key) store.Rev {
	if k.Partition == store.Meta {
		return s.meta.revs[k.Name]
	}
	if net, ok := s.Net(NetworkID(strings.TrimPrefix(k.Partition, NetPartition("")))); ok {
		return net.EndpointRev(EndpointID(strings.TrimPrefix(k.Name, "ep/")))
	}
	return store.Absent
}

// HostRev is the revision of the host's record, store.Absent where there is none.
func (s *Snapshot) HostRev(id HostID) store.Rev { return s.meta.revs[HostKey(id).Name] }

// Hosts returns all hosts, sorted by name.
func (s *Snapshot) Hosts() iter.Seq[*Host] {
	return slices.Values(slices.SortedFunc(maps.Values(s.meta.hosts), func(a, b *Host) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	}))
}

// Fences returns all fences, in no order.
func (s *Snapshot) Fences() iter.Seq[*Fence] { return maps.Values(s.meta.fences) }

// Fence returns a host's fence and its revision; nil and store.Absent where there is none.
func (s *Snapshot) Fence(id HostID) (*Fence, store.Rev) {
	return s.meta.fences[id], s.meta.revs[FenceKey(id).Name]
}

// Revoked tells whether a key is that of a host that was removed: nobody trusts it, whoever shows it.
func (s *Snapshot) Revoked(key string) bool {
	for f := range s.Fences() {
		if f.Revokes(key) {
			return true
		}
	}
	return false
}

// Alive returns a host's sign of life.
func (s *Snapshot) Alive(id HostID) (*Liveness, bool) {
	l, ok := s.alive[id]
	return l, ok
}

// Net returns a network's endpoints. False means that they are not known (not followed, or not read yet), never that there are none.
func (s *Snapshot) Net(id NetworkID) (*Net, bool) {
	n, ok := s.nets[id]
	if !ok && s.local != nil {
		return s.local.Net(id)
	}
	return n, ok
}

// Partitions returns what the picture has been given, sorted.
func (s *Snapshot) Partitions() []string { return slices.Sorted(maps.Keys(s.revs)) }

// ShortID is the form in which tables show an ID: its first 12 digits.
func ShortID[T ~string](id T) string {
	if len(id) > 12 {
		return string(id[:12])
	}
	return string(id)
}

// badEdit copies the map of corrupt records at its first change.
type badEdit struct {
	to     map[store.Key]error
	copied bool
}

func (b *badEdit) set(k store.Key, err error) {
	if err == nil && b.to[k] == nil {
		return
	}
	if !b.copied {
		b.to, b.copied = maps.Clone(b.to), true
	}
	if err == nil {
		delete(b.to, k)
		return
	}
	if b.to == nil {
		b.to = map[store.Key]error{}
	}
	b.to[k] = err
}

func with[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	out := make(map[K]V, len(m)+1)
	maps.Copy(out, m)
	out[k] = v
	return out
}

func without[K comparable, V any](m map[K]V, k K) map[K]V {
	out := maps.Clone(m)
	delete(out, k)
	return out
}

func applyAlive(old map[HostID]*Liveness, b store.Batch, bad *badEdit) map[HostID]*Liveness {
	out := maps.Clone(old)
	if out == nil {
		out = map[HostID]*Liveness{}
	}
	for _, k := range b.Dels {
		delete(out, HostID(k.Name))
		bad.set(k, nil)
	}
	for _, e := range b.Puts {
		r := &Liveness{}
		err := Decode(e.Value, r)
		bad.set(e.Key, err)
		if err != nil { // its session lives, whatever it wrote
			r = &Liveness{Host: HostID(e.Key.Name)}
		}
		out[HostID(e.Key.Name)] = r
	}
	return out
}

// With returns s with one partition as it is in o.
func (s *Snapshot) With(o *Snapshot, partition string) *Snapshot {
	next := *s
	next.revs = with(s.revs, partition, o.revs[partition])
	switch {
	case partition == store.Meta:
		next.meta = o.meta
	case partition == store.Alive:
		next.alive = o.alive
	default:
		id := NetworkID(strings.TrimPrefix(partition, netPrefix))
		next.nets = with(s.nets, id, o.nets[id])
	}
	next.bad = maps.Clone(s.bad)
	maps.DeleteFunc(next.bad, func(k store.Key, _ error) bool { return k.Partition == partition })
	for k, err := range o.bad {
		if k.Partition == partition {
			if next.bad == nil {
				next.bad = map[store.Key]error{}
			}
			next.bad[k] = err
		}
	}
	return &next
}
