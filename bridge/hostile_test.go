package bridge_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"weft/kernel/netnstest"
)

// What looks like neighbour discovery is nothing that one network may send to another: it could carry anything.
func TestNeighbourDiscoveryStaysInItsNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	front, back := w.network(nil, "172.18.0.0/16", "fd00:18::/64"), w.network(nil, "172.19.0.0/16", "fd00:19::/64")
	inner := w.network(nil, "172.20.0.0/16", "fd00:20::/64")
	inner.Record.Internal = true
	a, b := w.sandbox(front, "172.18.0.2", "fd00:18::2"), w.sandbox(front, "172.18.0.3", "fd00:18::3")
	c, d := w.sandbox(back, "172.19.0.2", "fd00:19::2"), w.sandbox(inner, "172.20.0.2", "fd00:20::2")
	w.apply()
	viaGateway(t, d, "fd00:20::1")
	for _, x := range []struct {
		what, from, to, at string
		want               bool
	}{
		{"in its network", a, b, "fd00:18::3", true},
		{"to another network", a, c, "fd00:19::2", false},
		{"from an internal network", d, a, "fd00:18::2", false},
	} {
		if got := solicits(t, x.from, x.to, x.at); got != x.want {
			t.Errorf("%s: arrived %v, want %v", x.what, got, x.want)
		}
	}
}

// solicits tells whether a neighbour solicitation with something of a sender's own in it arrives where it is routed to.
func solicits(t *testing.T, from, to, at string) bool {
	t.Helper()
	var in, out net.PacketConn
	open := func(c *net.PacketConn) func() error {
		return func() (err error) {
			*c, err = net.ListenPacket("ip6:ipv6-icmp", "::")
			return err
		}
	}
	netnstest.In(t, to, open(&in))
	netnstest.In(t, from, open(&out))
	defer func() { _, _ = in.Close(), out.Close() }()
	const secret = "nothing that a neighbour asks for"
	buf := make([]byte, 256)
	for range 5 { // the first may be lost while neighbours are looked for
		if _, err := out.WriteTo(append([]byte{135, 0, 0, 0}, secret...), &net.IPAddr{IP: net.ParseIP(at)}); err != nil {
			t.Fatal(err)
		}
		_ = in.SetReadDeadline(time.Now().Add(askWait / 2))
		for {
			n, _, err := in.ReadFrom(buf)
			if err != nil {
				break
			}
			if n > 4 && buf[0] == 135 && string(buf[4:n]) == secret {
				return true
			}
		}
	}
	return false
}

// Without tunnels of its own, weft leaves their port to others: Docker's swarm has the same.
func TestTheTunnelsPortIsOthersWithoutTunnels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	front := w.network(nil, "172.18.0.0/16")
	w.sandbox(front, "172.18.0.2")
	arrives := func(within time.Duration) bool {
		var c net.PacketConn
		netnstest.In(t, w.host.NS, func() (err error) {
			c, err = net.ListenPacket("udp4", ":4789")
			return err
		})
		defer func() { _ = c.Close() }()
		for end := time.Now().Add(within); time.Now().Before(end); { // the first one may be lost while the hosts learn of each other
			netnstest.In(t, w.outside.NS, func() error {
				out, err := net.Dial("udp4", w.host.Addr.String()+":4789")
				if err != nil {
					return err
				}
				_, err = out.Write([]byte("a tunnel's"))
				return errors.Join(err, out.Close())
			})
			_ = c.SetReadDeadline(time.Now().Add(askWait / 4))
			if _, _, err := c.ReadFrom(make([]byte, 64)); err == nil {
				return true
			}
		}
		return false
	}
	w.apply()
	if !arrives(20 * askWait) {
		t.Error("nothing arrives at the port of others' tunnels")
	}
	over := network(9, nil, "10.1.0.0/24")
	over.Driver = "overlay"
	w.overlays = append(w.overlays, over)
	w.apply()
	if arrives(askWait) {
		t.Error("with tunnels of its own, weft takes packets that are not from the cluster's hosts")
	}
}

// A host takes tunnel packets from the cluster's hosts, and what a sandbox sends leaves with such an address: it must not be a tunnel packet.
func TestASandboxCannotForgeATunnel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dualUnderlay()
	a := w.sandbox(w.network(nil, "172.18.0.0/16", "fd00:18::/64"), "172.18.0.2", "fd00:18::2")
	arrives := func(at string) bool {
		var in, out net.PacketConn
		netnstest.In(t, w.outside.NS, func() (err error) {
			in, err = net.ListenPacket("udp", at)
			return err
		})
		netnstest.In(t, a, func() (err error) {
			out, err = net.ListenPacket("udp", ":0")
			return err
		})
		defer func() { _, _ = in.Close(), out.Close() }()
		for range 5 {
			if _, err := out.WriteTo([]byte("a frame for another network"), in.LocalAddr()); err != nil {
				return false
			}
			_ = in.SetReadDeadline(time.Now().Add(askWait / 2))
			if _, _, err := in.ReadFrom(make([]byte, 64)); err == nil {
				return true
			}
		}
		return false
	}
	for _, c := range []struct {
		at    string
		vteps []netip.Addr
		want  bool
	}{
		{w.outside.Addr.String() + ":4789", []netip.Addr{w.host.Addr}, true}, {w.outside.Addr.String() + ":4788", []netip.Addr{w.host.Addr, w.outside.Addr}, true},
		{w.outside.Addr.String() + ":4789", []netip.Addr{w.host.Addr, w.outside.Addr}, false}, {"[fd00:aa::2]:4789", []netip.Addr{w.host.Addr, w.outside.Addr}, false},
	} {
		w.vteps = c.vteps
		w.apply()
		if got := arrives(c.at); got != c.want {
			t.Errorf("to %s, with VTEPs %v: arrived %v, want %v", c.at, c.vteps, got, c.want)
		}
	}
}
