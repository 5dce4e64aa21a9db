package api_test

import (
	"errors"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/api"
	"weft/agent/registry"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

var plain = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreUnexported(record.Sandbox{}), cmpopts.EquateEmpty()}

func adr(s string) netip.Addr { return netip.MustParseAddr(s) }

func same(t *testing.T, got, want proto.Message) {
	t.Helper()
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

func asked(t *testing.T, f *fake, want any) {
	t.Helper()
	if d := cmp.Diff(want, f.asked, plain, cmp.AllowUnexported(created{}, connected{}, disconnected{}, stopped{}, renamed{}, removed{}, awaited{})); d != "" {
		t.Error(d)
	}
}

func TestANetworkRequestIsPassedOnWhole(t *testing.T) {
	f := &fake{}
	r, err := networks(t, f).CreateNetwork(t.Context(), &weftv1.CreateNetworkRequest{
		Name: "front", Driver: "overlay", Subnets: []string{"10.1.0.0/24"}, Gateways: []string{"10.1.0.1"}, IpRanges: []string{"10.1.0.0/25"},
		AuxAddresses: map[string]string{"nas": "10.1.0.9"}, Options: map[string]string{"o": "1"}, Labels: map[string]string{"l": "2"}, IpamDriver: "default",
		IpamOptions: map[string]string{"i": "3"}, Internal: true, Ipv6: true, Attachable: true, Ingress: true, Scope: "global", ConfigOnly: true, ConfigFrom: "base",
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, r, &weftv1.CreateNetworkResponse{Id: "n1", Warnings: []string{"careful"}})
	asked(t, f, api.NetworkRequest{
		Spec: registry.NetworkSpec{
			Name: "front", Driver: "overlay", Internal: true, IPv6: true, Subnets: []string{"10.1.0.0/24"}, Gateways: []string{"10.1.0.1"}, IPRanges: []string{"10.1.0.0/25"},
			Aux: map[string]string{"nas": "10.1.0.9"}, Options: map[string]string{"o": "1"}, Labels: map[string]string{"l": "2"}, IPAMOpts: map[string]string{"i": "3"},
		},
		Ingress: true, ConfigOnly: true, ConfigFrom: "base", IPAMDriver: "default", Scope: "global", Attachable: true,
	})
}

func TestASandboxRequestIsPassedOnWhole(t *testing.T) {
	f := &fake{}
	s := sandboxes(t, f)
	r, err := s.CreateSandbox(t.Context(), &weftv1.CreateSandboxRequest{
		Name: "c1", Command: []string{"sh", "-c"}, Env: []string{"A=b"}, Hostname: "h", User: "u", Workdir: "/w", Tty: true, Stdin: true, AutoRemove: true,
		Detached: true, Once: true, NetworkMode: "none", Dns: []string{"192.0.2.53", "fd00::53"}, DnsSearch: []string{"d"}, DnsOptions: []string{"ndots:0"},
		ExtraHosts: []string{"x:192.0.2.1"}, Labels: map[string]string{"l": "2"},
		Attachments: []*weftv1.Attachment{{
			Network: "front", Ip: "10.1.0.2", Ip6: "fd00::2", Aliases: []string{"web", "api"}, VipAliases: []string{"api"}, Links: []*weftv1.Link{{Target: "db", Alias: "base"}},
			DriverOptions: map[string]string{"d": "1"}, GwPriority: -3, MacAddress: "02:42:0a:01:00:02",
		}, nil},
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, r, &weftv1.CreateSandboxResponse{Id: "s1", Name: "made-up"})
	asked(t, f, created{
		record.Sandbox{
			Name: "c1", Command: []string{"sh", "-c"}, Env: []string{"A=b"}, Hostname: "h", User: "u", Workdir: "/w", TTY: true, Stdin: true, AutoRemove: true,
			Detached: true, Once: true, NetworkMode: "none", DNS: []netip.Addr{adr("192.0.2.53"), adr("fd00::53")}, DNSSearch: []string{"d"}, DNSOptions: []string{"ndots:0"},
			ExtraHosts: []string{"x:192.0.2.1"}, Labels: map[string]string{"l": "2"},
		},
		[]api.AttachmentRequest{{
			Network: "front", IP: "10.1.0.2", IP6: "fd00::2", Aliases: []string{"web", "api"}, VIPAliases: []string{"api"}, Links: []record.Link{{Target: "db", Alias: "base"}},
			DriverOpts: map[string]string{"d": "1"}, GwPriority: -3, MAC: "02:42:0a:01:00:02",
		}, {}},
	})
	f.asked = nil
	_, err = s.CreateSandbox(t.Context(), &weftv1.CreateSandboxRequest{Dns: []string{"resolver"}})
	if st := status.Convert(err); st.Code() != codes.InvalidArgument || st.Message() != "resolver is not an IP address (--dns)" || f.asked != nil {
		t.Errorf("got %v, and the backend was asked %v", err, f.asked)
	}
}

// The small calls: what is asked of the backend, and what comes back.
func TestCallsArePassedOn(t *testing.T) {
	f := &fake{networks: []api.NetworkView{front()}, sandboxes: []api.SandboxView{c1()}}
	c := client(t, f)
	n, s, k := weftv1.NewNetworksClient(c), weftv1.NewSandboxesClient(c), weftv1.NewClusterClient(c)
	ctx := t.Context()
	for name, tc := range map[string]struct {
		call func() (proto.Message, error)
		ask  any
		want proto.Message // nil: looked at elsewhere
	}{
		"network rm": {func() (proto.Message, error) { return n.RemoveNetwork(ctx, &weftv1.RemoveNetworkRequest{Ref: "front"}) },
			"front", &weftv1.RemoveNetworkResponse{Id: "n1", Name: "front"}},
		"network inspect": {func() (proto.Message, error) {
			return n.InspectNetwork(ctx, &weftv1.InspectNetworkRequest{Ref: "front"})
		}, "front", nil},
		"connect": {func() (proto.Message, error) {
			return n.Connect(ctx, &weftv1.ConnectRequest{Target: "c1", Attachment: &weftv1.Attachment{Network: "front"}})
		}, connected{"c1", "front"}, &weftv1.ConnectResponse{EndpointId: "e1"}},
		"connect to nothing": {func() (proto.Message, error) { return n.Connect(ctx, &weftv1.ConnectRequest{Target: "c1"}) },
			connected{"c1", ""}, &weftv1.ConnectResponse{EndpointId: "e1"}},
		"disconnect": {func() (proto.Message, error) {
			return n.Disconnect(ctx, &weftv1.DisconnectRequest{Network: "front", Target: "c1", Force: true, Live: true})
		}, disconnected{"front", "c1", api.Disconnection{Force: true, Live: true}}, &weftv1.DisconnectResponse{}},
		"start": {func() (proto.Message, error) { return s.StartSandbox(ctx, &weftv1.StartSandboxRequest{Ref: "c1"}) },
			"c1", &weftv1.StartSandboxResponse{Id: "s1", Name: "c1"}},
		"stop, as it comes": {func() (proto.Message, error) { return s.StopSandbox(ctx, &weftv1.StopSandboxRequest{Ref: "c1"}) },
			stopped{"c1", 0, nil}, &weftv1.StopSandboxResponse{Id: "s1", Name: "c1"}},
		"stop, at once": {func() (proto.Message, error) {
			return s.StopSandbox(ctx, &weftv1.StopSandboxRequest{Ref: "c1", Signal: int32(syscall.SIGINT), Timeout: durationpb.New(0)})
		}, stopped{"c1", syscall.SIGINT, new(time.Duration)}, &weftv1.StopSandboxResponse{Id: "s1", Name: "c1"}},
		"restart": {func() (proto.Message, error) {
			return s.RestartSandbox(ctx, &weftv1.RestartSandboxRequest{Ref: "c1", Signal: int32(syscall.SIGINT), Timeout: durationpb.New(time.Second)})
		}, stopped{"c1", syscall.SIGINT, new(time.Second)}, &weftv1.RestartSandboxResponse{Id: "s1", Name: "c1"}},
		"rename": {func() (proto.Message, error) {
			return s.RenameSandbox(ctx, &weftv1.RenameSandboxRequest{Ref: "c1", Name: "c2"})
		}, renamed{"c1", "c2"}, &weftv1.RenameSandboxResponse{Id: "s1", Name: "c2"}},
		"kill": {func() (proto.Message, error) {
			return s.SignalSandbox(ctx, &weftv1.SignalSandboxRequest{Ref: "c1", Signal: 9})
		},
			stopped{ref: "c1", signal: syscall.SIGKILL}, &weftv1.SignalSandboxResponse{}},
		"wait": {func() (proto.Message, error) { return s.WaitSandbox(ctx, &weftv1.WaitSandboxRequest{Ref: "c1"}) },
			"c1", &weftv1.WaitSandboxResponse{Exit: &weftv1.Exit{Code: 137, Error: "killed"}}},
		"rm": {func() (proto.Message, error) {
			return s.RemoveSandbox(ctx, &weftv1.RemoveSandboxRequest{Ref: "c1", Force: true})
		},
			removed{"c1", true}, &weftv1.RemoveSandboxResponse{Id: "s1", Name: "c1"}},
		"inspect": {func() (proto.Message, error) { return s.InspectSandbox(ctx, &weftv1.InspectSandboxRequest{Ref: "c1"}) },
			"c1", nil},
		"wait for a revision": {func() (proto.Message, error) {
			return k.WaitApplied(ctx, &weftv1.WaitAppliedRequest{Partition: "meta", Revision: 1 << 40})
		}, awaited{"meta", 1 << 40}, &weftv1.WaitAppliedResponse{}},
	} {
		t.Run(name, func(t *testing.T) {
			f.asked, f.err = nil, nil
			got, err := tc.call()
			if err != nil {
				t.Fatal(err)
			}
			if tc.want != nil {
				same(t, got, tc.want)
			}
			asked(t, f, tc.ask)
			f.err = api.Refuse(api.InUse, "no")
			if _, err := tc.call(); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("the backend refuses, the caller hears %v", err)
			}
		})
	}
}

var born = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func front() api.NetworkView {
	n := &record.Network{
		ID: "n1", Name: "front", Driver: "overlay", Scope: "global", Created: born, VNI: 4096, MTU: 1450, Internal: true, State: record.Active,
		Options: map[string]string{"o": "1"}, Labels: map[string]string{"l": "2", "only": ""}, IPAMOpts: map[string]string{"i": "3"},
		Pools: []record.Pool{
			{Subnet: netip.MustParsePrefix("10.1.0.0/24"), Gateway: adr("10.1.0.1"), IPRange: netip.MustParsePrefix("10.1.0.0/25"), Aux: map[string]netip.Addr{"nas": adr("10.1.0.9")}},
			{Subnet: netip.MustParsePrefix("10.2.0.0/16")},
		},
	}
	return api.NetworkView{Network: n, Known: true, Endpoints: []api.EndpointView{e1(n)}, Peers: []api.HostView{{
		Host:  &record.Host{ID: "h1", Name: "alpha", Advertise: "192.0.2.1:2376", VTEP: adr("192.0.2.1"), Incarnation: 2, Version: "v1", MTU: 1500, Started: born},
		State: "alive", Self: true, Notes: []string{"note"},
	}}}
}

func e1(n *record.Network) api.EndpointView {
	return api.EndpointView{
		Endpoint: &record.Endpoint{
			ID: "e1", Network: "n1", Host: "h1", Sandbox: "s1", Name: "c1", Hostname: "h", Aliases: []string{"web"}, Links: []record.Link{{Target: "db", Alias: "base"}},
			Addrs: []netip.Addr{adr("10.1.0.2"), adr("192.0.2.7")}, Static: true, MAC: "02:42:0a:01:00:02", Running: true,
		},
		Network: n, HostName: "alpha", State: "running",
	}
}

var e1Proto = &weftv1.Endpoint{
	Id: "e1", NetworkId: "n1", NetworkName: "front", HostId: "h1", Host: "alpha", SandboxId: "s1", Name: "c1", Hostname: "h", Aliases: []string{"web"},
	Links:      []*weftv1.Link{{Target: "db", Alias: "base"}},
	Addresses:  []string{"10.1.0.2/24", "192.0.2.7/32"}, // of the second no pool is known
	MacAddress: "02:42:0a:01:00:02", Running: true, State: "running", Static: true, Gateway: "10.1.0.1",
}

var h1Proto = &weftv1.Host{
	Id: "h1", Name: "alpha", Advertise: "192.0.2.1:2376", Vtep: "192.0.2.1", Incarnation: 2, Version: "v1", State: "alive", Self: true,
	Started: timestamppb.New(born), Mtu: 1500, Notes: []string{"note"},
}

func TestANetworkIsShownWhole(t *testing.T) {
	v := front()
	f := &fake{networks: []api.NetworkView{v}}
	n := networks(t, f)
	want := &weftv1.InspectNetworkResponse{
		Network: &weftv1.Network{
			Id: "n1", Name: "front", Driver: "overlay", Scope: "global", Created: timestamppb.New(born), Internal: true, Attachable: true, Vni: 4096, Mtu: 1450,
			Options: map[string]string{"o": "1"}, Labels: map[string]string{"l": "2", "only": ""}, IpamOptions: map[string]string{"i": "3"}, State: "active",
			EnableIpv4: true, EndpointCount: 1, IpamDriver: "default",
			Pools: []*weftv1.Pool{
				{Subnet: "10.1.0.0/24", Gateway: "10.1.0.1", IpRange: "10.1.0.0/25", AuxAddresses: map[string]string{"nas": "10.1.0.9"}},
				{Subnet: "10.2.0.0/16"},
			},
		},
		Endpoints: []*weftv1.Endpoint{e1Proto}, Peers: []*weftv1.Host{h1Proto},
	}
	got, err := n.InspectNetwork(t.Context(), &weftv1.InspectNetworkRequest{Ref: "front"})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)

	// The store is away, and this host does not follow the network: nothing is said about its endpoints, not that there are none.
	f.networks[0].Known, f.networks[0].Endpoints = false, nil
	if got, err = n.InspectNetwork(t.Context(), &weftv1.InspectNetworkRequest{Ref: "front"}); err != nil || !got.EndpointsUnknown || got.Network.EndpointCount != -1 {
		t.Errorf("unknown: %v, %v", got, err)
	}
	f.networks[0] = api.NetworkView{Network: &record.Network{Name: "none", Driver: "null", Scope: "local", Pools: []record.Pool{{Subnet: netip.MustParsePrefix("fd00::/64")}}}, Builtin: true, Known: true}
	if got, err = n.InspectNetwork(t.Context(), &weftv1.InspectNetworkRequest{Ref: "none"}); err != nil || !got.Network.Builtin || got.Network.Attachable || !got.Network.EnableIpv6 {
		t.Errorf("built in: %v, %v", got, err)
	}
}

// c1 has an endpoint in front, is stopped in one that is there and had one more in a network that is gone.
func c1() api.SandboxView {
	v := front()
	ep := v.Endpoints[0]
	back := &record.Network{ID: "n2", Name: "back"}
	return api.SandboxView{
		Sandbox: &record.Sandbox{
			ID: "s1", Name: "c1", Created: born, Started: born.Add(time.Second), Command: []string{"sh"}, Env: []string{"A=b"}, Hostname: "h", User: "u", Workdir: "/w",
			TTY: true, AutoRemove: true, NetworkMode: "", DNS: []netip.Addr{adr("192.0.2.53")}, Labels: map[string]string{"l": "2"}, Status: record.SandboxRunning,
			ExitCode: 1, Error: "e", PID: 42,
			Attachments: []record.Attachment{
				{Network: "n1", IP: adr("10.1.0.2"), Aliases: []string{"web"}, Links: []record.Link{{Target: "db", Alias: "base"}}, MAC: "02:42:0a:01:00:02", DriverOpts: map[string]string{"d": "1"}, GwPriority: 4},
				{Network: "n2"}, {Network: "n3"},
			},
		},
		Host: v.Peers[0].Host, NetnsPath: "/run/weft/netns/s1", LogPath: "/log", Endpoints: []*api.EndpointView{&ep, nil, nil}, Networks: []*record.Network{v.Network, back, nil},
	}
}

func TestASandboxIsShownWhole(t *testing.T) {
	f := &fake{sandboxes: []api.SandboxView{c1()}}
	s := sandboxes(t, f)
	want := &weftv1.Sandbox{
		Id: "s1", Name: "c1", Created: timestamppb.New(born), Started: timestamppb.New(born.Add(time.Second)), Status: "running", Pid: 42, Exit: &weftv1.Exit{Code: 1, Error: "e"},
		Command: []string{"sh"}, Env: []string{"A=b"}, Hostname: "h", User: "u", Workdir: "/w", Tty: true, AutoRemove: true, Labels: map[string]string{"l": "2"},
		NetnsPath: "/run/weft/netns/s1", LogPath: "/log", HostId: "h1", Host: "alpha", Dns: []string{"192.0.2.53"},
		Endpoints: []*weftv1.EndpointSettings{
			{
				Requested: &weftv1.Attachment{
					Network: "n1", Ip: "10.1.0.2", Aliases: []string{"web"}, Links: []*weftv1.Link{{Target: "db", Alias: "base"}}, MacAddress: "02:42:0a:01:00:02",
					DriverOptions: map[string]string{"d": "1"}, GwPriority: 4,
				},
				Endpoint: e1Proto, Gateway: "10.1.0.1", PrefixLen: 24,
			},
			{Requested: &weftv1.Attachment{Network: "n2"}, Endpoint: &weftv1.Endpoint{NetworkId: "n2", NetworkName: "back"}},
			{Requested: &weftv1.Attachment{Network: "n3"}},
		},
	}
	got, err := s.InspectSandbox(t.Context(), &weftv1.InspectSandboxRequest{Ref: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got.Sandbox, want)

	// Of a network that is not known any more neither is the prefix length.
	f.sandboxes[0].Endpoints[0].Network = nil
	if got, err = s.InspectSandbox(t.Context(), &weftv1.InspectSandboxRequest{Ref: "c1"}); err != nil || got.Sandbox.Endpoints[0].PrefixLen != 32 || got.Sandbox.Endpoints[0].Endpoint.NetworkName != "" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestTheClusterIsShown(t *testing.T) {
	v := front()
	f := &fake{endpoints: v.Endpoints, unknown: []string{"far"}, hosts: append(v.Peers, api.HostView{Host: &record.Host{ID: "h2"}, State: "unknown"})}
	f.about = api.About{Version: "v1", HostID: "h1", ClusterID: "c", Store: "etcd://x", StoreErr: errors.New("connection refused")}
	k := weftv1.NewClusterClient(client(t, f))
	es, err := k.ListEndpoints(t.Context(), &weftv1.ListEndpointsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, es, &weftv1.ListEndpointsResponse{Endpoints: []*weftv1.Endpoint{e1Proto}, UnknownNetworks: []string{"far"}})
	hs, err := k.ListHosts(t.Context(), &weftv1.ListHostsRequest{})
	if err != nil || len(hs.Hosts) != 2 {
		t.Fatal(hs, err)
	}
	same(t, hs.Hosts[0], h1Proto)
	if h := hs.Hosts[1]; h.Vtep != "" || h.State != "unknown" {
		t.Errorf("a host of which only the ID is known: %v", h)
	}
	ver, err := k.Version(t.Context(), &weftv1.VersionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if ver.Goroutines == 0 {
		t.Error("no goroutines are counted")
	}
	ver.Goroutines = 0
	same(t, ver, &weftv1.VersionResponse{
		Version: "v1", ApiVersion: api.Version, GoVersion: runtime.Version(), OsArch: runtime.GOOS + "/" + runtime.GOARCH, HostId: "h1", ClusterId: "c",
		Store: "etcd://x", StoreError: "connection refused",
	})
}

// Virtual addresses are shown with their network.
func TestVirtualAddressesAreShown(t *testing.T) {
	v := front()
	v.VIPs = []api.VIPView{{VIP: &record.VIP{Alias: "Api", Addrs: []netip.Addr{adr("10.1.0.254"), adr("fd00::fe")}}, Members: []string{"c1", "c2"}}}
	n := weftv1.NewNetworksClient(client(t, &fake{networks: []api.NetworkView{v}}))
	r, err := n.InspectNetwork(t.Context(), &weftv1.InspectNetworkRequest{Ref: "front"})
	if err != nil || len(r.VirtualAddresses) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	same(t, r.VirtualAddresses[0], &weftv1.VirtualAddress{Alias: "Api", Addresses: []string{"10.1.0.254", "fd00::fe"}, Members: []string{"c1", "c2"}})
}
