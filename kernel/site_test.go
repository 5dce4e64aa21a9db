package kernel_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"

	"weft/bridge"
	"weft/ipam"
	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/overlay"
	"weft/port"
	"weft/store/record"
)

// site is a host whose kernel holds one network, with one port in it.
type site struct {
	k   *kernel.Kernel
	ns  string // the host's
	set overlay.Settings
	net overlay.Network
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{ns: netnstest.NS(t, "host")}
	dir := filepath.Join(t.TempDir(), "netns")
	s.set = overlay.Settings{Self: "h1", VTEP: netip.MustParseAddr("192.0.2.1"), VXLANPort: 4789, NetnsDir: dir}
	s.k = open(t, s.ns, dir)
	t.Cleanup(func() { clearDir(t, dir) })
	s.net = overlay.Network{
		Record: &record.Network{
			ID: record.NetworkID(fmt.Sprintf("%064x", 0xabc)), Name: "front", VNI: 4096, MTU: 1450, State: record.Active,
			Pools: []record.Pool{{Subnet: netip.MustParsePrefix("10.1.0.0/16"), Gateway: netip.MustParseAddr("10.1.0.1")}},
		},
		Hosts: func(record.HostID) (netip.Addr, bool) { return netip.MustParseAddr("192.0.2.2"), true },
	}
	s.net.Ports = []port.Port{s.port(t, 1)}
	must(t, s.k, kernel.Diff(s.want(), nil))
	return s
}

// want is all that the host's kernel should hold.
func (s *site) want() kernel.State {
	out := overlay.Render(s.set, s.net)
	maps.Copy(out, bridge.RenderHost(bridge.Host{
		Overlays: []*record.Network{s.net.Record}, Pools: []netip.Prefix{s.net.Record.Pools[0].Subnet}, VXLANPort: 4789,
		VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
	}))
	return out
}

// space is the network's namespace.
func (s *site) space() string { return overlay.NetnsPath(s.set, s.net.Record.ID) }

// read returns what is weft's own, in every namespace of the site.
func (s *site) read(t testing.TB, k *kernel.Kernel) kernel.State {
	t.Helper()
	spaces, err := k.Namespaces(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	spaces = append(spaces, kernel.HostNS)
	for _, p := range s.net.Ports {
		spaces = append(spaces, p.Netns)
	}
	have, err := k.Read(context.Background(), spaces)
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// remote is an endpoint of another host.
func (s *site) remote(i int) *record.Endpoint { return s.endpoint(i, "h2") }

// port is a new sandbox with an endpoint that is not attached yet.
func (s *site) port(t testing.TB, i int) port.Port {
	return port.Port{Endpoint: s.endpoint(i, "h1"), Netns: netnstest.NS(t, fmt.Sprintf("sandbox%d", i)), IfName: "eth0", Default: true}
}

func (s *site) endpoint(i int, host record.HostID) *record.Endpoint {
	a := netip.AddrFrom4([4]byte{10, 1, byte(i / 250), byte(i%250 + 2)})
	return &record.Endpoint{
		ID: record.EndpointID(fmt.Sprintf("%012x%052x", i, 0)), Network: s.net.Record.ID, Host: host, Name: fmt.Sprintf("c%d", i),
		Addrs: []netip.Addr{a}, MAC: record.MAC(ipam.MAC(a)), Running: true,
	}
}

func (s *site) attach(p port.Port) []kernel.Op {
	return kernel.Missing(overlay.RenderPort(s.set, s.net, p), nil)
}

func open(t testing.TB, host, dir string) *kernel.Kernel {
	t.Helper()
	k, err := kernel.Open(kernel.Config{Log: slog.New(slog.DiscardHandler), HostNS: host, NetnsDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// clearDir takes every namespace in dir away, and dir's mount.
func clearDir(t testing.TB, dir string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Error(err)
	}
	for _, ns := range found {
		if err := kernel.RemoveNetns(ns); err != nil {
			t.Error(err)
		}
	}
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Error(err)
	}
}

// must applies steps that all have to succeed.
func must(t testing.TB, e kernel.Executor, ops []kernel.Op) {
	t.Helper()
	for i, err := range e.Apply(context.Background(), ops) {
		if err != nil {
			t.Fatalf("%v: %v", ops[i], err)
		}
	}
}
