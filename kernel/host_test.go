package kernel_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"weft/kernel"
	"weft/kernel/netnstest"
)

// plug makes a bridge in the calling thread's namespace, up and with addresses.
func plug(name string, mtu int, addrs ...string) error {
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}}); err != nil {
		return err
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: cidr(a)}); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

func gateway(via string, metric int) error {
	return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(via), Priority: metric})
}

func TestResolveAdvertise(t *testing.T) {
	one := func() error { return plug("lan0", 1400, "192.0.2.1/24") }
	two := func() error {
		if err := one(); err != nil {
			return err
		}
		return plug("lan1", 1500, "198.51.100.1/24")
	}
	for _, c := range []struct {
		name  string
		dress func() error
		ask   string
		want  string // or a part of the error
	}{
		{"an address that is there", two, "198.51.100.1", "198.51.100.1"},
		{"an address that is not", two, "198.51.100.2", "no interface has the address 198.51.100.2"},
		{"an interface", two, "lan1", "198.51.100.1"},
		{"an interface that is not there", two, "lan2", "no interface is called lan2, or it has no address"},
		{"an interface of IPv6 alone", func() error { return plug("lan0", 1500, "2001:db8::1/64") }, "lan0", "2001:db8::1"},
		{"an interface of both", func() error {
			if err := one(); err != nil {
				return err
			}
			l, err := netlink.LinkByName("lan0")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(l, &netlink.Addr{IPNet: cidr("2001:db8::1/64")})
		}, "lan0", "192.0.2.1"},
		{"the only one", one, "", "192.0.2.1"},
		{"none", func() error { return nil }, "", "has no address that others could reach it at"},
		{"several", two, "", "several addresses and no default route: choose one of [192.0.2.1 198.51.100.1]"},
		{"the default route's", func() error {
			if err := two(); err != nil {
				return err
			}
			if err := gateway("192.0.2.9", 200); err != nil {
				return err
			}
			return gateway("198.51.100.9", 100)
		}, "", "198.51.100.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := netnstest.NS(t, "host")
			netnstest.In(t, ns, c.dress)
			dir := t.TempDir()
			k := open(t, ns, dir)
			t.Cleanup(func() { clearDir(t, dir) })
			got, err := k.ResolveAdvertise(c.ask)
			if err == nil && got.String() != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestTheHostAsItIs(t *testing.T) {
	s := newSite(t)
	netnstest.In(t, s.ns, func() error {
		if err := plug("lan0", 1400, "192.0.2.1/24"); err != nil {
			return err
		}
		if err := gateway("192.0.2.9", 0); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("192.0.2.8"), Dst: cidr("10.50.0.0/16")})
	})
	link, mtu, err := s.k.Underlay(netip.MustParseAddr("192.0.2.1"))
	if link != "lan0" || mtu != 1400 || err != nil {
		t.Errorf("underlay: %s, %d, %v", link, mtu, err)
	}
	if _, _, err := s.k.Underlay(netip.MustParseAddr("192.0.2.77")); err == nil {
		t.Error("an underlay without an interface")
	}
	// Neither weft's own routes nor the default one.
	routes, err := s.k.Routes()
	want := []kernel.HostRoute{{Prefix: netip.MustParsePrefix("10.50.0.0/16"), Link: "lan0"}, {Prefix: netip.MustParsePrefix("192.0.2.0/24"), Link: "lan0"}}
	if err != nil || fmt.Sprint(routes) != fmt.Sprint(want) {
		t.Errorf("routes: %v, %v", routes, err)
	}
}
