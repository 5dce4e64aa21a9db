package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

// Errors that say that no pool of a network has an address of a family left.
var (
	ErrNoAddr  = errors.New("no available IPv4 addresses on this network's address pools")
	ErrNoAddr6 = errors.New("no available IPv6 addresses on this network's address pools")
)

// none is the error of those who have looked at some pools, all of one family.
func none(pools []Pool) error {
	if len(pools) > 0 && pools[0].Subnet.Addr().Is6() {
		return ErrNoAddr6
	}
	return ErrNoAddr
}

// near is among how many of the next free addresses a loser of a race chooses: wide enough that many hosts do not chase each other,
// and narrow enough that addresses stay dense.
const near = 64

// Choose returns, of pools of one family, the lowest address that is free and not resting (released a moment ago, so that caches of others may still hold it); when
// only resting ones are left, the lowest of them.
func Choose(pools []Pool, taken, resting func(netip.Addr) bool) (netip.Addr, error) {
	var second netip.Addr
	for _, p := range pools {
		for a := range p.free(taken) {
			if !resting(a) {
				return a, nil
			}
			if !second.IsValid() {
				second = a
			}
		}
	}
	if second.IsValid() {
		return second, nil
	}
	return netip.Addr{}, none(pools)
}

// ChooseNear returns, of pools of one family, a random one of the next free addresses: for one who has lost a race for the lowest. random(n) is in [0,n).
func ChooseNear(pools []Pool, taken func(netip.Addr) bool, random func(n int) int) (netip.Addr, error) {
	var next []netip.Addr
	for _, p := range pools {
		for a := range p.free(taken) {
			if next = append(next, a); len(next) == near {
				return next[random(near)], nil
			}
		}
	}
	if len(next) == 0 {
		return netip.Addr{}, none(pools)
	}
	return next[random(len(next))], nil
}

// free yields the pool's free addresses, lowest first. It looks at no more addresses than are taken, and one.
func (p Pool) free(taken func(netip.Addr) bool) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		from := p.Subnet
		if p.Range.IsValid() {
			from = p.Range
		}
		aux := p.auxSet()
		for a := from.Addr(); from.Contains(a); a = a.Next() {
			if a == p.Gateway || p.edge(a) != "" || aux[a] || taken(a) {
				continue
			}
			if !yield(a) {
				return
			}
		}
	}
}

// Check tells why an endpoint of a network with these pools cannot have the address that a user asks for; nil if it can where it is free.
func Check(pools []Pool, a netip.Addr) error {
	for _, p := range pools {
		if !p.Subnet.Contains(a) {
			continue
		}
		if why := p.edge(a); why != "" {
			return fmt.Errorf("invalid address %s: it is the %s of %s", a, why, p.Subnet)
		}
		if a == p.Gateway {
			//lint:ignore ST1005 Docker's words
			return fmt.Errorf("Address already in use: %s is the gateway of %s", a, p.Subnet)
		}
		if name := p.auxName(a); name != "" {
			//lint:ignore ST1005 Docker's words
			return fmt.Errorf("Address already in use: %s is the auxiliary address %s of %s", a, name, p.Subnet)
		}
		return nil
	}
	return fmt.Errorf("invalid address %s: no configured subnet of the network contains it", a)
}
