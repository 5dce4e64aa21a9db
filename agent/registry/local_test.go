package registry_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// newLocal is the registry of one host's own networks, beside the picture of a cluster, on a host with routes.
func newLocal(t *testing.T, cluster *record.Snapshot, routes ...string) *host {
	t.Helper()
	h := newHost(t, memory.New(), "self")
	var rs []record.Route
	for _, r := range routes {
		rs = append(rs, record.Route{Prefix: netip.MustParsePrefix(r), Link: "eth7"})
	}
	h.Registry = registry.New(registry.Config{
		Store: h.st, Now: time.Now, Picture: func() *record.Snapshot { return h.picture }, Local: true,
		Beside: func() *record.Snapshot { return cluster }, Routes: func() ([]record.Route, error) { return rs, nil },
		HostName: func(record.HostID) string { return "here" }, Underlay: func() int { return 1400 },
	})
	return h
}

func local(name string, options ...string) registry.NetworkSpec {
	s := registry.NetworkSpec{Name: name, Driver: "bridge", Options: map[string]string{}}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		s.Options[k] = v
	}
	return s
}

// clusterWith is the picture of a cluster with one network.
func clusterWith(t *testing.T, name, subnet string) *record.Snapshot {
	t.Helper()
	h := newHost(t, memory.New(), "other")
	create(t, h, spec(name, subnet))
	h.look(t)
	return h.picture
}

func TestLocalPoolsAreDockers(t *testing.T) {
	h := newLocal(t, clusterWith(t, "far", "172.18.5.0/24"), "172.17.128.0/24")
	want := []string{}
	for i := 19; i <= 31; i++ { // 17 is a route of this host, 18 overlaps a pool of the cluster
		want = append(want, fmt.Sprintf("172.%d.0.0/16", i))
	}
	want = append(want, "192.168.0.0/20", "192.168.16.0/20")
	for i, w := range want {
		n := create(t, h, local(fmt.Sprint("n", i)))
		h.look(t)
		p := n.Pools[0]
		if p.Subnet.String() != w || p.Gateway != p.Subnet.Addr().Next() || !p.Auto {
			t.Errorf("network %d has %+v, want %s", i, p, w)
		}
		if n.Scope != "local" || n.Driver != "bridge" || n.VNI != 0 || n.MTU != 1400 || n.State != record.Active {
			t.Errorf("network %d is %+v", i, n)
		}
	}
}

func TestLocalNetworksAreRefused(t *testing.T) {
	cluster := clusterWith(t, "far", "10.5.0.0/24")
	with := func(s registry.NetworkSpec, subnets ...string) registry.NetworkSpec {
		s.Subnets = subnets
		return s
	}
	six := with(local("x"), "172.30.0.0/24", "fd00:1::/64", "fd00:2::/64")
	six.IPv6 = true
	const name, host = registry.OptBridgeName, registry.OptHostBinding
	for what, tc := range map[string]struct {
		spec registry.NetworkSpec
		kind registry.Kind
		want string
	}{
		"a name of this host":      {local("Home"), registry.Exists, "network with name Home already exists"},
		"a name of the cluster":    {local("far"), registry.Exists, "network with name far already exists"},
		"a built-in name":          {local("bridge"), registry.Exists, "network with name bridge already exists"},
		"a pool of the cluster":    {with(local("x"), "10.5.0.0/16"), registry.Invalid, "Pool overlaps with other one on this address space: 10.5.0.0/16 overlaps 10.5.0.0/24 of network far"},
		"a pool of this host":      {with(local("x"), "172.17.9.0/24"), registry.Invalid, "overlaps 172.17.0.0/16 of network home"},
		"a route of this host":     {with(local("x"), "192.0.2.0/25"), registry.Invalid, "overlaps the route to 192.0.2.0/24 of this host (interface eth7)"},
		"two subnets":              {with(local("x"), "172.30.0.0/24", "172.30.1.0/24"), registry.Invalid, "bridge driver doesn't support multiple subnets"},
		"two IPv6 subnets":         {six, registry.Invalid, "bridge driver doesn't support multiple subnets"},
		"a bridge of another":      {local("x", name+"=dmz"), registry.Exists, "bridge name dmz (option " + name + ") is taken by network home"},
		"a bridge's name too long": {local("x", name+"=bridge0123456789"), registry.Invalid, "1 to 15"},
		"a bridge's name, form":    {local("x", name+"=a/b"), registry.Invalid, "names an interface"},
		"no bridge's name":         {local("x", name+"="), registry.Invalid, "names an interface"},
		"interfaces' names":        {local("x", registry.OptIfPrefix+"=much_too_long"), registry.Invalid, "1 to 12"},
		"no bool":                  {local("x", registry.OptMasquerade+"=maybe"), registry.Invalid, "it must be true or false"},
		"icc no bool":              {local("x", registry.OptICC+"=2"), registry.Invalid, "it must be true or false"},
		"no address":               {local("x", host+"=eth0"), registry.Invalid, "it must be an IPv4 address"},
		"an IPv6 host binding":     {local("x", host+"=::1"), registry.Invalid, "it must be an IPv4 address"},
		"an MTU":                   {local("x", registry.OptMTU+"=12"), registry.Invalid, "a number of bytes"},
		"Docker's, not known":      {local("x", "com.docker.network.bridge.trusted_host_interfaces=eth0"), registry.Unsupported, "option com.docker.network.bridge.trusted_host_interfaces is unknown or not supported yet by the bridge driver"},
		"weft's, not known":        {local("x", "weft.speed=9"), registry.Unsupported, "option weft.speed is unknown"},
		"the default network's":    {local("x", registry.OptDefault+"=true"), registry.Unsupported, "unknown or not supported"},
	} {
		t.Run(what, func(t *testing.T) {
			h := newLocal(t, cluster, "192.0.2.0/24")
			create(t, h, local("home", name+"=dmz"))
			h.look(t)
			_, _, _, err := h.CreateNetwork(t.Context(), h.as, tc.spec)
			if registry.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			check(t, h.st)
		})
	}
}

func TestOptionsAreForTheirDriver(t *testing.T) {
	h := newHost(t, memory.New(), "self")
	_, _, _, err := h.CreateNetwork(t.Context(), h.as, registry.NetworkSpec{Name: "x", Options: map[string]string{registry.OptBridgeName: "b0"}})
	if registry.KindOf(err) != registry.Invalid || !strings.Contains(err.Error(), "is for networks of driver bridge") {
		t.Error(err)
	}
	kept := newLocal(t, record.Empty())
	n := create(t, kept, local("y", "org.example.tier=3", registry.OptHostBinding+"=0.0.0.0", registry.OptICC+"=false", registry.OptIfPrefix+"=net"))
	if n.Options["org.example.tier"] != "3" || n.Options[registry.OptICC] != "false" {
		t.Errorf("the options are %v", n.Options)
	}
}

// A configuration network takes nothing from anybody: its pools may be another's, and are as they were given.
func TestAConfigurationNetworkHoldsSettings(t *testing.T) {
	h := newLocal(t, record.Empty())
	create(t, h, registry.NetworkSpec{Name: "home", Driver: "bridge", Subnets: []string{"172.30.0.0/16"}})
	h.look(t)
	c := create(t, h, registry.NetworkSpec{
		Name: "conf", ConfigOnly: true, Subnets: []string{"172.30.0.0/16", "172.31.0.0/16"}, Gateways: []string{"172.31.0.9"}, Labels: map[string]string{"tier": "front"},
	})
	h.look(t)
	if !c.ConfigOnly || c.Driver != "null" || c.Scope != "local" || len(c.Pools) != 2 || c.Pools[0].Gateway.IsValid() || c.Pools[1].Gateway.String() != "172.31.0.9" || c.Labels["tier"] != "front" {
		t.Errorf("%+v", c)
	}
	if n := create(t, h, registry.NetworkSpec{Name: "other", Driver: "bridge", Subnets: []string{"172.31.0.0/16"}, ConfigFrom: "conf"}); n.ConfigFrom != "conf" || n.IsLocal() == c.IsLocal() {
		t.Errorf("%+v", n)
	}
	h.look(t)
	if _, err := h.RemoveNetwork(t.Context(), h.as, c.ID); err != nil {
		t.Error(err)
	}
	check(t, h.st)
}

// What a killed agent left half removed, the next one finishes: alone as it is.
func TestAHalfRemovedLocalNetworkGoes(t *testing.T) {
	h := newLocal(t, record.Empty())
	n := create(t, h, local("home"))
	h.look(t)
	half := *n
	half.State, half.Deleter = record.Deleting, &record.Deleter{Host: h.as.Host, Incarnation: h.as.Incarnation}
	put(t, h.st, record.NetworkKey(n.ID), &half)
	h.look(t)
	if err := h.FinishRemoval(t.Context(), h.as, n.ID); err != nil {
		t.Fatal(err)
	}
	h.look(t)
	if _, there := h.picture.Network(n.ID); there {
		t.Error("it is still there")
	}
	check(t, h.st)
}

func FuzzOptions(f *testing.F) {
	f.Add(registry.OptBridgeName, "br0")
	f.Add(registry.OptHostBinding, "192.0.2.1")
	f.Add(registry.OptMTU, "1500")
	f.Fuzz(func(t *testing.T, k, v string) {
		h := newHost(t, memory.New(), "self")
		h.Registry = registry.New(registry.Config{Store: h.st, Now: time.Now, Picture: func() *record.Snapshot { return h.picture }, Local: true})
		n, _, _, err := h.CreateNetwork(t.Context(), h.as, registry.NetworkSpec{Name: "x", Driver: "bridge", Options: map[string]string{k: v}})
		if err == nil && len(n.Bridge()) > 15 {
			t.Errorf("%q=%q makes the bridge %q", k, v, n.Bridge())
		}
	})
}

func put(t *testing.T, s store.Store, k store.Key, r any) {
	t.Helper()
	b, err := record.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(k, b)}}); err != nil {
		t.Fatal(err)
	}
}
