package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// HostRoute is a prefix that the host routes elsewhere than into weft.
type HostRoute struct {
	Prefix netip.Prefix
	Link   string
}

// Routes returns the prefixes that the host has routes to, apart from default routes, weft's own, loopback, link-local and multicast ones.
func (k *Kernel) Routes() ([]HostRoute, error) {
	var out []HostRoute
	err := k.with(HostNS, func(c *conn) error {
		links, err := readLinks(context.Background(), c)
		if err != nil {
			return err
		}
		all, err := routes(context.Background(), c)
		if err != nil {
			return err
		}
		for _, r := range all {
			name := links.byIndex[r.oif].name
			a := r.dst.Addr()
			if links.byIndex[r.oif].madeHere() { // a local network's, which the agent knows of
				continue
			}
			if !r.main() || r.dst.Bits() == 0 || r.protocol == Proto || r.typ != unix.RTN_UNICAST || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || strings.HasPrefix(name, "weft") {
				continue
			}
			out = append(out, HostRoute{Prefix: r.dst.Masked(), Link: name})
		}
		return nil
	})
	slices.SortFunc(out, func(a, b HostRoute) int {
		return strings.Compare(a.Prefix.String()+a.Link, b.Prefix.String()+b.Link)
	})
	return slices.Compact(out), err
}

// hostAddr is an address of the host.
type hostAddr struct {
	prefix netip.Prefix
	link   linkInfo
}

func (k *Kernel) addrs() ([]hostAddr, error) {
	var out []hostAddr
	err := k.with(HostNS, func(c *conn) error {
		links, err := readLinks(context.Background(), c)
		if err != nil {
			return err
		}
		for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
			msgs, err := c.dump(context.Background(), unix.RTM_GETADDR, nl.NewIfAddrmsg(fam))
			if err != nil {
				return err
			}
			for _, m := range msgs {
				if a, ok := parseAddr(m); ok {
					out = append(out, hostAddr{a.prefix, links.byIndex[a.index]})
				}
			}
		}
		return nil
	})
	return out, err
}

// Underlay returns the link that has an address, and its MTU.
func (k *Kernel) Underlay(addr netip.Addr) (link string, mtu int, err error) {
	all, err := k.addrs()
	if err != nil {
		return "", 0, err
	}
	for _, a := range all {
		if a.prefix.Addr() == addr {
			return a.link.name, a.link.mtu, nil
		}
	}
	return "", 0, fmt.Errorf("no interface has the address %s", addr)
}

// ResolveAdvertise returns the address that an interface's name or an address stands for. An empty string is the interface of the default
// route, or the only one that has a global address. Of an interface it is the first IPv4 address, and where there is none the first of IPv6.
func (k *Kernel) ResolveAdvertise(s string) (netip.Addr, error) {
	all, err := k.addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if !slices.ContainsFunc(all, func(h hostAddr) bool { return h.prefix.Addr() == a }) {
			return a, fmt.Errorf("no interface has the address %s", a)
		}
		return a, nil
	}
	link := s
	if link == "" {
		if link, err = k.defaultLink(); err != nil {
			return netip.Addr{}, err
		}
	}
	known := false
	var found []netip.Addr
	for _, h := range all {
		a := h.prefix.Addr()
		known = known || h.link.name == link
		if a.IsGlobalUnicast() && (h.link.name == link || link == "" && !strings.HasPrefix(h.link.name, "weft")) {
			found = append(found, a)
		}
	}
	if four := slices.DeleteFunc(slices.Clone(found), netip.Addr.Is6); len(four) > 0 {
		found = four // IPv6 is for those who have no IPv4, or ask for it
	}
	switch {
	case len(found) == 1 || len(found) > 1 && link != "":
		return found[0], nil
	case link != "" && !known:
		return netip.Addr{}, fmt.Errorf("no interface is called %s, or it has no address", link)
	case link != "":
		return netip.Addr{}, fmt.Errorf("interface %s has no address that others could reach it at", link)
	case len(found) == 0:
		return netip.Addr{}, errors.New("this host has no address that others could reach it at: give --cluster-advertise once it has one")
	}
	return netip.Addr{}, fmt.Errorf("this host has several addresses and no default route: choose one of %v with --cluster-advertise", found)
}

// defaultLink is where the default route leads, "" if there is none.
func (k *Kernel) defaultLink() (string, error) {
	var name string
	err := k.with(HostNS, func(c *conn) error {
		links, err := readLinks(context.Background(), c)
		if err != nil {
			return err
		}
		all, err := routes(context.Background(), c)
		if err != nil {
			return err
		}
		var best *routeInfo // IPv4's if it has one
		for i, r := range all {
			if !r.main() || r.dst.Bits() > 0 || r.typ != unix.RTN_UNICAST {
				continue
			}
			if best == nil || r.dst.Addr().Is4() == best.dst.Addr().Is4() && r.Metric < best.Metric {
				best = &all[i]
			}
		}
		if best != nil {
			name = links.byIndex[best.oif].name
		}
		return nil
	})
	return name, err
}
