package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Base is a range that automatic subnets of prefix length Size are cut from.
type Base struct {
	Prefix netip.Prefix
	Size   int
}

// DefaultBases is where overlay subnets come from if the cluster does not say otherwise.
func DefaultBases() []Base {
	return []Base{
		{netip.MustParsePrefix("10.0.0.0/8"), 24},
		{netip.MustParsePrefix("172.16.0.0/12"), 24},
		{netip.MustParsePrefix("192.168.0.0/16"), 24},
	}
}

// ErrNoSubnet says that every automatic subnet is taken.
var ErrNoSubnet = errors.New("no automatic subnet is free: every one overlaps a network's pool or a host's route; give --subnet, or the first agent another --default-addr-pool")

// Taken is a prefix that is in use, and by what, in words for the user.
type Taken struct {
	Prefix netip.Prefix
	By     string
}

// Overlap returns the first of taken that one of pools overlaps.
func Overlap(pools []Pool, taken []Taken) (Pool, Taken, bool) {
	for _, p := range pools {
		for _, t := range taken {
			if p.Subnet.Overlaps(t.Prefix) {
				return p, t, true
			}
		}
	}
	return Pool{}, Taken{}, false
}

// ChooseSubnet returns the lowest subnet of the first base that overlaps nothing taken. Time is that of sorting taken. IPv4 only.
func ChooseSubnet(bases []Base, taken []netip.Prefix) (netip.Prefix, error) {
	type span struct{ from, to uint64 }
	spans := make([]span, 0, len(taken))
	for _, t := range taken {
		if t = t.Masked(); t.Addr().Is4() {
			from := number(t.Addr())
			spans = append(spans, span{from, from + 1<<(32-t.Bits())})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return int(int64(a.from) - int64(b.from)) })
	for _, b := range bases {
		if !b.Prefix.Addr().Is4() || b.Size < b.Prefix.Bits() || b.Size > 30 {
			return netip.Prefix{}, fmt.Errorf("subnets of length %d cannot be cut from %s", b.Size, b.Prefix)
		}
		size := uint64(1) << (32 - b.Size)
		at := number(b.Prefix.Masked().Addr())
		end := at + 1<<(32-b.Prefix.Bits())
		for _, s := range spans {
			if s.to <= at {
				continue
			}
			if s.from >= at+size {
				break
			}
			at = (s.to + size - 1) / size * size
		}
		if at+size <= end {
			return netip.PrefixFrom(address(at), b.Size), nil
		}
	}
	return netip.Prefix{}, ErrNoSubnet
}

func number(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

func address(n uint64) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b)
}

// VNIs that weft gives out. Docker's swarm and the old overlay driver begin at 4096 too, since lower ones may be a network's VLANs.
const (
	FirstVNI = 4096
	LastVNI  = 1<<24 - 1
)

// ChooseVNI returns the lowest VNI that is not taken.
func ChooseVNI(taken func(uint32) bool) (uint32, error) {
	for v := uint32(FirstVNI); v <= LastVNI; v++ {
		if !taken(v) {
			return v, nil
		}
	}
	return 0, errors.New("no VNI is free: all of 4096 to 16777215 are taken")
}

// MAC returns the hardware address that goes with an address: 02:42 (locally administered) and an IPv4 address, as Docker's, or the end of an
// IPv6 one.
func MAC(a netip.Addr) string {
	all := a.AsSlice()
	b := all[len(all)-4:]
	return fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// AddrOf is the IPv4 address that a hardware address goes with.
func AddrOf(mac string) (netip.Addr, bool) {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 || hw[0] != 2 || hw[1] != 0x42 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(hw[2:])), true
}
