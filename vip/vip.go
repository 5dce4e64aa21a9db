// Package vip renders what balances connections to aliases with a virtual address: one table in the namespace of each sandbox that is in a
// network with such aliases. It is pure: the same endpoints give the same state.
//
// Nothing has a virtual address, and no packet with it leaves a sandbox: there it is translated into the address of a member, and back in the
// answer. So it makes no difference where the members are, nor which driver the network has.
package vip

import (
	"net/netip"
	"slices"

	"weft/kernel"
	"weft/store/record"
)

// Table is the table of a network in a sandbox's namespace.
func Table(id record.NetworkID) string { return "inet weft-vip-" + record.ShortID(id) }

// Services returns the virtual addresses of a network with those of its members that answer: what is given of each alias are all endpoints
// that have it. Neither order matters.
func Services(net *record.Net, members func(alias string) []*record.Endpoint) []kernel.VIP {
	if net == nil {
		return nil
	}
	var out []kernel.VIP
	for v := range net.AllVIPs() {
		eps := members(v.Alias)
		for _, a := range v.Addrs {
			out = append(out, kernel.VIP{Addr: a, Members: addrs(eps, a.Is6())})
		}
	}
	slices.SortFunc(out, func(a, b kernel.VIP) int { return a.Addr.Compare(b.Addr) })
	return out
}

// addrs returns the addresses of one family of those endpoints that run, each once.
func addrs(eps []*record.Endpoint, six bool) []netip.Addr {
	var out []netip.Addr
	for _, ep := range eps {
		for _, a := range ep.Addrs {
			if ep.Running && a.Is6() == six {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// Render adds to out what the namespace of a sandbox holds for a network: nothing where there are no virtual addresses.
func Render(out kernel.State, id record.NetworkID, netns string, services []kernel.VIP) {
	if len(services) == 0 {
		return
	}
	out.Add(kernel.Object{Key: kernel.Key{Kind: kernel.KindTable, NS: netns, Link: Table(id)}, Spec: kernel.Balance{VIPs: services}})
}
