package bridge_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"weft/bridge"
	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/port"
	"weft/store/record"
)

// askWait is how long an answer is waited for.
const askWait = 400 * time.Millisecond

// world is a host with an executor, another host in its underlay, and local networks.
type world struct {
	t        *testing.T
	host     netnstest.Host
	outside  netnstest.Host
	k        *kernel.Kernel
	nets     []*bridge.Network
	overlays []*record.Network
	vteps    []netip.Addr
	pub      []bridge.Published
	ports    int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	under := netnstest.NewUnderlay(t)
	w := &world{t: t, host: under.Host(t), outside: under.Host(t)}
	dir := filepath.Join(t.TempDir(), "netns")
	k, err := kernel.Open(kernel.Config{Log: slog.New(slog.DiscardHandler), HostNS: w.host.NS, NetnsDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	w.k = k
	t.Cleanup(func() {
		if err := errors.Join(k.Close(), syscall.Unmount(dir, syscall.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	})
	netnstest.In(t, w.outside.NS, func() error { // a way back to those that are not masqueraded
		return netlink.RouteAdd(&netlink.Route{Gw: w.host.Addr.AsSlice(), Dst: &net.IPNet{IP: net.IPv4(172, 16, 0, 0), Mask: net.CIDRMask(12, 32)}})
	})
	netnstest.In(t, w.host.NS, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 100), Mask: net.CIDRMask(32, 32)}})
	})
	return w
}

// network adds a network, and brings nothing in line yet.
func (w *world) network(options map[string]string, pools ...string) *bridge.Network {
	n := &bridge.Network{Record: network(len(w.nets)+1, options, pools...)}
	w.nets = append(w.nets, n)
	return n
}

// sandbox adds a port with these addresses to a network, and returns its namespace.
func (w *world) sandbox(n *bridge.Network, addrs ...string) string {
	w.t.Helper()
	w.ports++
	ep := endpoint(w.ports, n.Record, addrs...)
	p := port.Port{Endpoint: ep, Netns: netnstest.NS(w.t, ep.Name), IfName: "eth0", Default: !n.Record.Internal, Default6: !n.Record.Internal}
	n.Ports = append(n.Ports, p)
	return p.Netns
}

func (w *world) publish(at string, hostPort uint16, target string, port uint16) {
	for _, proto := range []string{"tcp", "udp"} {
		w.pub = append(w.pub, bridge.Published{
			Binding: record.PortBinding{Proto: proto, HostAddr: netip.MustParseAddr(at), HostPort: hostPort, Port: port}, Target: netip.MustParseAddr(target),
		})
	}
}

func (w *world) want() kernel.State {
	h := bridge.Host{VXLANPort: 4789, Published: w.pub, Overlays: w.overlays, VTEPs: w.vteps}
	out := kernel.State{}
	for _, n := range w.nets {
		maps.Copy(out, bridge.Render(*n))
		h.Locals = append(h.Locals, *n)
		for _, p := range n.Record.Pools {
			h.Pools = append(h.Pools, p.Subnet)
		}
	}
	maps.Copy(out, bridge.RenderHost(h))
	return out
}

func (w *world) read() kernel.State {
	w.t.Helper()
	spaces := []string{kernel.HostNS}
	for _, n := range w.nets {
		for _, p := range n.Ports {
			spaces = append(spaces, p.Netns)
		}
	}
	have, err := w.k.Read(context.Background(), spaces)
	if err != nil {
		w.t.Fatal(err)
	}
	return have
}

// apply brings the host in line, and checks that nothing is left to do then.
func (w *world) apply() {
	w.t.Helper()
	for range 2 {
		ops := kernel.Diff(w.want(), w.read())
		for i, err := range w.k.Apply(w.t.Context(), ops) {
			if err != nil {
				w.t.Fatalf("%v: %v", ops[i], err)
			}
		}
	}
	for _, op := range kernel.Diff(w.want(), w.read()) {
		w.t.Errorf("would do again: %v (have %v)", op, w.read()[op.Obj.Key].Spec)
	}
}

// serve answers on TCP and UDP port 9 of a namespace with the address that asks, until the test ends.
func serve(t *testing.T, ns string) {
	t.Helper()
	var l net.Listener
	var c net.PacketConn
	netnstest.In(t, ns, func() (err error) {
		if l, err = net.Listen("tcp", ":9"); err != nil {
			return err
		}
		c, err = net.ListenPacket("udp", ":9")
		return err
	})
	t.Cleanup(func() { _, _ = l.Close(), c.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintln(conn, host(conn.RemoteAddr()))
			_ = conn.Close()
		}
	}()
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(host(from)+"\n"), from)
		}
	}()
}

// host is the address alone.
func host(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return ap.Addr().Unmap().WithZone("").String()
}

// ask asks from a namespace and returns the address that the server saw.
func ask(ns, proto, to string) (string, error) {
	var c net.Conn
	err := netnstest.Try(ns, func() (err error) {
		d := net.Dialer{Timeout: askWait}
		c, err = d.Dial(proto, to)
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	for range 2 {
		_ = c.SetDeadline(time.Now().Add(askWait))
		if proto == "udp" {
			if _, err = c.Write([]byte("?")); err != nil {
				continue
			}
		}
		var line string
		if line, err = bufio.NewReader(c).ReadString('\n'); err == nil {
			return line[:len(line)-1], nil
		}
	}
	return "", err
}

func reaches(t *testing.T, what, ns, to, as string) {
	t.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		if from, err := ask(ns, proto, to); err != nil || from != as {
			t.Errorf("%s, %s: seen as %q, %v; want %s", what, proto, from, err, as)
		}
	}
}

func doesNotReach(t *testing.T, what, ns, to string) {
	t.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		if from, err := ask(ns, proto, to); err == nil {
			t.Errorf("%s, %s: reached it as %s", what, proto, from)
		}
	}
}

func (w *world) bridgeNetfilter(value string) {
	w.t.Helper()
	netnstest.In(w.t, w.host.NS, func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(value), 0o644),
			os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte(value), 0o644),
		)
	})
}
