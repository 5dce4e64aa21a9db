package kernel_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/port"
)

func TestForeignObjectsStay(t *testing.T) {
	s := newSite(t)
	docker := s.net.Ports[0].Netns
	hw := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	dress := func(name string) func() error { // a user's bridge with an address, a route and a neighbour
		return func() error {
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
				return err
			}
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			i := l.Attrs().Index
			for _, f := range []func() error{
				func() error { return netlink.LinkSetUp(l) },
				func() error { return netlink.AddrAdd(l, &netlink.Addr{IPNet: cidr("172.31.0.1/24")}) },
				func() error {
					return netlink.RouteAdd(&netlink.Route{LinkIndex: i, Dst: cidr("172.30.0.0/24"), Gw: net.IPv4(172, 31, 0, 2)})
				},
				func() error {
					return netlink.NeighAdd(&netlink.Neigh{LinkIndex: i, IP: net.IPv4(172, 31, 0, 3), State: unix.NUD_PERMANENT, HardwareAddr: hw})
				},
			} {
				if err := f(); err != nil {
					return err
				}
			}
			return nil
		}
	}
	netnstest.In(t, s.ns, dress("user0"))
	netnstest.In(t, docker, dress("eth9")) // another runtime's interface in the same sandbox
	theirs := kernel.Op{Verb: kernel.Put, Obj: object(kernel.KindTable, kernel.HostNS, "inet user", "", table())}
	must(t, s.k, []kernel.Op{theirs})
	before := dump(t, s.ns, "user0") + dump(t, docker, "eth9")

	must(t, s.k, kernel.Diff(nil, s.read(t, s.k)))

	if after := dump(t, s.ns, "user0") + dump(t, docker, "eth9"); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
	if !strings.Contains(before, "172.31.0.1/24") || !strings.Contains(before, "172.30.0.0/24") || !strings.Contains(before, "172.31.0.3") {
		t.Errorf("the check itself does not work: %s", before)
	}
	if got := tables(t, s.ns); len(got) != 1 || got[0] != "user" {
		t.Errorf("tables: %v", got)
	}
}

// dump prints what a link has.
func dump(t *testing.T, ns, name string) string {
	t.Helper()
	var out string
	netnstest.In(t, ns, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, unix.AF_INET)
		if err != nil {
			return err
		}
		routes, err := netlink.RouteList(l, unix.AF_INET)
		if err != nil {
			return err
		}
		neighs, err := netlink.NeighList(l.Attrs().Index, unix.AF_INET)
		out = fmt.Sprint(addrs, routes)
		for _, n := range neighs {
			if n.State == unix.NUD_PERMANENT {
				out += fmt.Sprint(n.IP, n.HardwareAddr)
			}
		}
		return err
	})
	return out
}

// A user's route to a prefix that a network takes is not replaced, and is named.
func TestAUsersRouteIsNotReplaced(t *testing.T) {
	s := newSite(t)
	netnstest.In(t, s.ns, func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "user0"}}); err != nil {
			return err
		}
		l, err := netlink.LinkByName("user0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr("10.55.0.0/16")})
	})
	op := kernel.Op{Verb: kernel.Put, Obj: object(kernel.KindRoute, kernel.HostNS, port.UplinkName(s.net.Record.ID), "10.55.0.0/16", kernel.Route{})}
	err := s.k.Apply(t.Context(), []kernel.Op{op})[0]
	if err == nil || !strings.Contains(err.Error(), "a route to 10.55.0.0/16 is there already, and it is not weft's") {
		t.Errorf("got %v", err)
	}
	if got := dump(t, s.ns, "user0"); !strings.Contains(got, "10.55.0.0/16") {
		t.Errorf("the user's route is gone: %s", got)
	}
}
