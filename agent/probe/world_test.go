package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"weft/bridge"
	"weft/ipam"
	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/overlay"
	"weft/port"
	"weft/store/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is the machine's.
type clock struct{}

func (clock) Now() time.Time                         { return time.Now() }
func (clock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// world is two hosts with a network that both have an endpoint in, as the agents would have made them, and a prober on each.
type world struct {
	t     *testing.T
	hosts [2]*host
	n     *record.Network
}

type host struct {
	netnstest.Host
	id     record.HostID
	set    overlay.Settings
	k      *kernel.Kernel
	box    string // the sandbox's namespace
	ep     *record.Endpoint
	prober *Prober
	far    *host

	mu     sync.Mutex // guards states
	states []State
}

// hosts are plugged into an underlay of IPv4 or IPv6.
func newWorld(t *testing.T, six bool) *world {
	t.Helper()
	w := &world{t: t, n: &record.Network{
		ID: record.NetworkID(fmt.Sprintf("%064x", 0xabc)), Name: "web", VNI: 4096, MTU: 1430, State: record.Active,
		Pools: []record.Pool{{Subnet: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.1")}},
	}}
	under := netnstest.NewUnderlay(t)
	for i := range w.hosts {
		h := &host{Host: under.Host(t), id: record.HostID(fmt.Sprintf("host%d", i))}
		if six {
			h.addSix(t, i)
		}
		w.hosts[i] = h
		w.open(h, i)
	}
	w.hosts[0].far, w.hosts[1].far = w.hosts[1], w.hosts[0]
	for _, h := range w.hosts {
		w.apply(h)
	}
	return w
}

// addSix gives a host an IPv6 address in the underlay, which its tunnels use.
func (h *host) addSix(t *testing.T, i int) {
	h.Addr = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", 11+i))
	netnstest.In(t, h.NS, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: h.Addr.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: syscall.IFA_F_NODAD})
	})
}

func (w *world) open(h *host, i int) {
	t := w.t
	dir := filepath.Join(t.TempDir(), "netns")
	k, err := kernel.Open(kernel.Config{Log: slog.New(slog.DiscardHandler), HostNS: h.NS, NetnsDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	h.k, h.set = k, overlay.Settings{Self: h.id, VTEP: h.Addr, VXLANPort: 4789, NetnsDir: dir}
	t.Cleanup(func() {
		spaces, err := k.Namespaces(context.Background())
		for _, ns := range spaces {
			err = errors.Join(err, kernel.RemoveNetns(ns))
		}
		if err := errors.Join(err, k.Close(), syscall.Unmount(dir, syscall.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	})
	a := netip.AddrFrom4([4]byte{10, 1, 0, byte(2 + i)})
	h.box = netnstest.NS(t, fmt.Sprintf("box%d", i))
	h.ep = &record.Endpoint{
		ID: record.EndpointID(fmt.Sprintf("%064x", i+1)), Network: w.n.ID, Host: h.id, Name: fmt.Sprintf("c%d", i), Addrs: []netip.Addr{a},
		MAC: record.MAC(ipam.MAC(a)), Running: true,
	}
	h.prober = New(Config{
		Self: string(h.id), Clock: clock{}, Log: slog.New(slog.DiscardHandler),
		Pairs: func() []Pair {
			return []Pair{{Host: string(h.far.id), MAC: overlay.TunnelMAC(w.n.ID, h.far.id), Way: w.way(h)}}
		},
		Changed: func(_ string, _, after Path) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.states = append(h.states, after.State)
		},
	})
}

func (w *world) way(h *host) Way {
	return Way{
		Network: string(w.n.ID), Netns: overlay.NetnsPath(h.set, w.n.ID), Bridge: "br0", Tunnel: "vx0", VNI: w.n.VNI, MTU: w.n.MTU, MAC: overlay.TunnelMAC(w.n.ID, h.id),
	}
}

func (w *world) apply(h *host) { w.change(h, w.want(h), kernel.State{}) }

// want is what a host's kernel should hold.
func (w *world) want(h *host) kernel.State {
	in := overlay.Network{Record: w.n, Hosts: func(id record.HostID) (netip.Addr, bool) {
		return w.hosts[map[record.HostID]int{"host0": 0, "host1": 1}[id]].Addr, true
	}}
	in.Ports = []port.Port{{Endpoint: h.ep, Netns: h.box, IfName: "eth0", Default: true}}
	in.Endpoints = []*record.Endpoint{w.hosts[0].ep, w.hosts[1].ep}
	want := overlay.Render(h.set, in)
	maps.Copy(want, bridge.RenderHost(bridge.Host{Overlays: []*record.Network{w.n}, VTEPs: []netip.Addr{w.hosts[0].Addr, w.hosts[1].Addr}, VXLANPort: 4789}))
	return want
}

func (w *world) change(h *host, want, have kernel.State) {
	w.t.Helper()
	ops := kernel.Diff(want, have)
	for i, err := range h.k.Apply(w.t.Context(), ops) {
		if err != nil {
			w.t.Fatalf("host %s: %v: %v", h.id, ops[i], err)
		}
	}
}

// probe lets both hosts probe until the test ends.
func (w *world) probe() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, h := range w.hosts {
		wg.Go(func() { h.prober.Run(ctx) })
	}
	w.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// run runs a program in a namespace.
func run(t *testing.T, ns string, line ...string) {
	t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + ns}, line...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", line, err, out)
	}
}

// until waits for a state of a host's path to the other.
func (h *host) until(t *testing.T, s State, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for time.Since(began) < within {
		if h.prober.Path(string(h.far.id)).State == s {
			return time.Since(began)
		}
		time.Sleep(5 * time.Millisecond)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.Fatalf("%s: the path is %+v after %s, want %s; its states were %v", h.id, h.prober.Path(string(h.far.id)), within, s, slices.Clone(h.states))
	return 0
}
