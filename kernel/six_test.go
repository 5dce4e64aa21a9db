package kernel_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/store/record"
)

// newDualSite is a site whose network has both families and carries multicast, and whose sandbox routes by source.
func newDualSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	must(t, s.k, kernel.Diff(nil, s.read(t, s.k)))
	n := s.net.Record
	n.IPv6, n.Options = true, map[string]string{record.OptMulticast: "true"}
	n.Pools = append(n.Pools, record.Pool{Subnet: netip.MustParsePrefix("fd00:1::/64"), Gateway: netip.MustParseAddr("fd00:1::1")})
	p := &s.net.Ports[0]
	p.Endpoint.Addrs = append(p.Endpoint.Addrs, netip.MustParseAddr("fd00:1::2"))
	p.Default6, p.BySource, p.Settings = true, true, map[string]string{"ipv4/conf/log_martians": "1"}
	far := s.remote(10)
	far.Addrs = append(far.Addrs, netip.MustParseAddr("fd00:1::c"))
	s.net.Endpoints = append(s.net.Endpoints, far)
	must(t, s.k, kernel.Diff(s.want(), s.read(t, s.k)))
	return s
}

// writes changes a file below /proc/sys as a namespace has it.
func writes(where func(*site) string, file, value string) func(*site) error {
	return func(s *site) error {
		return netnstest.Try(where(s), func() error { return os.WriteFile("/proc/sys/"+file, []byte(value), 0o644) })
	}
}

func TestDriftOfBothFamiliesIsFoundAndRepaired(t *testing.T) {
	sandbox := func(s *site) string { return s.net.Ports[0].Netns }
	space := func(s *site) string { return s.space() }
	all6 := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	for _, e := range []edit{
		{"an address is deleted", far(func(l netlink.Link) error { return netlink.AddrDel(l, &netlink.Addr{IPNet: cidr("fd00:1::2/64")}) })},
		{"a gateway is deleted", link("br0", func(l netlink.Link) error { return netlink.AddrDel(l, &netlink.Addr{IPNet: cidr("fd00:1::1/64")}) })},
		{"a default route is deleted", far(func(l netlink.Link) error {
			return netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: all6, Table: unix.RT_TABLE_MAIN})
		})},
		{"the table of a source is emptied", far(func(l netlink.Link) error {
			rs, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: kernel.Proto, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
			for _, r := range rs {
				if r.Table >= kernel.FirstTable && err == nil {
					err = netlink.RouteDel(&r)
				}
			}
			return err
		})},
		{"a rule is deleted", far(func(netlink.Link) error {
			rs, err := netlink.RuleList(unix.AF_INET6)
			for _, r := range rs {
				if r.Src != nil && err == nil {
					err = netlink.RuleDel(&r)
				}
			}
			return err
		})},
		{"a neighbour is deleted", link("br0", func(l netlink.Link) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_INET6, IP: net.ParseIP("fd00:1::c")})
		})},
		{"the entry for multicast is deleted", link("vx0", func(l netlink.Link) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, HardwareAddr: make([]byte, 6), IP: net.IPv4(192, 0, 2, 2)})
		})},
		{"a sandbox believes routers", writes(sandbox, "net/ipv6/conf/eth0/accept_ra", "2")},
		{"a setting that was asked for is changed", writes(sandbox, "net/ipv4/conf/eth0/log_martians", "0")},
		{"IPv6 is off in a sandbox", writes(sandbox, "net/ipv6/conf/eth0/disable_ipv6", "1")},
		{"IPv6 is off on the bridge", writes(space, "net/ipv6/conf/br0/disable_ipv6", "1")},
		{"the network does not forward", writes(space, "net/ipv6/conf/all/forwarding", "0")},
	} {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			s := newDualSite(t)
			if err := e.do(s); err != nil {
				t.Fatal(err)
			}
			if ops := kernel.Diff(s.want(), s.read(t, s.k)); len(ops) == 0 {
				t.Fatal("it was not found")
			}
			repair(t, s)
		})
	}
}

// Putting what is there again changes nothing, and another life of the agent finds it as it should be but for settings that users asked for, which it
// cannot know of: it puts those, and writes none.
func TestWhatIsThereInBothFamiliesIsLeftAlone(t *testing.T) {
	s := newDualSite(t)
	if ops := kernel.Diff(s.want(), s.read(t, s.k)); len(ops) > 0 {
		t.Errorf("would do again: %v", ops)
	}
	changes := map[string]func() []string{}
	for _, ns := range []string{s.ns, s.space(), s.net.Ports[0].Netns} {
		changes[ns] = watch(t, ns)
	}
	must(t, s.k, kernel.Missing(s.want(), nil))
	for ns, seen := range changes {
		if got := seen(); len(got) > 0 {
			t.Errorf("in %s: %s", ns, strings.Join(got, "\n"))
		}
	}
	again := open(t, s.ns, s.set.NetnsDir)
	for _, op := range kernel.Diff(s.want(), s.read(t, again)) {
		if op.Verb != kernel.Put || op.Obj.Kind != kernel.KindConf || op.Obj.Dst != "ipv4/conf/log_martians" {
			t.Errorf("another life would %s", fmt.Sprint(op))
		}
		must(t, again, []kernel.Op{op})
	}
	if ops := kernel.Diff(s.want(), s.read(t, again)); len(ops) > 0 {
		t.Errorf("and would do it again: %v", ops)
	}
}
