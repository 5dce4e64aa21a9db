package record

import (
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"weft/store"
)

// Dump returns a partition as it would be listed, for an agent's own disk: applied to Empty as a resync, it gives the same picture.
// Corrupt records are left out, and so are signs of life, which say nothing to an agent that starts.
func (s *Snapshot) Dump(partition string) (store.Snapshot, error) {
	out := store.Snapshot{Rev: s.Rev(partition)}
	var err error
	add := func(k store.Key, rev store.Rev, r any) {
		var b []byte
		if err == nil {
			b, err = Encode(r)
		}
		out.Entries = append(out.Entries, store.Entry{Key: k, Value: b, Rev: rev})
	}
	claim := func(k store.Key, owner string) {
		out.Entries = append(out.Entries, store.Entry{Key: k, Value: []byte(owner), Rev: s.meta.revs[k.Name]})
	}
	if partition == store.Meta {
		s.dumpMeta(add, claim)
		return out, err
	}
	n, ok := s.nets[NetworkID(strings.TrimPrefix(partition, netPrefix))]
	if !ok {
		return out, err
	}
	for id, h := range n.eps.all() {
		add(EndpointKey(n.ID, id), h.rev, h.Endpoint)
	}
	for _, h := range n.keeps.all() {
		add(KeptKey(n.ID, h.Name), h.rev, h.Kept)
	}
	for _, h := range n.vips.all() {
		add(VIPKey(n.ID, h.Alias), h.rev, h.VIP)
	}
	for a, id := range n.addrs.all() {
		claim(AddrKey(n.ID, a), string(id))
	}
	for name, id := range n.names.all() {
		claim(EndpointNameKey(n.ID, name), string(id))
	}
	for m, id := range n.macs.all() {
		claim(MACKey(n.ID, m), string(id))
	}
	return out, err
}

func (s *Snapshot) dumpMeta(add func(store.Key, store.Rev, any), claim func(store.Key, string)) {
	m := s.meta
	if m.cluster != nil {
		add(ClusterKey(), m.revs["cluster"], m.cluster)
	}
	if m.authority != nil {
		add(AuthorityKey(), m.revs[authorityName], m.authority)
	}
	for id, n := range m.networks {
		add(NetworkKey(id), s.NetworkRev(id), n)
	}
	for id, h := range m.hosts {
		add(HostKey(id), s.HostRev(id), h)
	}
	for id, f := range m.fences {
		add(FenceKey(id), m.revs[FenceKey(id).Name], f)
	}
	for id, r := range m.cleared {
		add(ClearedKey(id), m.revs[ClearedKey(id).Name], r)
	}
	for name, id := range m.names {
		claim(NetworkNameKey(name), string(id))
	}
	for vni, id := range m.vnis {
		claim(VNIKey(vni), string(id))
	}
	for a, id := range m.vteps {
		claim(VTEPKey(a), string(id))
	}
	if rev, ok := m.revs["pools-gen"]; ok {
		claim(PoolsGenKey(), strconv.FormatUint(uint64(rev), 10))
	}
}

// SeedFrom returns the picture that dumps were taken of. Each partition is read by a goroutine of its own: an agent that starts waits for it.
func SeedFrom(dumps map[string]store.Snapshot) *Snapshot {
	s := Empty()
	var mu sync.Mutex // guards s
	var wg sync.WaitGroup
	for partition, d := range dumps {
		wg.Go(func() {
			part := Empty().Apply(partition, store.Batch{Rev: d.Rev, Resync: true, Puts: d.Entries})
			mu.Lock()
			defer mu.Unlock()
			s = s.With(part, partition)
		})
	}
	wg.Wait()
	return s
}

// PoolOf returns the pool of a network that contains an address.
func (n *Network) PoolOf(a netip.Addr) (Pool, bool) {
	for _, p := range n.Pools {
		if p.Subnet.Contains(a) {
			return p, true
		}
	}
	return Pool{}, false
}
