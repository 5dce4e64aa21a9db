package record

import (
	"net"

	"weft/store"
)

// macDir holds the claims of hardware addresses that users have asked for: one owner in a network. Those that follow from an IPv4 address are
// as unique as that, and are claimed with it.
const macDir = "mac/"

// MACKey makes a hardware address that was asked for unique in its network.
func MACKey(n NetworkID, m MAC) store.Key {
	return store.Key{Partition: NetPartition(n), Name: macDir + string(m)}
}

// ParseMAC reads a hardware address in any of the usual forms. ok is false for what no interface can have: other lengths than 48 bits, groups,
// and zero.
func ParseMAC(s string) (MAC, bool) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
		return "", false
	}
	zero := true
	for _, b := range hw {
		zero = zero && b == 0
	}
	return MAC(hw.String()), !zero
}

// ByMAC returns the endpoint that has claimed a hardware address.
func (n *Net) ByMAC(m MAC) (*Endpoint, bool) {
	id, ok := n.macs.get(n.seed, m)
	if !ok {
		return nil, false
	}
	return n.Endpoint(id)
}
