package overlay_test

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/kernel"
	"weft/overlay"
	"weft/port"
	"weft/store/record"
)

var update = flag.Bool("update", false, "write what is rendered into testdata")

var settings = overlay.Settings{Self: "h1", VTEP: netip.MustParseAddr("192.0.2.1"), VXLANPort: 4789, NetnsDir: "/run/weft/netns"}

// vteps: host h4 has none.
func vteps(h record.HostID) (netip.Addr, bool) {
	a, ok := map[record.HostID]string{"h1": "192.0.2.1", "h2": "192.0.2.2", "h3": "192.0.2.3"}[h]
	if !ok {
		return netip.Addr{}, false
	}
	return netip.MustParseAddr(a), true
}

func network(pools ...string) *record.Network {
	n := &record.Network{ID: record.NetworkID(strings.Repeat("0a", 32)), Name: "front", VNI: 4096, MTU: 1450, State: record.Active}
	for _, p := range pools {
		s := netip.MustParsePrefix(p)
		n.Pools = append(n.Pools, record.Pool{Subnet: s, Gateway: s.Addr().Next()})
	}
	return n
}

func endpoint(i int, host record.HostID, addrs ...string) *record.Endpoint {
	ep := &record.Endpoint{
		ID: record.EndpointID(fmt.Sprintf("%012x%052x", i, 0)), Host: host, Name: fmt.Sprintf("c%d", i), MAC: record.MAC(fmt.Sprintf("02:42:00:00:00:%02x", i)), Running: true,
	}
	for _, a := range addrs {
		ep.Addrs = append(ep.Addrs, netip.MustParseAddr(a))
	}
	return ep
}

func portOf(ep *record.Endpoint, first bool) port.Port {
	return port.Port{Endpoint: ep, Netns: "/run/weft/" + ep.Name + "/netns", IfName: "eth0", Default: first}
}

// example is a network as this host sees it, with these endpoints; those of h1 are its ports.
func example(n *record.Network, eps ...*record.Endpoint) overlay.Network {
	out := overlay.Network{Record: n, Endpoints: eps, Hosts: vteps}
	for _, ep := range eps {
		if ep.Host == settings.Self {
			out.Ports = append(out.Ports, portOf(ep, !n.Internal))
		}
	}
	return out
}

// text lists a state, one object a line, in the order of creation.
func text(s kernel.State) string {
	var b strings.Builder
	for _, k := range slices.SortedFunc(maps.Keys(s), kernel.Key.Compare) {
		fmt.Fprint(&b, s[k])
		if h := s[k].Holds; h != "" {
			fmt.Fprint(&b, " holds ", h)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

func stopped(ep *record.Endpoint) *record.Endpoint {
	ep.Running = false
	return ep
}

func bare(ep *record.Endpoint) *record.Endpoint {
	ep.MAC, ep.Addrs = "", nil
	return ep
}

func examples() map[string]overlay.Network {
	internal := network("10.1.0.0/24")
	internal.Internal = true
	walled := network("10.1.0.0/24")
	walled.Pools[0].Gateway = netip.Addr{}
	chatty := network("10.1.0.0/24")
	chatty.Options = map[string]string{record.OptMulticast: "true"}
	six := network("10.1.0.0/24", "fd00:1::/64", "fd00:2::/64")
	return map[string]overlay.Network{
		"multicast":         example(chatty, endpoint(1, "h1", "10.1.0.2"), endpoint(2, "h2", "10.1.0.3"), endpoint(3, "h3", "10.1.0.4"), endpoint(4, "h3", "10.1.0.5")),
		"dual":              example(six, endpoint(1, "h1", "10.1.0.2", "fd00:1::2"), endpoint(2, "h1", "10.1.0.3", "fd00:2::2"), endpoint(3, "h2", "10.1.0.4", "fd00:1::3")),
		"no-port":           example(network("10.1.0.0/24"), endpoint(2, "h2", "10.1.0.3")),
		"one-port":          example(network("10.1.0.0/24"), endpoint(1, "h1", "10.1.0.2")),
		"two-ports":         example(network("10.1.0.0/24"), endpoint(1, "h1", "10.1.0.2"), endpoint(2, "h1", "10.1.0.3")),
		"two-pools":         example(network("10.1.0.0/24", "10.2.0.0/24"), endpoint(1, "h1", "10.1.0.2"), endpoint(2, "h1", "10.2.0.2"), endpoint(3, "h2", "10.2.0.3")),
		"internal":          example(internal, endpoint(1, "h1", "10.1.0.2"), endpoint(2, "h2", "10.1.0.3")),
		"no-gateway":        example(walled, endpoint(1, "h1", "10.1.0.2")),
		"remote":            example(network("10.1.0.0/24"), endpoint(1, "h1", "10.1.0.2"), endpoint(2, "h2", "10.1.0.3"), endpoint(3, "h3", "10.1.0.4"), endpoint(4, "h3", "10.1.0.5")),
		"remote-stopped":    example(network("10.1.0.0/24"), endpoint(1, "h1", "10.1.0.2"), stopped(endpoint(2, "h2", "10.1.0.3"))),
		"remote-no-vtep":    example(network("10.1.0.0/24"), endpoint(1, "h1", "10.1.0.2"), endpoint(2, "h4", "10.1.0.3")),
		"remote-no-address": example(network("10.1.0.0/24"), endpoint(1, "h1", "10.1.0.2"), bare(endpoint(2, "h2"))),
	}
}

func TestRender(t *testing.T) {
	for name, n := range examples() {
		t.Run(name, func(t *testing.T) { golden(t, name, text(overlay.Render(settings, n))) })
	}
}

// golden compares with testdata/NAME.txt, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s\n%s", path, lineDiff(string(want), got))
	}
}

func lineDiff(want, got string) string {
	var out []string
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, l := range w {
		if !slices.Contains(g, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// The same records give the same state, whatever their order, and are not changed.
func TestRenderIsPure(t *testing.T) {
	for name, n := range examples() {
		first := text(overlay.Render(settings, n))
		before := fmt.Sprintf("%+v %+v", *n.Record, n.Ports)
		turned := n
		turned.Endpoints, turned.Ports = slices.Clone(n.Endpoints), slices.Clone(n.Ports)
		slices.Reverse(turned.Endpoints)
		slices.Reverse(turned.Ports)
		if again := text(overlay.Render(settings, turned)); again != first {
			t.Errorf("%s: %s", name, lineDiff(first, again))
		}
		if after := fmt.Sprintf("%+v %+v", *n.Record, n.Ports); after != before {
			t.Errorf("%s: was changed to %s", name, after)
		}
	}
}

// What one port or one remote endpoint needs is exactly what it adds to the whole.
func TestPartsAreWhatTheyAdd(t *testing.T) {
	n := examples()["two-pools"]
	whole := overlay.Render(settings, n)
	for i, p := range n.Ports {
		without := n
		without.Ports = slices.Delete(slices.Clone(n.Ports), i, i+1)
		if got, want := text(overlay.RenderPort(settings, n, p)), text(minus(whole, overlay.Render(settings, without))); got != want {
			t.Errorf("port %d:\n%s", i, lineDiff(want, got))
		}
	}
	for i, ep := range n.Endpoints {
		without := n
		without.Endpoints = slices.Delete(slices.Clone(n.Endpoints), i, i+1)
		if got, want := text(overlay.RemotePort(settings, n, ep)), text(minus(whole, overlay.Render(settings, without))); got != want {
			t.Errorf("endpoint %d:\n%s", i, lineDiff(want, got))
		}
	}
}

func minus(a, b kernel.State) kernel.State {
	out := maps.Clone(a)
	maps.DeleteFunc(out, func(k kernel.Key, _ kernel.Object) bool { _, in := b[k]; return in })
	return out
}

// The bridge and the gateways are the same on every host: a sandbox that moves keeps its neighbours. The tunnel's end is each host's own.
func TestHostsShareABridge(t *testing.T) {
	n := network("10.1.0.0/24")
	on := func(h record.HostID) kernel.State {
		s := settings
		s.Self = h
		return overlay.Render(s, overlay.Network{Record: n, Ports: []port.Port{portOf(endpoint(1, h, "10.1.0.2"), true)}, Hosts: vteps})
	}
	a, b := on("h1"), on("h2")
	for k, o := range a {
		switch same := b[k].Spec != nil && o.Spec.Equal(b[k].Spec); {
		case k.Kind == kernel.KindBridge && !same, k.Kind == kernel.KindAddr && !same:
			t.Errorf("%v is %v and %v", k, o.Spec, b[k].Spec)
		case k.Kind == kernel.KindVXLAN && o.Spec.(kernel.VXLAN).MAC == b[k].Spec.(kernel.VXLAN).MAC:
			t.Errorf("%v has one hardware address on both", k)
		}
	}
}

// Names of interfaces fit (IFNAMSIZ, 15 bytes), and two networks share none in the host.
func TestNamesFit(t *testing.T) {
	seen := map[string]bool{}
	for i := range 50 {
		id := record.NetworkID(fmt.Sprintf("%02x%062x", i, i))
		name := port.UplinkName(id)
		if seen[name] || len(name) > 15 || !strings.HasPrefix(name, "weft") {
			t.Errorf("uplink %q", name)
		}
		seen[name] = true
	}
	for k := range overlay.Render(settings, examples()["two-ports"]) {
		if k.Kind >= kernel.KindBridge && k.Kind <= kernel.KindVeth && len(k.Link) > 15 {
			t.Errorf("%q", k.Link)
		}
	}
}
