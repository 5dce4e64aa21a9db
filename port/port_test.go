package port_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/kernel"
	"weft/port"
	"weft/store/record"
)

func network(pools ...string) *record.Network {
	n := &record.Network{ID: record.NetworkID(strings.Repeat("0a", 32)), Name: "front", MTU: 1450, State: record.Active}
	for _, p := range pools {
		s := netip.MustParsePrefix(p)
		n.Pools = append(n.Pools, record.Pool{Subnet: s, Gateway: s.Addr().Next()})
	}
	return n
}

func endpoint(addrs ...string) *record.Endpoint {
	ep := &record.Endpoint{ID: record.EndpointID(fmt.Sprintf("%012x%052x", 1, 0)), Name: "c1", MAC: "02:42:00:00:00:01", Running: true}
	for _, a := range addrs {
		ep.Addrs = append(ep.Addrs, netip.MustParseAddr(a))
	}
	return ep
}

// inSandbox lists what is in the sandbox itself, in the order of creation.
func inSandbox(s kernel.State) []string {
	var out []string
	for _, k := range slices.SortedFunc(maps.Keys(s), kernel.Key.Compare) {
		if k.NS == "/box" && k.Kind != kernel.KindConf {
			out = append(out, fmt.Sprint(s[k]))
		}
	}
	return out
}

func TestRenderGivesTheSandboxItsAddressesAndRoutes(t *testing.T) {
	walled := network("10.1.0.0/24")
	walled.Pools[0].Gateway = netip.Addr{}
	for name, tc := range map[string]struct {
		n    *record.Network
		p    port.Port
		want []string
	}{
		"one address": {
			network("10.1.0.0/24"), port.Port{Endpoint: endpoint("10.1.0.2"), Default: true},
			[]string{"addr /box eth0 10.1.0.2/24 addr", "route /box eth0 0.0.0.0/0 via 10.1.0.1"},
		},
		"the default route is another network's": {
			network("10.1.0.0/24"), port.Port{Endpoint: endpoint("10.1.0.2")},
			[]string{"addr /box eth0 10.1.0.2/24 addr"},
		},
		"no gateway": {
			walled, port.Port{Endpoint: endpoint("10.1.0.2"), Default: true},
			[]string{"addr /box eth0 10.1.0.2/24 addr"},
		},
		"another pool of the family": {
			network("10.1.0.0/24", "10.2.0.0/24", "fd00:1::/64"), port.Port{Endpoint: endpoint("10.1.0.2")},
			[]string{"addr /box eth0 10.1.0.2/24 addr", "route /box eth0 10.2.0.0/24 via 10.1.0.1"},
		},
		"both families, each with its default route": {
			network("10.1.0.0/24", "fd00:1::/64"), port.Port{Endpoint: endpoint("10.1.0.2", "fd00:1::2"), Default: true, Default6: true},
			[]string{
				"addr /box eth0 10.1.0.2/24 addr", "addr /box eth0 fd00:1::2/64 addr",
				"route /box eth0 0.0.0.0/0 via 10.1.0.1", "route /box eth0 ::/0 via fd00:1::1",
			},
		},
		"by source": {
			network("10.1.0.0/24", "fd00:1::/64"), port.Port{Endpoint: endpoint("10.1.0.2", "fd00:1::2"), BySource: true},
			[]string{
				"addr /box eth0 10.1.0.2/24 addr", "addr /box eth0 fd00:1::2/64 addr",
				"route /box eth0 0.0.0.0/0 table TABLE via 10.1.0.1", "route /box eth0 10.1.0.0/24 table TABLE link",
				"route /box eth0 ::/0 table TABLE via fd00:1::1", "route /box eth0 fd00:1::/64 table TABLE link",
				"rule /box from 10.1.0.2 table TABLE priority 32000 rule", "rule /box from fd00:1::2 table TABLE priority 32000 rule",
			},
		},
		"an address of no pool": {network("10.1.0.0/24"), port.Port{Endpoint: endpoint("10.9.0.2"), Default: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table := fmt.Sprint(port.Table(tc.p.Endpoint.ID))
			for i, line := range tc.want {
				tc.want[i] = strings.ReplaceAll(line, "TABLE", table)
			}
			out := kernel.State{}
			tc.p.Netns, tc.p.IfName = "/box", "eth0"
			port.Render(out, tc.n, port.Place{NS: "/net", At: kernel.Port{Master: "br0"}}, tc.p)
			if got := inSandbox(out); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			pair, ok := out[kernel.Key{Kind: kernel.KindVeth, NS: "/net", Link: "ep000000000001"}].Spec.(kernel.Veth)
			if !ok || pair.Peer != (kernel.Peer{NS: "/box", Name: "eth0", MAC: "02:42:00:00:00:01"}) || pair.At.Master != "br0" {
				t.Errorf("the pair is %v", pair)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	for name, tc := range map[string]struct {
		p    port.Port
		want map[string]string
	}{
		"IPv4 alone": {port.Port{Endpoint: endpoint("10.1.0.2")}, map[string]string{}},
		"both": {
			port.Port{Endpoint: endpoint("10.1.0.2", "fd00:1::2")},
			map[string]string{"ipv6/conf/disable_ipv6": "0", "ipv6/conf/accept_dad": "0", "ipv6/conf/accept_ra": "0", "ipv6/conf/accept_redirects": "0"},
		},
		"asked for": {
			port.Port{Endpoint: endpoint("10.1.0.2"), Settings: map[string]string{"ipv4/conf/log_martians": "1"}},
			map[string]string{"ipv4/conf/log_martians": "1"},
		},
	} {
		out := kernel.State{}
		tc.p.Netns, tc.p.IfName = "/box", "eth0"
		port.Render(out, network("10.1.0.0/24", "fd00:1::/64"), port.Place{NS: "/net"}, tc.p)
		got := map[string]string{}
		for k, o := range out {
			if k.Kind == kernel.KindConf {
				got[k.Dst] = o.Spec.(kernel.Conf).Value
			}
		}
		if !maps.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// Tables of different endpoints are different, and weft's own.
func TestTables(t *testing.T) {
	seen := map[uint32]int{}
	for i := range 500 {
		n := port.Table(record.EndpointID(fmt.Sprintf("%064x", i)))
		if other, twice := seen[n]; twice || n < kernel.FirstTable || n > kernel.LastTable {
			t.Errorf("endpoint %d has table %x, as %d has", i, n, other)
		}
		seen[n] = i
	}
}
