package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bridge"
	"weft/ipam"
	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/overlay"
	"weft/port"
	"weft/store/record"
)

// world is some hosts with an executor each, and the networks that they share.
type world struct {
	t     *testing.T
	under *netnstest.Underlay
	hosts []*host
	nets  []*record.Network
	eps   []*record.Endpoint
	ports map[record.EndpointID]port.Port
}

type host struct {
	netnstest.Host
	id  record.HostID
	k   *kernel.Kernel
	set overlay.Settings
}

func newWorld(t *testing.T, hosts int) *world {
	t.Helper()
	w := &world{t: t, under: netnstest.NewUnderlay(t), ports: map[record.EndpointID]port.Port{}}
	for i := range hosts {
		h := &host{Host: w.under.Host(t), id: record.HostID(fmt.Sprintf("host%d", i))}
		dir := filepath.Join(t.TempDir(), "netns")
		k, err := kernel.Open(kernel.Config{Log: slog.New(slog.DiscardHandler), HostNS: h.NS, NetnsDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		h.k, h.set = k, overlay.Settings{Self: h.id, VTEP: h.Addr, VXLANPort: 4789, NetnsDir: dir}
		w.hosts = append(w.hosts, h)
		t.Cleanup(func() {
			spaces, err := k.Namespaces(context.Background())
			for _, ns := range spaces {
				err = errors.Join(err, kernel.RemoveNetns(ns))
			}
			if err := errors.Join(err, k.Close(), syscall.Unmount(dir, syscall.MNT_DETACH)); err != nil {
				t.Error(err)
			}
		})
	}
	return w
}

func (w *world) network(name string, internal bool, pools ...string) *record.Network {
	n := &record.Network{
		ID: record.NetworkID(fmt.Sprintf("%08x%056x", len(w.nets)+0xabc, 0)), Name: name, VNI: uint32(4096 + len(w.nets)), MTU: 1450, Internal: internal, State: record.Active,
	}
	for _, p := range pools {
		s := netip.MustParsePrefix(p)
		n.Pools = append(n.Pools, record.Pool{Subnet: s, Gateway: s.Addr().Next()})
	}
	w.nets = append(w.nets, n)
	return n
}

// sandbox gives a new namespace an endpoint on a host.
func (w *world) sandbox(h int, n *record.Network, addrs ...string) string {
	w.t.Helper()
	var all []netip.Addr
	for _, addr := range addrs {
		all = append(all, netip.MustParseAddr(addr))
	}
	a := all[0]
	i := len(w.eps) + 1
	ep := &record.Endpoint{
		ID: record.EndpointID(fmt.Sprintf("%012x%052x", i, 0)), Network: n.ID, Host: w.hosts[h].id, Name: fmt.Sprintf("c%d", i), Addrs: all,
		MAC: record.MAC(ipam.MAC(a)), Running: true,
	}
	ns := netnstest.NS(w.t, ep.Name)
	w.eps = append(w.eps, ep)
	w.ports[ep.ID] = port.Port{Endpoint: ep, Netns: ns, IfName: "eth0", Default: !n.Internal, Default6: !n.Internal}
	return ns
}

// want is what a host's kernel should hold.
func (w *world) want(h *host) kernel.State {
	out := kernel.State{}
	var here []*record.Network
	var pools []netip.Prefix
	for _, n := range w.nets {
		for _, p := range n.Pools {
			pools = append(pools, p.Subnet)
		}
		in := w.view(h, n)
		if len(in.Ports) > 0 {
			here = append(here, n)
		}
		maps.Copy(out, overlay.Render(h.set, in))
	}
	var vteps []netip.Addr
	for _, h := range w.hosts {
		vteps = append(vteps, h.Addr)
	}
	maps.Copy(out, bridge.RenderHost(bridge.Host{Overlays: here, Pools: pools, VTEPs: vteps, VXLANPort: 4789}))
	return out
}

func (w *world) view(h *host, n *record.Network) overlay.Network {
	in := overlay.Network{Record: n, Hosts: func(id record.HostID) (netip.Addr, bool) {
		for _, h := range w.hosts {
			if h.id == id {
				return h.Addr, true
			}
		}
		return netip.Addr{}, false
	}}
	for _, ep := range w.eps {
		if ep.Network == n.ID {
			in.Endpoints = append(in.Endpoints, ep)
			if ep.Host == h.id {
				in.Ports = append(in.Ports, w.ports[ep.ID])
			}
		}
	}
	return in
}

func (w *world) read(h *host) kernel.State {
	w.t.Helper()
	spaces, err := h.k.Namespaces(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	spaces = append(spaces, kernel.HostNS)
	for _, p := range w.ports {
		if p.Endpoint.Host == h.id {
			spaces = append(spaces, p.Netns)
		}
	}
	have, err := h.k.Read(w.t.Context(), spaces)
	if err != nil {
		w.t.Fatal(err)
	}
	return have
}

// apply brings every host in line, and checks that nothing is left to do then: what is right is known again and not touched.
func (w *world) apply() {
	w.t.Helper()
	for _, h := range w.hosts {
		for _, op := range w.change(h) {
			w.t.Errorf("host %s would do again: %v (have %v)", h.id, op, w.read(h)[op.Obj.Key].Spec)
		}
	}
}

func (w *world) change(h *host) []kernel.Op {
	w.t.Helper()
	ops := kernel.Diff(w.want(h), w.read(h))
	for i, err := range h.k.Apply(w.t.Context(), ops) {
		if err != nil {
			w.t.Errorf("host %s: %v: %v", h.id, ops[i], err)
		}
	}
	left := kernel.Diff(w.want(h), w.read(h))
	return slices.DeleteFunc(left, func(o kernel.Op) bool { return o.Obj.Kind == kernel.KindSysctl && o.Obj.NS == kernel.HostNS })
}

// serve echoes UDP in a namespace, on port 9 of an address ("" for all), until the test ends.
func serve(t *testing.T, ns, addr string) {
	t.Helper()
	var c net.PacketConn
	netnstest.In(t, ns, func() (err error) {
		c, err = net.ListenPacket("udp", addr+":9")
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte(from.(*net.UDPAddr).IP.String()+" "), b[:n]...), from)
		}
	}()
}

// ask sends size bytes from a namespace to an echo and returns the address that it saw; an error where no answer comes.
func ask(ns, to string, size int) (string, error) {
	var c net.Conn
	err := netnstest.Try(ns, func() (err error) {
		c, err = net.Dial("udp", net.JoinHostPort(to, "9"))
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	for range 3 {
		if _, err = c.Write(make([]byte, size)); err != nil {
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		b := make([]byte, 4096)
		var n int
		if n, err = c.Read(b); err == nil {
			from, _, _ := strings.Cut(string(b[:n]), " ")
			return from, nil
		}
	}
	return "", err
}

func reaches(t *testing.T, what, ns, to, as string) {
	t.Helper()
	if from, err := ask(ns, to, 8); err != nil || from != as {
		t.Errorf("%s: seen as %q, %v; want %s", what, from, err, as)
	}
}

func doesNotReach(t *testing.T, what, ns, to string) {
	t.Helper()
	if from, err := ask(ns, to, 8); err == nil {
		t.Errorf("%s: reached it as %s", what, from)
	}
}

func TestDataPath(t *testing.T) {
	w := newWorld(t, 3)
	outside := w.under.Host(t)
	netnstest.In(t, outside.NS, func() error { // what sandboxes can only reach masqueraded
		l, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 51, 100, 1), Mask: net.CIDRMask(32, 32)}})
	})
	for _, h := range w.hosts {
		netnstest.In(t, h.NS, func() error {
			return netlink.RouteAdd(&netlink.Route{Gw: outside.Addr.AsSlice(), Dst: &net.IPNet{IP: net.IPv4(198, 51, 100, 0), Mask: net.CIDRMask(24, 32)}})
		})
	}
	front := w.network("front", false, "10.1.0.0/24", "10.2.0.0/24")
	back := w.network("back", true, "10.3.0.0/24")
	a := w.sandbox(0, front, "10.1.0.2")
	b := w.sandbox(1, front, "10.1.0.3")
	c := w.sandbox(2, front, "10.2.0.2")
	d := w.sandbox(0, front, "10.2.0.3")
	e := w.sandbox(0, back, "10.3.0.2")
	f := w.sandbox(1, back, "10.3.0.3")
	w.apply()
	if t.Failed() {
		return
	}
	for _, ns := range []string{a, b, c, d, e, f} {
		serve(t, ns, "")
	}
	serve(t, outside.NS, "198.51.100.1")

	reaches(t, "same pool, other host", a, "10.1.0.3", "10.1.0.2")
	reaches(t, "other pool, other host", a, "10.2.0.2", "10.1.0.2")
	reaches(t, "and back", c, "10.1.0.2", "10.2.0.2")
	reaches(t, "other pool, same host", a, "10.2.0.3", "10.1.0.2")
	reaches(t, "internal network, other host", e, "10.3.0.3", "10.3.0.2")
	reaches(t, "egress, masqueraded", a, "198.51.100.1", w.hosts[0].Addr.String())
	doesNotReach(t, "another network, same host", a, "10.3.0.2")
	doesNotReach(t, "another network, other host", a, "10.3.0.3")
	doesNotReach(t, "from an internal network out", e, "198.51.100.1")
	doesNotReach(t, "from outside in", outside.NS, "10.1.0.2")
	if _, err := ask(a, "10.1.0.3", 1450-28); err != nil {
		t.Errorf("a packet as large as the MTU: %v", err)
	}

	t.Run("a forged address is dropped", func(t *testing.T) {
		netnstest.In(t, a, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 1, 0, 77), Mask: net.CIDRMask(24, 32)}})
		})
		if got := forged(t, a, b, net.IPv4(10, 1, 0, 77)); got {
			t.Error("a packet with a forged source address arrived")
		}
		if got := forged(t, a, b, net.IPv4(10, 1, 0, 2)); !got {
			t.Error("the check itself does not work: a right packet did not arrive")
		}
	})
	t.Run("a forged hardware address is dropped", func(t *testing.T) {
		setMAC(t, a, "02:42:0a:01:00:63")
		doesNotReach(t, "with another hardware address", a, "10.1.0.3")
		setMAC(t, a, "02:42:0a:01:00:02")
	})
	t.Run("re-applying everything loses no packet", func(t *testing.T) { w.reapply(a, b) })
	t.Run("drift is repaired", func(t *testing.T) { w.drift(b) })
	t.Run("nothing is left at the end", func(t *testing.T) { w.end() })
}

// forged sends from a given address of a namespace, and tells whether it arrived.
func forged(t *testing.T, from, to string, src net.IP) bool {
	t.Helper()
	var in net.PacketConn
	netnstest.In(t, to, func() (err error) {
		in, err = net.ListenPacket("udp4", ":7")
		return err
	})
	defer func() { _ = in.Close() }()
	netnstest.In(t, from, func() error {
		out, err := net.DialUDP("udp4", &net.UDPAddr{IP: src}, &net.UDPAddr{IP: net.IPv4(10, 1, 0, 3), Port: 7})
		if err != nil {
			return err
		}
		defer func() { _ = out.Close() }()
		_, err = out.Write([]byte("x"))
		return err
	})
	_ = in.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, _, err := in.ReadFrom(make([]byte, 10))
	return err == nil
}

func setMAC(t *testing.T, ns, mac string) {
	t.Helper()
	netnstest.In(t, ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		hw, err := net.ParseMAC(mac)
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, hw)
	})
}

// reapply puts every object again, as an agent without memory would at worst, while a sandbox talks to another.
func (w *world) reapply(a, b string) {
	stop := make(chan struct{})
	done := make(chan struct{})
	var sent, lost atomic.Int64
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			sent.Add(1)
			var c net.Conn
			err := netnstest.Try(a, func() (err error) {
				c, err = net.Dial("udp4", "10.1.0.3:9")
				return err
			})
			if err == nil {
				_, err = c.Write([]byte("x"))
			}
			if err == nil {
				_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
				_, err = c.Read(make([]byte, 100))
				_ = c.Close()
			}
			if err != nil {
				lost.Add(1)
			}
		}
	}()
	for range 5 {
		for _, h := range w.hosts {
			ops := kernel.Diff(w.want(h), kernel.State{})
			for i, err := range h.k.Apply(w.t.Context(), ops) {
				if err != nil {
					w.t.Errorf("%v: %v", ops[i], err)
				}
			}
		}
	}
	close(stop)
	<-done
	if lost.Load() > 0 || sent.Load() < 10 {
		w.t.Errorf("%d of %d packets were lost", lost.Load(), sent.Load())
	}
}

// drift takes things away behind the executor's back.
func (w *world) drift(b string) {
	h := w.hosts[0]
	space := overlay.NetnsPath(h.set, w.nets[0].ID)
	netnstest.In(w.t, space, func() error {
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		if err := netlink.NeighDel(&netlink.Neigh{LinkIndex: br.Attrs().Index, Family: unix.AF_INET, IP: net.IPv4(10, 1, 0, 3), State: unix.NUD_PERMANENT}); err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(br, 1300); err != nil {
			return err
		}
		vx, err := netlink.LinkByName("vx0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(vx)
	})
	w.apply()
	reaches(w.t, "after the repair", w.ports[w.eps[0].ID].Netns, "10.1.0.3", "10.1.0.2")
}

// end takes every sandbox away.
func (w *world) end() {
	w.eps = nil
	ports := w.ports
	w.ports = map[record.EndpointID]port.Port{}
	for _, h := range w.hosts {
		for _, op := range w.change(h) {
			w.t.Errorf("left: %v", op)
		}
		if es, err := os.ReadDir(h.set.NetnsDir); err != nil || len(es) > 0 {
			w.t.Errorf("left in %s: %v, %v", h.set.NetnsDir, es, err)
		}
		netnstest.In(w.t, h.NS, func() error {
			links, err := netlink.LinkList()
			if len(links) != 2 { // lo and eth0
				w.t.Errorf("host %s has %d links: %v", h.id, len(links), links)
			}
			return err
		})
	}
	for _, p := range ports {
		netnstest.In(w.t, p.Netns, func() error {
			if _, err := netlink.LinkByName(p.IfName); err == nil {
				w.t.Errorf("%s is still in %s", p.IfName, p.Netns)
			}
			return nil
		})
	}
}
