package overlay_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/kernel/netnstest"
)

func TestDataPathOfBothFamilies(t *testing.T) {
	w := newWorld(t, 3)
	front := w.network("front", false, "10.1.0.0/24", "fd00:1::/64", "fd00:2::/64")
	back := w.network("back", true, "10.3.0.0/24", "fd00:3::/64")
	a := w.sandbox(0, front, "10.1.0.2", "fd00:1::2")
	b := w.sandbox(1, front, "10.1.0.3", "fd00:1::3")
	c := w.sandbox(2, front, "10.1.0.4", "fd00:2::2")
	d := w.sandbox(0, front, "10.1.0.5", "fd00:1::5")
	e := w.sandbox(0, back, "10.3.0.2", "fd00:3::2")
	f := w.sandbox(1, back, "10.3.0.3", "fd00:3::3")
	w.apply()
	if t.Failed() {
		return
	}
	for _, ns := range []string{a, b, c, d, e, f} {
		serve(t, ns, "")
	}
	reaches(t, "IPv4, other host", a, "10.1.0.3", "10.1.0.2")
	reaches(t, "same pool, other host", a, "fd00:1::3", "fd00:1::2")
	reaches(t, "same pool, same host", a, "fd00:1::5", "fd00:1::2")
	reaches(t, "other pool, other host", a, "fd00:2::2", "fd00:1::2")
	reaches(t, "and back", c, "fd00:1::2", "fd00:2::2")
	reaches(t, "internal network, other host", e, "fd00:3::3", "fd00:3::2")
	doesNotReach(t, "another network, same host", a, "fd00:3::2")
	doesNotReach(t, "another network, other host", a, "fd00:3::3")
	if _, err := ask(a, "fd00:1::3", 1450-48); err != nil {
		t.Errorf("a packet as large as the MTU: %v", err)
	}

	t.Run("a forged source is dropped", func(t *testing.T) {
		if got := sent6(t, a, b, "fd00:1::3", "fd00:1::77"); got {
			t.Error("a packet with a forged source arrived")
		}
		if got := sent6(t, a, b, "fd00:1::3", "fd00:1::2"); !got {
			t.Error("the check itself does not work: a right packet did not arrive")
		}
	})
	t.Run("a neighbour is not impersonated", func(t *testing.T) {
		// a says to d, on its own host, that it is b
		reaches(t, "before", d, "fd00:1::3", "fd00:1::5")
		advertise(t, a, "02:42:0a:01:00:05", "fd00:1::5", "fd00:1::2", "fd00:1::3")
		if mac := neighbour(t, d, "fd00:1::3"); mac != "02:42:0a:01:00:03" {
			t.Errorf("its neighbour is %s now", mac)
		}
		// and what it may say of itself arrives
		advertise(t, a, "02:42:0a:01:00:05", "fd00:1::5", "fd00:1::2", "fd00:1::2")
		if mac := neighbour(t, d, "fd00:1::2"); mac != "02:42:0a:01:00:02" {
			t.Errorf("the check itself does not work: the neighbour that spoke of itself is %q", mac)
		}
	})
	t.Run("nobody plays the router", func(t *testing.T) {
		netnstest.In(t, d, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_ra", []byte("1"), 0o644) })
		routerAdvertisement(t, a, "02:42:0a:01:00:05", "fe80::42:aff:fe01:2")
		reaches(t, "after it", d, "fd00:1::2", "fd00:1::5")
		netnstest.In(t, d, func() error {
			rs, err := netlink.RouteList(nil, unix.AF_INET6)
			for _, r := range rs {
				if r.Protocol == unix.RTPROT_RA {
					t.Errorf("d has taken the route %v from an advertisement", r)
				}
			}
			return err
		})
	})
	t.Run("nothing is left at the end", func(t *testing.T) { w.end() })
}

// sent6 sends one datagram from an address that the namespace need not have, and tells whether it came.
func sent6(t *testing.T, from, to, dst, src string) bool {
	t.Helper()
	var in net.PacketConn
	netnstest.In(t, to, func() (err error) {
		in, err = net.ListenPacket("udp6", ":7")
		return err
	})
	defer func() { _ = in.Close() }()
	netnstest.In(t, from, func() error {
		s, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(s) }()
		if err := unix.SetsockoptInt(s, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1); err != nil {
			return err
		}
		if err := unix.Bind(s, &unix.SockaddrInet6{Addr: netip.MustParseAddr(src).As16()}); err != nil {
			return err
		}
		return unix.Sendto(s, []byte("x"), 0, &unix.SockaddrInet6{Port: 7, Addr: netip.MustParseAddr(dst).As16()})
	})
	_ = in.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, _, err := in.ReadFrom(make([]byte, 10))
	return err == nil
}

// advertise sends a neighbour advertisement (RFC 4861, 4.4) to one neighbour: that target has the sender's hardware address.
func advertise(t *testing.T, ns, dstMAC, dst, src, target string) {
	t.Helper()
	body := make([]byte, 32)
	body[0], body[4] = 136, 0x60 // solicited, override
	copy(body[8:], netip.MustParseAddr(target).AsSlice())
	body[24], body[25] = 2, 1 // the target's hardware address follows
	frame6(t, ns, dstMAC, dst, src, body, func(own net.HardwareAddr) { copy(body[26:], own) })
}

// routerAdvertisement sends one (RFC 4861, 4.2) with a lifetime that makes the sender a default router.
func routerAdvertisement(t *testing.T, ns, dstMAC, src string) {
	t.Helper()
	body := make([]byte, 16)
	body[0] = 134
	binary.BigEndian.PutUint16(body[6:], 1800)
	frame6(t, ns, dstMAC, "ff02::1", src, body, func(net.HardwareAddr) {})
}

// frame6 sends an ICMPv6 message as a whole frame.
func frame6(t *testing.T, ns, dstMAC, dst, src string, body []byte, complete func(own net.HardwareAddr)) {
	t.Helper()
	netnstest.In(t, ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		complete(l.Attrs().HardwareAddr)
		to, err := net.ParseMAC(dstMAC)
		if err != nil {
			return err
		}
		from, target := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
		binary.BigEndian.PutUint16(body[2:], checksum6(from, target, body))
		frame := append(append([]byte{}, to...), l.Attrs().HardwareAddr...)
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(body)), unix.IPPROTO_ICMPV6, 255)
		frame = append(append(append(frame, from[:]...), target[:]...), body...)
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(s) }()
		return unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index, Halen: 6})
	})
}

// checksum6 is that of an ICMPv6 message (RFC 4443, 2.3).
func checksum6(src, dst [16]byte, body []byte) uint16 {
	all := append(append(append([]byte{}, src[:]...), dst[:]...), 0, 0, 0, byte(len(body)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	sum := uint32(0)
	for _, part := range [][]byte{all, body} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(part[i])<<8 | uint32(part[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// neighbour is the hardware address that a namespace has of an address, as soon as it has one; "" where it gets none.
func neighbour(t *testing.T, ns, addr string) string {
	t.Helper()
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		mac := ""
		netnstest.In(t, ns, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			ns, err := netlink.NeighList(l.Attrs().Index, unix.AF_INET6)
			for _, n := range ns {
				if n.IP.String() == addr {
					mac = n.HardwareAddr.String()
				}
			}
			return err
		})
		if mac != "" {
			return mac
		}
	}
	return ""
}
