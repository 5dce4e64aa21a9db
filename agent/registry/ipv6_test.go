package registry_test

import (
	"context"
	"net/netip"
	"testing"

	"weft/agent/registry"
	"weft/ipam"
	"weft/store/memory"
	"weft/store/record"
)

// Each family that a network is to have gets a pool: the user's, or one that is chosen; automatic IPv6 pools are cut from the cluster's ULA.
func TestDualStackNetworksGetAPoolOfEachFamily(t *testing.T) {
	h, id := clusterAt(t, "192.0.2.1")
	ula := ipam.ULA(id)
	for _, tc := range []struct {
		name    string
		subnets []string
		want    []string
		auto    []bool
	}{
		{"neither", nil, []string{"10.0.0.0/24", sub64(ula, 0)}, []bool{true, true}},
		{"v4", []string{"10.9.0.0/24"}, []string{"10.9.0.0/24", sub64(ula, 1)}, []bool{false, true}},
		{"v6", []string{"fd00:9::/64"}, []string{"10.0.1.0/24", "fd00:9::/64"}, []bool{true, false}},
		{"both", []string{"10.8.0.0/24", "fd00:8::/112"}, []string{"10.8.0.0/24", "fd00:8::/112"}, []bool{false, false}},
	} {
		n := create(t, h, registry.NetworkSpec{Name: tc.name, IPv6: true, Subnets: tc.subnets})
		h.look(t)
		if len(n.Pools) != len(tc.want) || !n.IPv6 {
			t.Fatalf("%s: %+v", tc.name, n)
		}
		for i, p := range n.Pools {
			if p.Subnet.String() != tc.want[i] || p.Auto != tc.auto[i] || p.Gateway != p.Subnet.Addr().Next() {
				t.Errorf("%s: pool %d is %+v, want %s", tc.name, i, p, tc.want[i])
			}
		}
	}
	if _, _, _, err := h.CreateNetwork(t.Context(), h.as, registry.NetworkSpec{Name: "x", IPv6: true, Subnets: []string{"fd00:8::/96"}}); registry.KindOf(err) != registry.Invalid {
		t.Errorf("an overlap of IPv6 pools: %v", err)
	}
}

func TestTheMTUFollowsFromTheFamilyOfTheUnderlay(t *testing.T) {
	for vtep, want := range map[string]int{"192.0.2.1": 1450, "2001:db8::1": 1430} {
		h, _ := clusterAt(t, vtep)
		if n := create(t, h, registry.NetworkSpec{Name: "net"}); n.MTU != want {
			t.Errorf("over %s: %d, want %d", vtep, n.MTU, want)
		}
	}
}

func sub64(ula netip.Prefix, i byte) string {
	b := ula.Addr().As16()
	b[7] = i
	return netip.PrefixFrom(netip.AddrFrom16(b), 64).String()
}

// clusterAt is a cluster of one registered host, and the cluster's ID.
func clusterAt(t *testing.T, vtep string) (*host, string) {
	t.Helper()
	h := newHost(t, memory.New(), "h1")
	c, err := h.EnsureCluster(context.Background(), record.Cluster{ID: "c0ffee", VXLANPort: 4789})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.RegisterHost(t.Context(), record.Host{ID: "h1", Name: "alpha", VTEP: netip.MustParseAddr(vtep), Incarnation: 1, MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	h.look(t)
	return h, c.ID
}
