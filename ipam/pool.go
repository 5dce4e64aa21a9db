// Package ipam chooses subnets, addresses and VNIs, and checks those that a user gives. It is pure: what is taken comes in, a choice or
// a reason goes out. The registry makes the choice stick in one transaction.
package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Pool is a subnet of a network, and what of it may be given out.
type Pool struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
	Range   netip.Prefix          // where automatic addresses come from; zero: the whole subnet
	Aux     map[string]netip.Addr // never given out
}

// Request is a user's wish for pools, as it was typed.
type Request struct {
	Subnets  []string
	Gateways []string
	Ranges   []string
	Aux      map[string]string
}

// Parse checks the user's pools and puts each gateway, range and auxiliary address into the pool that contains it. A pool without
// a gateway gets its first address that is not auxiliary. Without subnets the result is empty: the pools are chosen later.
func (r Request) Parse() ([]Pool, error) {
	if len(r.Subnets) == 0 && len(r.Gateways)+len(r.Ranges)+len(r.Aux) > 0 {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet, and so must an aux-address: add --subnet")
	}
	var pools []Pool
	for _, s := range r.Subnets {
		p, err := parseSubnet(s)
		if err != nil {
			return nil, err
		}
		for _, o := range pools {
			if o.Subnet.Overlaps(p) {
				return nil, fmt.Errorf("Pool overlaps with other one on this address space: multiple overlapping subnet configuration is not supported: subnets %s and %s of this network overlap", o.Subnet, p) //nolint:staticcheck // Docker's words
			}
		}
		pools = append(pools, Pool{Subnet: p})
	}
	if err := errors.Join(placeRanges(pools, r.Ranges), placeGateways(pools, r.Gateways)); err != nil {
		return nil, firstOf(err)
	}
	if err := placeAux(pools, r.Aux); err != nil {
		return nil, err
	}
	for i := range pools {
		if err := pools[i].defaultGateway(); err != nil {
			return nil, err
		}
	}
	return pools, nil
}

// Automatic is the pool for a chosen subnet.
func Automatic(subnet netip.Prefix) Pool {
	return Pool{Subnet: subnet, Gateway: subnet.Addr().Next()}
}

func firstOf(err error) error {
	var j interface{ Unwrap() []error }
	if errors.As(err, &j) {
		return j.Unwrap()[0]
	}
	return err
}

func parseSubnet(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(s))
	switch {
	case err != nil:
		return p, fmt.Errorf("invalid CIDR address: %s: a subnet looks like 10.0.9.0/24 or fd00:9::/64", s)
	case p != p.Masked():
		return p, fmt.Errorf("invalid subnet %s: it should be %s", s, p.Masked())
	case p.Addr().Is4In6():
		return p, fmt.Errorf("invalid subnet %s: write it as IPv4", s)
	case p.Addr().BitLen()-p.Bits() < 2:
		return p, fmt.Errorf("invalid subnet %s: it has no room for a gateway and an endpoint; the smallest is a /%d", s, p.Addr().BitLen()-2)
	case p.Bits() < 8:
		return p, fmt.Errorf("invalid subnet %s: the largest is a /8", s)
	}
	for _, bad := range []struct{ prefix, what string }{
		{"0.0.0.0/8", "reserved (RFC 1122)"}, {"127.0.0.0/8", "loopback"}, {"169.254.0.0/16", "link-local"},
		{"224.0.0.0/3", "multicast or reserved"}, {"::1/128", "loopback"}, {"fe80::/10", "link-local"}, {"ff00::/8", "multicast"},
	} {
		if netip.MustParsePrefix(bad.prefix).Overlaps(p) {
			return p, fmt.Errorf("invalid subnet %s: %s is %s", s, bad.prefix, bad.what)
		}
	}
	return p, nil
}

func placeRanges(pools []Pool, ranges []string) error {
	for _, s := range ranges {
		r, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return fmt.Errorf("invalid CIDR address: %s: an ip-range looks like 10.0.9.128/25", s)
		}
		if r != r.Masked() {
			return fmt.Errorf("invalid ip-range %s: it should be %s", s, r.Masked())
		}
		i := slices.IndexFunc(pools, func(p Pool) bool { return p.Subnet.Contains(r.Addr()) && r.Bits() >= p.Subnet.Bits() })
		if i < 0 {
			return fmt.Errorf("no matching subnet for range %s", s)
		}
		if pools[i].Range.IsValid() {
			return fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", s, pools[i].Range, pools[i].Subnet)
		}
		pools[i].Range = r
	}
	return nil
}

func placeGateways(pools []Pool, gateways []string) error {
	for _, s := range gateways {
		a, i, err := place(pools, s, "gateway")
		if err != nil {
			return err
		}
		if pools[i].Gateway.IsValid() {
			return fmt.Errorf("cannot configure multiple gateways (%s, %s) on the same subnet (%s)", s, pools[i].Gateway, pools[i].Subnet)
		}
		pools[i].Gateway = a
	}
	return nil
}

func placeAux(pools []Pool, aux map[string]string) error {
	seen := map[netip.Addr]string{}
	for _, name := range slices.Sorted(maps.Keys(aux)) {
		a, i, err := place(pools, aux[name], "aux-address")
		if err != nil {
			return err
		}
		if other, twice := seen[a]; twice {
			return fmt.Errorf("aux-address %s is given twice: as %s and as %s", a, other, name)
		}
		if a == pools[i].Gateway {
			return fmt.Errorf("aux-address %s=%s is the gateway of %s", name, a, pools[i].Subnet)
		}
		seen[a] = name
		if pools[i].Aux == nil {
			pools[i].Aux = map[string]netip.Addr{}
		}
		pools[i].Aux[name] = a
	}
	return nil
}

// place parses an address and finds the pool that contains it; what names the flag that it came from.
func place(pools []Pool, s, what string) (netip.Addr, int, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil || a.Zone() != "" {
		return a, 0, fmt.Errorf("invalid %s %q: it is no IP address", what, s)
	}
	i := slices.IndexFunc(pools, func(p Pool) bool { return p.Subnet.Contains(a) })
	if i < 0 {
		return a, 0, fmt.Errorf("no matching subnet for %s %s", what, s)
	}
	if why := pools[i].edge(a); why != "" {
		return a, 0, fmt.Errorf("invalid %s %s: it is the %s of %s", what, s, why, pools[i].Subnet)
	}
	return a, i, nil
}

func (p *Pool) defaultGateway() error {
	if p.Gateway.IsValid() {
		return nil
	}
	aux := p.auxSet()
	for a := p.Subnet.Addr().Next(); p.Subnet.Contains(a) && p.edge(a) == ""; a = a.Next() {
		if !aux[a] {
			p.Gateway = a
			return nil
		}
	}
	return fmt.Errorf("subnet %s has no address left for a gateway: every one is auxiliary", p.Subnet)
}

// edge says what of a subnet's two ends a is, and "" for every other address. The first of an IPv6 subnet is every router's (RFC 4291, 2.6.1).
func (p Pool) edge(a netip.Addr) string {
	switch a {
	case p.Subnet.Addr():
		if a.Is6() {
			return "subnet-router anycast address"
		}
		return "network address"
	case lastAddr(p.Subnet):
		if a.Is4() {
			return "broadcast address"
		}
	}
	return ""
}

func (p Pool) auxName(a netip.Addr) string {
	for name, x := range p.Aux {
		if x == a {
			return name
		}
	}
	return ""
}

// auxSet is for those who ask about many addresses.
func (p Pool) auxSet() map[netip.Addr]bool {
	out := make(map[netip.Addr]bool, len(p.Aux))
	for _, a := range p.Aux {
		out[a] = true
	}
	return out
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
