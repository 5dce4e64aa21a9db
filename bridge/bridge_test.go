package bridge_test

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

	"weft/bridge"
	"weft/ipam"
	"weft/kernel"
	"weft/port"
	"weft/store/record"
)

var update = flag.Bool("update", false, "write what is rendered into testdata")

// network is a local network with some pools, whose gateways are their first addresses.
func network(i int, options map[string]string, pools ...string) *record.Network {
	n := &record.Network{
		ID: record.NetworkID(fmt.Sprintf("%012x%052x", i, 0)), Name: fmt.Sprintf("n%d", i), Driver: "bridge", Scope: "local", MTU: 1500, Options: options, State: record.Active,
	}
	for _, p := range pools {
		s := netip.MustParsePrefix(p)
		n.Pools = append(n.Pools, record.Pool{Subnet: s, Gateway: s.Addr().Next()})
	}
	return n
}

func endpoint(i int, n *record.Network, addrs ...string) *record.Endpoint {
	ep := &record.Endpoint{ID: record.EndpointID(fmt.Sprintf("%012x%052x", i, 0)), Network: n.ID, Name: fmt.Sprintf("c%d", i), Running: true}
	for _, a := range addrs {
		ep.Addrs = append(ep.Addrs, netip.MustParseAddr(a))
	}
	ep.MAC = record.MAC(ipam.MAC(ep.Addrs[0]))
	return ep
}

func portOf(ep *record.Endpoint) port.Port {
	return port.Port{Endpoint: ep, Netns: "/run/weft/" + ep.Name + "/netns", IfName: "eth0", Default: true, Default6: true}
}

// text lists a state, one object a line, in the order of creation.
func text(s kernel.State) string {
	var b strings.Builder
	for _, k := range slices.SortedFunc(maps.Keys(s), kernel.Key.Compare) {
		fmt.Fprintln(&b, s[k])
	}
	return b.String()
}

func internal(n *record.Network) *record.Network {
	n.Internal = true
	return n
}

func TestRender(t *testing.T) {
	plain, dual := network(1, nil, "172.18.0.0/16"), network(2, nil, "172.19.0.0/16", "fd00:19::/64")
	closed := network(3, map[string]string{record.OptICC: "false", record.OptBridgeName: "mine0"}, "172.20.0.0/16")
	for name, n := range map[string]bridge.Network{
		"empty":    {Record: plain},
		"one-port": {Record: plain, Ports: []port.Port{portOf(endpoint(1, plain, "172.18.0.2"))}},
		"dual":     {Record: dual, Ports: []port.Port{portOf(endpoint(1, dual, "172.19.0.2", "fd00:19::2"))}},
		"closed": {Record: closed, Ports: []port.Port{portOf(endpoint(1, closed, "172.20.0.2"))}, Talks: []bridge.Talk{
			{From: netip.MustParseAddr("172.20.0.3"), To: netip.MustParseAddr("172.20.0.2"), Proto: "tcp", Port: 80},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			all := bridge.Render(n)
			golden(t, name, text(all))
			for _, p := range n.Ports {
				for k, o := range bridge.RenderPort(n, p) {
					if w, ok := all[k]; !ok || !w.Spec.Equal(o.Spec) {
						t.Errorf("the port alone has %v", o)
					}
				}
			}
		})
	}
}

func TestRenderHost(t *testing.T) {
	published := func(at string, hostPort uint16, target string, port uint16) bridge.Published {
		return bridge.Published{
			Binding: record.PortBinding{Proto: "tcp", HostAddr: netip.MustParseAddr(at), HostPort: hostPort, Port: port}, Target: netip.MustParseAddr(target),
		}
	}
	locals := []bridge.Network{
		{Record: network(1, nil, "172.18.0.0/16")},
		{Record: network(2, map[string]string{record.OptMasquerade: "false"}, "172.19.0.0/16", "fd00:19::/64")},
		{Record: network(3, map[string]string{record.OptICC: "false"}, "172.20.0.0/16")},
		{Record: internal(network(4, nil, "172.21.0.0/16"))},
	}
	over, inner := network(5, nil, "10.1.0.0/24", "fd00:5::/64"), internal(network(6, nil, "10.2.0.0/24"))
	over.Driver, inner.Driver = "overlay", "overlay"
	pools := []netip.Prefix{
		netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00:19::/64"), {},
	}
	host := bridge.RenderHost(bridge.Host{
		Locals: locals, Overlays: []*record.Network{over, inner}, Pools: pools, VXLANPort: 4789,
		VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), {}},
		Published: []bridge.Published{
			published("0.0.0.0", 8080, "172.18.0.2", 80), published("::", 8080, "fd00:19::2", 80), published("192.0.2.1", 8081, "172.18.0.2", 81),
			published("2001:db8::1", 8081, "fd00:19::2", 81), published("127.0.0.1", 8082, "172.18.0.2", 82), published("::", 8083, "172.18.0.2", 83),
		},
	})
	golden(t, "host", text(host))
	if got, want := bridge.Links(host), []string{"br-000000000001", "br-000000000002", "br-000000000003", "br-000000000004", "weft0000000000"}; !slices.Equal(got, want) {
		t.Errorf("links %v", got)
	}
	if got := bridge.RenderHost(bridge.Host{Pools: pools}); len(got) > 0 {
		t.Errorf("without a network here: %s", text(got))
	}
}

// golden compares with testdata/NAME.txt, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}
