package bridge_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bridge"
	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/store/record"
)

// Bridge netfilter sends what crosses a bridge through the host's rules too. Docker switches it on; weft has to work with it and without.
func TestDataPath(t *testing.T) {
	for _, nf := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+nf, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.bridgeNetfilter(nf)
			dataPath(t, w)
		})
	}
}

func dataPath(t *testing.T, w *world) {
	front := w.network(nil, "172.18.0.0/16")
	back := w.network(map[string]string{record.OptMasquerade: "false"}, "172.19.0.0/16")
	inner := w.network(nil, "172.20.0.0/16")
	inner.Record.Internal = true
	a, b, c := w.sandbox(front, "172.18.0.2"), w.sandbox(front, "172.18.0.3"), w.sandbox(back, "172.19.0.2")
	d, e := w.sandbox(inner, "172.20.0.2"), w.sandbox(inner, "172.20.0.3")
	w.publish("0.0.0.0", 8080, "172.18.0.2", 9)
	w.publish("192.0.2.100", 8081, "172.18.0.2", 9)
	w.apply()
	for _, ns := range []string{a, b, c, d, e, w.host.NS, w.outside.NS} {
		serve(t, ns)
	}
	self, out := w.host.Addr.String(), w.outside.Addr.String()

	reaches(t, "same network", a, "172.18.0.3:9", "172.18.0.2")
	reaches(t, "the host to a sandbox", w.host.NS, "172.18.0.2:9", "172.18.0.1")
	reaches(t, "the gateway", a, "172.18.0.1:9", "172.18.0.2")
	if from, err := ask(a, "tcp", self+":9"); err != nil || from != "172.18.0.2" {
		t.Errorf("another address of the host: seen as %s, %v", from, err)
	}
	reaches(t, "egress, masqueraded", a, out+":9", self)
	reaches(t, "egress, as it is", c, out+":9", "172.19.0.2")
	reaches(t, "internal network", d, "172.20.0.3:9", "172.20.0.2")
	reaches(t, "the host to an internal network", w.host.NS, "172.20.0.2:9", "172.20.0.1")
	doesNotReach(t, "another network", a, "172.19.0.2:9")
	doesNotReach(t, "and back", c, "172.18.0.2:9")
	doesNotReach(t, "the host's address in another network", a, "172.19.0.1:9")
	doesNotReach(t, "from outside in", w.outside.NS, "172.18.0.2:9")
	doesNotReach(t, "from outside in, not masqueraded", w.outside.NS, "172.19.0.2:9")
	viaGateway(t, d, "172.20.0.1")
	doesNotReach(t, "from an internal network out", d, out+":9")
	doesNotReach(t, "from an internal network to another", d, "172.18.0.2:9")
	doesNotReach(t, "from an internal network to the host", d, self+":9")
	doesNotReach(t, "from an internal network to a published port", d, self+":8080")
	doesNotReach(t, "from outside into an internal network", w.outside.NS, "172.20.0.2:9")

	reaches(t, "published: from outside, with the client's address", w.outside.NS, self+":8080", out)
	reaches(t, "published: from the host itself", w.host.NS, self+":8080", self)
	reaches(t, "published: hairpin from the same sandbox", a, self+":8080", "172.18.0.1")
	reaches(t, "published: hairpin from the same network", b, self+":8080", "172.18.0.1")
	reaches(t, "published: from another network, with the client's address", c, self+":8080", "172.19.0.2")
	reaches(t, "published on one address", w.host.NS, "192.0.2.100:8081", "192.0.2.100")
	doesNotReach(t, "published on one address, asked at another", w.outside.NS, self+":8081")
	doesNotReach(t, "loopback is the proxy's", w.host.NS, "127.0.0.1:8080")

	t.Run("a forged address is dropped", func(t *testing.T) {
		forge(t, a, "172.18.0.77/16")
		reaches(t, "the check itself", a, "172.18.0.3:9", "172.18.0.2")
		if from, err := askFrom(a, "172.18.0.77", "172.18.0.3:9"); err == nil {
			t.Errorf("seen as %s", from)
		}
	})
	t.Run("nothing is left at the end", func(t *testing.T) {
		w.nets, w.pub = nil, nil
		w.apply()
		if got := links(t, w.host.NS); len(got) != 2 {
			t.Errorf("links %v", got)
		}
	})
}

// viaGateway gives a sandbox a default route that weft did not give it.
func viaGateway(t *testing.T, ns, gateway string) {
	t.Helper()
	netnstest.In(t, ns, func() error { return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}) })
}

func forge(t *testing.T, ns, cidr string) {
	t.Helper()
	netnstest.In(t, ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, a)
	})
}

// askFrom asks from a given address of a namespace.
func askFrom(ns, from, to string) (string, error) {
	var line string
	err := netnstest.Try(ns, func() error {
		d := net.Dialer{Timeout: askWait, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", to)
		if err != nil {
			return err
		}
		line = host(c.LocalAddr())
		return c.Close()
	})
	return line, err
}

func links(t *testing.T, ns string) (names []string) {
	t.Helper()
	netnstest.In(t, ns, func() error {
		ls, err := netlink.LinkList()
		for _, l := range ls {
			names = append(names, l.Attrs().Name)
		}
		return err
	})
	return names
}

// Where sandboxes may reach each other by links alone, they do so for what the link leads to, in both families, whatever way they try.
func TestClosedNetwork(t *testing.T) {
	for _, nf := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+nf, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.bridgeNetfilter(nf)
			closedNetwork(t, w)
		})
	}
}

func closedNetwork(t *testing.T, w *world) {
	n := w.network(map[string]string{record.OptICC: "false"}, "172.18.0.0/16")
	a, b, c := w.sandbox(n, "172.18.0.2"), w.sandbox(n, "172.18.0.3"), w.sandbox(n, "172.18.0.4")
	talk := bridge.Talk{From: netip.MustParseAddr("172.18.0.3"), To: netip.MustParseAddr("172.18.0.2"), Port: 9}
	for _, talk.Proto = range []string{"tcp", "udp"} {
		n.Talks = append(n.Talks, talk)
	}
	w.publish("0.0.0.0", 8080, "172.18.0.2", 9)
	w.apply()
	for _, ns := range []string{a, b, c, w.outside.NS} {
		serve(t, ns)
	}
	reaches(t, "by the link", b, "172.18.0.2:9", "172.18.0.3")
	reaches(t, "out", a, w.outside.Addr.String()+":9", w.host.Addr.String())
	reaches(t, "by a published port", c, w.host.Addr.String()+":8080", "172.18.0.1")
	doesNotReach(t, "against the link", a, "172.18.0.3:9")
	doesNotReach(t, "without a link", c, "172.18.0.2:9")
	netnstest.In(t, c, func() error { // through the gateway
		return netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(172, 18, 0, 1), Dst: &net.IPNet{IP: net.IPv4(172, 18, 0, 2), Mask: net.CIDRMask(32, 32)}})
	})
	doesNotReach(t, "through the gateway", c, "172.18.0.2:9")
}

// The 1,001st port is one element, and so is taking it back.
func TestPublishingOneMoreIsOneElement(t *testing.T) {
	w := newWorld(t)
	n := w.network(nil, "172.18.0.0/16")
	a := w.sandbox(n, "172.18.0.2")
	for i := range 500 {
		w.publish("0.0.0.0", uint16(20000+i), "172.18.0.2", 9)
	}
	w.apply()
	serve(t, a)
	w.publish("0.0.0.0", 8080, "172.18.0.2", 9)
	w.pub = w.pub[:len(w.pub)-1]
	ops := kernel.Diff(w.want(), w.read())
	if len(ops) != 1 || ops[0].Obj.Kind != kernel.KindElement {
		t.Fatalf("one more port takes %v", ops)
	}
	w.apply()
	if _, err := ask(w.outside.NS, "tcp", w.host.Addr.String()+":8080"); err != nil {
		t.Error(err)
	}
}

func TestDataPathOfIPv6(t *testing.T) {
	for _, nf := range []string{"0", "1"} {
		t.Run("bridge-nf-call-ip6tables="+nf, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.bridgeNetfilter(nf)
			w.dualUnderlay()
			dataPath6(t, w)
		})
	}
}

func dataPath6(t *testing.T, w *world) {
	const self, out = "fd00:aa::1", "fd00:aa::2"
	front := w.network(nil, "172.18.0.0/16", "fd00:18::/64")
	back := w.network(map[string]string{record.OptMasquerade: "false"}, "172.19.0.0/16", "fd00:19::/64")
	inner := w.network(nil, "172.20.0.0/16", "fd00:20::/64")
	closed := w.network(map[string]string{record.OptICC: "false"}, "172.21.0.0/16", "fd00:21::/64")
	inner.Record.Internal = true
	a, b, c := w.sandbox(front, "172.18.0.2", "fd00:18::2"), w.sandbox(front, "172.18.0.3", "fd00:18::3"), w.sandbox(back, "172.19.0.2", "fd00:19::2")
	d, e := w.sandbox(inner, "172.20.0.2", "fd00:20::2"), w.sandbox(inner, "172.20.0.3", "fd00:20::3")
	f, g := w.sandbox(closed, "172.21.0.2", "fd00:21::2"), w.sandbox(closed, "172.21.0.3", "fd00:21::3")
	for _, proto := range []string{"tcp", "udp"} {
		closed.Talks = append(closed.Talks, bridge.Talk{From: netip.MustParseAddr("fd00:21::3"), To: netip.MustParseAddr("fd00:21::2"), Proto: proto, Port: 9})
	}
	w.publish("::", 8080, "fd00:18::2", 9)
	w.publish(self, 8081, "fd00:18::2", 9)
	w.publish("::", 9, "172.18.0.2", 9) // what the host serves there stands for the proxy
	w.apply()
	for _, ns := range []string{a, b, c, d, e, f, g, w.host.NS, w.outside.NS} {
		serve(t, ns)
	}
	reaches(t, "same network", a, "[fd00:18::3]:9", "fd00:18::2")
	reaches(t, "the gateway", a, "[fd00:18::1]:9", "fd00:18::2")
	reaches(t, "the host to a sandbox", w.host.NS, "[fd00:18::2]:9", "fd00:18::1")
	reaches(t, "egress, masqueraded", a, "["+out+"]:9", self)
	reaches(t, "egress, as it is", c, "["+out+"]:9", "fd00:19::2")
	reaches(t, "internal network", d, "[fd00:20::3]:9", "fd00:20::2")
	reaches(t, "the host to an internal network", w.host.NS, "[fd00:20::2]:9", "fd00:20::1")
	doesNotReach(t, "another network", a, "[fd00:19::2]:9")
	doesNotReach(t, "the host's address in another network", a, "[fd00:19::1]:9")
	doesNotReach(t, "from outside in", w.outside.NS, "[fd00:18::2]:9")
	doesNotReach(t, "from an internal network out", d, "["+out+"]:9")
	doesNotReach(t, "from an internal network to a proxied port", d, "[fd00:20::1]:9")
	reaches(t, "published: from outside, with the client's address", w.outside.NS, "["+self+"]:8080", out)
	reaches(t, "published: from the host itself", w.host.NS, "["+self+"]:8081", self)
	reaches(t, "published: hairpin from the same sandbox", a, "["+self+"]:8080", "fd00:18::1")
	reaches(t, "published: hairpin from the same network", b, "["+self+"]:8080", "fd00:18::1")
	reaches(t, "published: from another network", c, "["+self+"]:8080", "fd00:19::2")
	reaches(t, "by the link", g, "[fd00:21::2]:9", "fd00:21::3")
	doesNotReach(t, "against the link", f, "[fd00:21::3]:9")

	forge(t, a, "fd00:18::77/64")
	if from, err := askFrom(a, "fd00:18::77", "[fd00:18::3]:9"); err == nil {
		t.Errorf("with a forged address: seen as %s", from)
	}
}

// dualUnderlay gives the host and the one outside IPv6.
func (w *world) dualUnderlay() {
	w.t.Helper()
	for ns, addr := range map[string]string{w.host.NS: "fd00:aa::1/64", w.outside.NS: "fd00:aa::2/64"} {
		netnstest.In(w.t, ns, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			return netlink.AddrAdd(l, a)
		})
	}
	netnstest.In(w.t, w.outside.NS, func() error { // a way back to those that are not masqueraded
		_, dst, err := net.ParseCIDR("fd00::/24")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("fd00:aa::1"), Dst: dst})
	})
}
