package ipam

import "net/netip"

// ChooseLast returns one of the highest free addresses of the family that the pools have: the skip-th, or the lowest of those that are left. What
// is chosen so meets no one who takes the lowest. At most the taken addresses and skip+1 others are looked at.
func ChooseLast(pools []Pool, taken func(netip.Addr) bool, skip int) (netip.Addr, error) {
	var last netip.Addr
	for _, p := range pools {
		from := p.Subnet
		if p.Range.IsValid() {
			from = p.Range
		}
		aux := p.auxSet()
		for a := lastAddr(from); from.Contains(a); a = a.Prev() {
			if a == p.Gateway || p.edge(a) != "" || aux[a] || taken(a) {
				continue
			}
			if last = a; skip == 0 {
				return a, nil
			}
			skip--
		}
	}
	if last.IsValid() {
		return last, nil
	}
	return netip.Addr{}, ErrNoAddr
}
