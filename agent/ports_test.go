package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"weft/agent/sandbox"
	"weft/bridge"
	"weft/kernel"
	"weft/store/record"
)

func known(nets ...*record.Network) func(record.NetworkID) (*record.Network, bool) {
	return func(id record.NetworkID) (*record.Network, bool) {
		for _, n := range nets {
			if n.ID == id {
				return n, true
			}
		}
		return nil, false
	}
}

// Ports belong to the network of the default route, with the address of their family.
func TestPublishedFollowsTheDefaultRoute(t *testing.T) {
	t.Parallel()
	nets := known(&record.Network{ID: front, Driver: "overlay"}, &record.Network{ID: back, Driver: "overlay"})
	web := record.PortBinding{Proto: "tcp", HostAddr: netip.IPv4Unspecified(), HostPort: 8080, Port: 80}
	six := record.PortBinding{Proto: "tcp", HostAddr: netip.IPv6Unspecified(), HostPort: 8080, Port: 80}
	with := func(b *record.Sandbox, bs ...record.PortBinding) *record.Sandbox {
		b.Published = bs
		return b
	}
	first, second := in(front, "e1", "10.1.0.2"), in(back, "e2", "10.2.0.2", "fd00::2")
	preferred := second
	preferred.GwPriority = 1
	inside := first
	inside.NoGateway = true
	down := with(box("a", first), web)
	down.Up = false
	for _, c := range []struct {
		name string
		s    *record.Sandbox
		want []string
	}{
		{"nothing published", box("a", first), nil},
		{"one network", with(box("a", first), web, six), []string{"f407 10.1.0.2"}},
		{"both families", with(box("a", second), web, six), []string{"bac4 10.2.0.2", "bac4 fd00::2"}},
		{"the first of two", with(box("a", first, second), web), []string{"f407 10.1.0.2"}},
		{"the preferred one", with(box("a", first, preferred), web), []string{"bac4 10.2.0.2"}},
		{"one has no way out", with(box("a", inside, second), web), []string{"bac4 10.2.0.2"}},
		{"none has a way out", with(box("a", inside), web), nil},
		{"down", down, nil},
		{"a network that is not known now", with(box("a", in("gone", "e3", "10.3.0.2")), web), nil},
	} {
		var got []string
		for _, p := range published(boxMap(c.s), nets) {
			if p.Binding.HostPort != 8080 || p.Binding.Port != 80 {
				t.Errorf("%s: %v", c.name, p)
			}
			got = append(got, fmt.Sprint(p.Network, " ", p.Target))
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// The supervisor takes what the kernel's rules cannot do: the other address family.
func TestForwardsHaveAlwaysATarget(t *testing.T) {
	t.Parallel()
	bs := []record.PortBinding{
		{Proto: "tcp", HostAddr: netip.IPv4Unspecified(), HostPort: 1, Port: 80},
		{Proto: "udp", HostAddr: ip("::1"), HostPort: 2, Port: 53},
	}
	for _, c := range []struct {
		s    *record.Sandbox
		want []string
	}{
		{box("a", in(front, "e1", "10.1.0.2")), []string{"10.1.0.2:80", "10.1.0.2:53"}},
		{box("a", in(front, "e1", "fd00::2")), []string{"[fd00::2]:80", "[fd00::2]:53"}},
		{box("a", in(front, "e1", "10.1.0.2", "fd00::2")), []string{"10.1.0.2:80", "[fd00::2]:53"}},
	} {
		for i, f := range forwards(c.s, bs) {
			want := sandbox.Forward{Proto: bs[i].Proto, Host: netip.AddrPortFrom(bs[i].HostAddr, bs[i].HostPort), Target: netip.MustParseAddrPort(c.want[i])}
			if f != want {
				t.Errorf("%v, want %v", f, want)
			}
		}
	}
	for _, f := range forwards(box("a"), bs) {
		if f.Target.IsValid() {
			t.Errorf("without a network: %v", f)
		}
	}
}

func TestWherePortsAreWithoutAnAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		option string
		six    bool
		want   string
	}{
		{"", false, "[0.0.0.0]"},
		{"", true, "[0.0.0.0 ::]"},
		{"0.0.0.0", true, "[0.0.0.0 ::]"},
		{"127.0.0.1", true, "[127.0.0.1]"},
		{"192.0.2.7", false, "[192.0.2.7]"},
	} {
		n := &record.Network{Options: map[string]string{OptHostBinding: c.option}}
		if got := fmt.Sprint(hostAddrs(n, c.six)); got != c.want {
			t.Errorf("%q, IPv6 %v: %s, want %s", c.option, c.six, got, c.want)
		}
	}
}

func TestUDPFlowsAreThoseOfDatagrams(t *testing.T) {
	t.Parallel()
	got := udpFlows([]bridge.Published{
		{Binding: record.PortBinding{Proto: "tcp", HostAddr: netip.IPv4Unspecified(), HostPort: 1, Port: 2}, Target: ip("10.1.0.2")},
		{Binding: record.PortBinding{Proto: "udp", HostAddr: netip.IPv4Unspecified(), HostPort: 53, Port: 5353}, Target: ip("10.1.0.2")},
	})
	want := kernel.UDPForward{Host: netip.MustParseAddrPort("0.0.0.0:53"), Target: netip.MustParseAddrPort("10.1.0.2:5353")}
	if len(got) != 1 || got[0] != want {
		t.Errorf("%v, want %v", got, want)
	}
}
