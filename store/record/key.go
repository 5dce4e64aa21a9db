package record

import (
	"net/netip"
	"strconv"
	"strings"

	"weft/store"
)

// NetPartition is the partition of a network's endpoints.
func NetPartition(id NetworkID) string { return "net/" + string(id) }

// Keys of partition meta.
func ClusterKey() store.Key             { return meta("cluster") }
func PoolsGenKey() store.Key            { return meta("pools-gen") }
func NetworkKey(id NetworkID) store.Key { return meta("networks/" + string(id)) }
func HostKey(id HostID) store.Key       { return meta("hosts/" + string(id)) }
func FenceKey(id HostID) store.Key      { return meta("fences/" + string(id)) }
func VNIKey(vni uint32) store.Key       { return meta("vnis/" + strconv.FormatUint(uint64(vni), 10)) }
func VTEPKey(a netip.Addr) store.Key    { return meta("vteps/" + a.String()) }

// NetworkNameKey makes a network's name unique in the cluster, whatever its case.
func NetworkNameKey(name string) store.Key { return meta("names/" + Fold(name)) }

// AliveKey is bound to the host's session.
func AliveKey(id HostID) store.Key { return store.Key{Partition: store.Alive, Name: string(id)} }

// Keys of a network's partition.
func EndpointKey(n NetworkID, id EndpointID) store.Key {
	return store.Key{Partition: NetPartition(n), Name: "ep/" + string(id)}
}
func AddrKey(n NetworkID, a netip.Addr) store.Key {
	return store.Key{Partition: NetPartition(n), Name: "addr/" + a.String()}
}
func EndpointNameKey(n NetworkID, name string) store.Key {
	return store.Key{Partition: NetPartition(n), Name: "name/" + Fold(name)}
}

// Fold makes names that differ in case only the same, as DNS has it.
func Fold(name string) string { return strings.ToLower(name) }

func meta(name string) store.Key { return store.Key{Partition: store.Meta, Name: name} }
