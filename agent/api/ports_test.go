package api

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"

	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

func TestPortsArePassedOnAndShown(t *testing.T) {
	t.Parallel()
	r := &weftv1.CreateSandboxRequest{
		Ports: []*weftv1.PortSpec{
			{Protocol: "tcp", HostFirst: 8000, HostLast: 8010, First: 80, Last: 80},
			{Protocol: "udp", HostIp: "::ffff:127.0.0.1", First: 53, Last: 53},
			{Protocol: "tcp", HostFirst: 90, HostLast: 92, First: 70, Last: 72},
		},
		Expose: []*weftv1.PortSpec{{Protocol: "tcp", First: 1, Last: 9}}, PublishAll: true,
	}
	var got record.Sandbox
	if err := setPorts(&got, r); err != nil {
		t.Fatal(err)
	}
	want := record.Sandbox{
		Ports: []record.PortSpec{
			{Proto: "tcp", HostFirst: 8000, HostLast: 8010, First: 80, Last: 80},
			{Proto: "udp", HostAddr: netip.MustParseAddr("127.0.0.1"), First: 53, Last: 53},
			{Proto: "tcp", HostFirst: 90, HostLast: 92, First: 70, Last: 72},
		},
		Expose: []record.PortSpec{{Proto: "tcp", First: 1, Last: 9}}, PublishAll: true,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(record.Sandbox{}), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	got.Published = []record.PortBinding{{Proto: "tcp", HostAddr: netip.IPv6Unspecified(), HostPort: 8000, Port: 80}}
	var shown weftv1.Sandbox
	showPorts(&shown, &got)
	r.Ports[1].HostIp = "127.0.0.1"
	if diff := cmp.Diff(r, &weftv1.CreateSandboxRequest{Ports: shown.Ports, Expose: shown.Expose, PublishAll: shown.PublishAll}, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]*weftv1.PortBinding{{Protocol: "tcp", HostIp: "::", HostPort: 8000, Port: 80}}, shown.Published, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestPortsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words string
		p     *weftv1.PortSpec
	}{
		{"invalid proto", nil},
		{"invalid proto: sctp", &weftv1.PortSpec{Protocol: "sctp", First: 1, Last: 1}},
		{"invalid ports", &weftv1.PortSpec{Protocol: "tcp"}},
		{"invalid ports", &weftv1.PortSpec{Protocol: "tcp", First: 2, Last: 1}},
		{"invalid ports", &weftv1.PortSpec{Protocol: "tcp", First: 1, Last: 65536}},
		{"invalid ports", &weftv1.PortSpec{Protocol: "tcp", First: 1, Last: 1, HostFirst: 70000, HostLast: 70000}},
		{"invalid ports", &weftv1.PortSpec{Protocol: "tcp", First: 1, Last: 1, HostLast: 5}},
		{"invalid ranges", &weftv1.PortSpec{Protocol: "tcp", First: 1, Last: 2, HostFirst: 1, HostLast: 5}},
		{"invalid IP address: x", &weftv1.PortSpec{Protocol: "tcp", First: 1, Last: 1, HostIp: "x"}},
		{"invalid IP address: fe80::1%eth0", &weftv1.PortSpec{Protocol: "tcp", First: 1, Last: 1, HostIp: "fe80::1%eth0"}},
		{"a sandbox can have 4096 ports", &weftv1.PortSpec{Protocol: "tcp", First: 1, Last: 65535}},
	} {
		if _, err := portSpecs("--publish", []*weftv1.PortSpec{c.p}); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%v: %v, want %q", c.p, err, c.words)
		}
	}
}
