package ipam

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
)

// ULA returns the /48 that automatic IPv6 subnets of whoever has this name are cut from: fd, and a global ID of 40 bits that follows from a
// name which is random itself (RFC 4193, 3.2.1: a cluster's or a host's ID), so that two of them do not meet when they are joined later.
func ULA(name string) netip.Prefix {
	sum := sha256.Sum256([]byte("weft ULA " + name))
	var b [16]byte
	b[0] = 0xfd
	copy(b[1:6], sum[:5])
	return netip.PrefixFrom(netip.AddrFrom16(b), 48)
}

// ErrNoSubnet6 says that every automatic IPv6 subnet is taken.
var ErrNoSubnet6 = errors.New("no automatic IPv6 subnet is free: every one overlaps a network's pool or a host's route; give an IPv6 --subnet")

// ChooseSubnet6 returns the lowest /64 of a base of at most 64 bits and at least 48 that overlaps nothing taken.
func ChooseSubnet6(base netip.Prefix, taken []netip.Prefix) (netip.Prefix, error) {
	if !base.Addr().Is6() || base.Bits() < 48 || base.Bits() > 64 {
		return netip.Prefix{}, fmt.Errorf("subnets of length 64 cannot be cut from %s", base)
	}
	base = base.Masked()
	used := make([]bool, 1<<(64-base.Bits()))
	for _, t := range taken {
		if t = t.Masked(); !t.Overlaps(base) {
			continue
		}
		if t.Bits() <= base.Bits() {
			return netip.Prefix{}, ErrNoSubnet6
		}
		first := int(subnetID(t.Addr()) - subnetID(base.Addr()))
		for i := range 1 << max(0, 64-t.Bits()) {
			used[first+i] = true
		}
	}
	for i, u := range used {
		if !u {
			b := base.Addr().As16()
			n := subnetID(base.Addr()) + uint32(i)
			b[6], b[7] = byte(n>>8), byte(n)
			return netip.PrefixFrom(netip.AddrFrom16(b), 64), nil
		}
	}
	return netip.Prefix{}, ErrNoSubnet6
}

// subnetID is the 16 bits between a /48 and a /64.
func subnetID(a netip.Addr) uint32 {
	b := a.As16()
	return uint32(b[6])<<8 | uint32(b[7])
}

// Family returns the pools of one family.
func Family(pools []Pool, six bool) []Pool {
	var out []Pool
	for _, p := range pools {
		if p.Subnet.Addr().Is6() == six {
			out = append(out, p)
		}
	}
	return out
}
