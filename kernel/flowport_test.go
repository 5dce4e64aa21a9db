package kernel_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/kernel"
	"weft/kernel/netnstest"
)

// flow is one that the kernel remembers: to an address that is translated to another.
type flow struct {
	proto  uint8
	to, at string
}

func (f flow) make(client uint16) (netlink.InetFamily, *netlink.ConntrackFlow) {
	to, at := netip.MustParseAddrPort(f.to), netip.MustParseAddrPort(f.at)
	family, from := netlink.InetFamily(unix.AF_INET), net.ParseIP("198.51.100.7").To4()
	if to.Addr().Is6() {
		family, from = unix.AF_INET6, net.ParseIP("2001:db8::7")
	}
	return family, &netlink.ConntrackFlow{
		FamilyType: uint8(family), TimeOut: 100,
		Forward: netlink.IPTuple{Protocol: f.proto, SrcIP: from, SrcPort: client, DstIP: to.Addr().AsSlice(), DstPort: to.Port()},
		Reverse: netlink.IPTuple{Protocol: f.proto, SrcIP: at.Addr().AsSlice(), SrcPort: at.Port(), DstIP: from, DstPort: client},
	}
}

// A client that goes on sending to a published port must come to where the port leads now; what is right goes on.
func TestUDPFlowsToOldTargetsAreForgotten(t *testing.T) {
	const udp = unix.IPPROTO_UDP
	host, dir := netnstest.NS(t, "host"), t.TempDir()
	k, err := kernel.Open(kernel.Config{Log: slog.New(slog.DiscardHandler), HostNS: host, NetnsDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = k.Close()
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	stay := []flow{
		{udp, "192.0.2.11:53", "10.1.0.2:5353"}, {udp, "[2001:db8::11]:53", "[fd00::2]:5353"}, {udp, "192.0.2.11:54", "192.0.2.11:54"},
		{udp, "192.0.2.12:55", "192.0.2.12:55"}, {udp, "127.0.0.1:53", "127.0.0.1:53"},
		{udp, "203.0.113.1:53", "203.0.113.1:53"}, {udp, "[2001:db8:1::1]:53", "[2001:db8:1::1]:53"}, // through the host, to others
	}
	gone := []flow{
		{udp, "192.0.2.11:53", "192.0.2.11:53"}, {udp, "192.0.2.12:53", "10.1.0.9:5353"}, {udp, "192.0.2.12:53", "10.1.0.2:53"},
		{udp, "192.0.2.11:55", "10.1.0.9:55"}, {udp, "[2001:db8::11]:53", "[fd00::9]:5353"},
	}
	netnstest.In(t, host, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range []string{"192.0.2.11/32", "192.0.2.12/32", "2001:db8::11/128"} {
			addr, err := netlink.ParseAddr(a)
			if err == nil {
				err = netlink.AddrAdd(lo, addr)
			}
			if err != nil {
				return err
			}
		}
		for i, f := range slices.Concat(stay, gone) {
			family, flow := f.make(uint16(1000 + i))
			if err := netlink.ConntrackCreate(netlink.ConntrackTable, family, flow); err != nil {
				return fmt.Errorf("%v: %w", f, err)
			}
		}
		return nil
	})
	forward := func(host, target string) kernel.UDPForward {
		return kernel.UDPForward{Host: netip.MustParseAddrPort(host), Target: netip.MustParseAddrPort(target)}
	}
	for range 2 { // the second time there is nothing to do
		err := k.FlushUDP([]kernel.UDPForward{forward("0.0.0.0:53", "10.1.0.2:5353"), forward("[::]:53", "[fd00::2]:5353"), forward("192.0.2.11:55", "10.1.0.2:55")})
		if err != nil {
			t.Fatal(err)
		}
		left := map[string]bool{}
		netnstest.In(t, host, func() error {
			for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
				fs, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
				if err != nil {
					return err
				}
				for _, f := range fs {
					left[fmt.Sprint(f.Forward.SrcPort)] = true
				}
			}
			return nil
		})
		for i, f := range slices.Concat(stay, gone) {
			if want := i < len(stay); left[fmt.Sprint(1000+i)] != want {
				t.Errorf("%v is there: %v, want %v", f, !want, want)
			}
		}
	}
	if err := k.FlushUDP(nil); err != nil {
		t.Error(err)
	}
}
