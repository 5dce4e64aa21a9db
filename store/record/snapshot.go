package record

import (
	"net/netip"

	"weft/store"
)

// Snapshot is one immutable picture of what an agent follows: the networks, the hosts, who is alive, and the endpoints of some
// networks. Readers share it without a lock; Apply makes the next one and leaves this one as it is.
type Snapshot struct {
	meta  *metaPart
	alive map[HostID]*Liveness
	nets  map[NetworkID]*Net
	revs  map[string]store.Rev // newest revision seen, by partition
	bad   map[store.Key]error  // records that could not be decoded, named and skipped
}

type metaPart struct {
	cluster  *Cluster
	networks map[NetworkID]*Network
	byName   map[string]NetworkID // folded
	hosts    map[HostID]*Host
	fences   map[HostID]*Fence
	revs     map[store.Key]store.Rev // of each record, for compare-revision
}

// Net is the picture of one network's endpoints.
type Net struct {
	ID        NetworkID
	endpoints map[EndpointID]*Endpoint
	revs      map[EndpointID]store.Rev
	byAddr    map[netip.Addr]EndpointID // claims; an address is taken even where its record is corrupt
	byName    map[string]EndpointID     // claims, folded
	byLabel   map[string][]EndpointID   // every DNS label: name, hostname, aliases, short sandbox ID; folded, in order of ID
}
