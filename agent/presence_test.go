package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"weft/agent/registry"
	"weft/store"
	"weft/store/record"
)

const (
	self  record.HostID    = "5e1f"
	other record.HostID    = "07e4"
	front record.NetworkID = "f407"
	back  record.NetworkID = "bac4"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// box is a sandbox that is up, with an endpoint in each network.
func box(name string, as ...record.Attachment) *record.Sandbox {
	for i := range as {
		as[i].IfName = fmt.Sprintf("eth%d", i)
	}
	return &record.Sandbox{ID: record.SandboxID("5b" + name), Name: name, Hostname: name, Status: record.SandboxRunning, Up: true, Attachments: as}
}

func in(n record.NetworkID, ep record.EndpointID, addrs ...string) record.Attachment {
	a := record.Attachment{Network: n, Endpoint: ep}
	for _, s := range addrs {
		a.Addrs = append(a.Addrs, ip(s))
	}
	return a
}

func boxMap(bs ...*record.Sandbox) map[record.SandboxID]*record.Sandbox {
	out := map[record.SandboxID]*record.Sandbox{}
	for _, b := range bs {
		out[b.ID] = b
	}
	return out
}

// picture is what a store with these networks and endpoints tells.
func picture(t testing.TB, rev store.Rev, nets []*record.Network, eps ...*record.Endpoint) *record.Snapshot {
	t.Helper()
	put := func(k store.Key, r any) store.Entry {
		b, err := record.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		return store.Entry{Key: k, Value: b, Rev: rev}
	}
	var meta []store.Entry
	for _, n := range nets {
		meta = append(meta, put(record.NetworkKey(n.ID), n), store.Entry{Key: record.NetworkNameKey(n.Name), Value: []byte(n.ID), Rev: rev})
	}
	for i, h := range []record.HostID{self, other} {
		r := &record.Host{ID: h, Name: string(h), VTEP: ip(fmt.Sprintf("192.0.2.%d", 1+i)), Incarnation: 1, MTU: 1500}
		meta = append(meta, put(record.HostKey(h), r))
	}
	s := record.Empty().Apply(store.Meta, store.Batch{Rev: rev, Resync: true, Puts: meta})
	for _, n := range nets {
		b := store.Batch{Rev: rev, Resync: true}
		for _, ep := range eps {
			if ep.Network != n.ID {
				continue
			}
			b.Puts = append(b.Puts, put(record.EndpointKey(n.ID, ep.ID), ep), store.Entry{Key: record.EndpointNameKey(n.ID, ep.Name), Value: []byte(ep.ID), Rev: rev})
			for _, a := range ep.Addrs {
				b.Puts = append(b.Puts, store.Entry{Key: record.AddrKey(n.ID, a), Value: []byte(ep.ID), Rev: rev})
			}
			for i, alias := range ep.VIPAliases {
				b.Puts = append(b.Puts, put(record.VIPKey(n.ID, alias), &record.VIP{Network: n.ID, Alias: alias, Addrs: []netip.Addr{ip(fmt.Sprintf("10.1.0.%d", 254-i))}}))
			}
		}
		s = s.Apply(record.NetPartition(n.ID), b)
	}
	return s
}

func network(id record.NetworkID, subnet string) *record.Network {
	p := netip.MustParsePrefix(subnet)
	vni := 4096 + uint32(p.Addr().As4()[1])
	return &record.Network{
		ID: id, Name: "net-" + string(id), Driver: "overlay", Scope: "global", VNI: vni, MTU: 1450, State: record.Active,
		Pools: []record.Pool{{Subnet: p, Gateway: p.Addr().Next()}},
	}
}

func TestOnlySandboxesThatAreUpHavePorts(t *testing.T) {
	down := box("down", in(front, "e3", "10.1.0.4"))
	down.Up = false
	got := presences(self, 1, boxMap(
		box("a", in(front, "e1", "10.1.0.2"), in(back, "e2", "10.2.0.2")),
		box("pending", in(front, "e4")), // its address is not its own again yet
		down,
	), func(id record.SandboxID) string { return "/ns/" + string(id) })
	if len(got[front].ports) != 1 || len(got[back].ports) != 1 || len(got) != 2 {
		t.Fatalf("got %+v", got)
	}
	p := got[front].ports[0]
	if p.Netns != "/ns/5ba" || p.IfName != "eth0" || !p.Default || p.Endpoint.MAC != "02:42:0a:01:00:02" {
		t.Errorf("port %+v of %+v", p, p.Endpoint)
	}
	if got[back].ports[0].Default {
		t.Error("two default routes")
	}
}

func TestDefaultRouteIsTheHighestPriorityThenTheFirst(t *testing.T) {
	inner := in(front, "e1", "10.1.0.2")
	inner.NoGateway = true
	high := in(back, "e2", "10.2.0.2")
	high.GwPriority = 10
	for name, tc := range map[string]struct {
		as   []record.Attachment
		want record.NetworkID
	}{
		"the first":                  {[]record.Attachment{in(front, "e1", "10.1.0.2"), in(back, "e2", "10.2.0.2")}, front},
		"a higher priority":          {[]record.Attachment{in(front, "e1", "10.1.0.2"), high}, back},
		"internal ones have no way":  {[]record.Attachment{inner, in(back, "e2", "10.2.0.2")}, back},
		"one without an address yet": {[]record.Attachment{in(front, "e1"), in(back, "e2", "10.2.0.2")}, back},
		"none":                       {[]record.Attachment{inner}, ""},
	} {
		if got := defaultNetwork(box("a", tc.as...)); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// When a network comes or goes, the others that are to be brought in line are those whose part in the sandbox has changed; the one that a
// default route enters comes first.
func TestTurned(t *testing.T) {
	v4, both := in(front, "e1", "10.1.0.2"), in(back, "e2", "10.2.0.2", "fd00:2::2")
	high := both
	high.GwPriority = 5
	inner := in("net3", "e3", "10.3.0.2")
	inner.NoGateway = true
	for name, tc := range map[string]struct {
		before, after []record.Attachment
		want          []record.NetworkID
	}{
		"the first":                   {nil, []record.Attachment{v4}, []record.NetworkID{front}},
		"a second, for IPv6 alone":    {[]record.Attachment{v4}, []record.Attachment{v4, both}, []record.NetworkID{back, front}},
		"a second of higher priority": {[]record.Attachment{v4}, []record.Attachment{v4, high}, []record.NetworkID{back, front}},
		"an internal one":             {[]record.Attachment{v4, both}, []record.Attachment{v4, both, inner}, nil},
		"the way out goes":            {[]record.Attachment{v4, both}, []record.Attachment{both}, []record.NetworkID{back, front}},
		"nothing":                     {[]record.Attachment{v4}, []record.Attachment{v4}, nil},
	} {
		if got := turned(box("a", tc.before...), box("a", tc.after...)); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestRoutesBySourceAreForSandboxesOfSeveralNetworks(t *testing.T) {
	inner := in(front, "e1", "10.1.0.2")
	inner.NoGateway = true
	one, two := rolesOf(box("a", in(back, "e2", "10.2.0.2"))), rolesOf(box("a", inner, in(back, "e2", "10.2.0.2")))
	if one[back].bySource || !two[back].bySource || two[front].bySource {
		t.Errorf("alone %+v, with an internal one %+v", one, two)
	}
}

// A record that differs from what the host wants is put right; what is not the host's, or under way, or not known, is left alone.
func TestCorrections(t *testing.T) {
	as := registry.Actor{Host: self, Incarnation: 2}
	a := box("a", in(front, "e1", "10.1.0.2"))
	right := endpointOf(self, 2, a, a.Attachments[0])
	old := *right
	old.Incarnation = 1
	renamed := *right
	renamed.Name = "b"
	stopped := box("a", in(front, "e1", "10.1.0.2"))
	stopped.Up = false
	pending := in(front, "e1", "10.1.0.2")
	pending.Intent = true
	foreign := &record.Endpoint{ID: "e9", Network: front, Host: other, Name: "z", Addrs: []netip.Addr{ip("10.1.0.9")}}
	synced := func(string) bool { return true }
	nets := []*record.Network{network(front, "10.1.0.0/24")}
	for name, tc := range map[string]struct {
		boxes   []*record.Sandbox
		store   []*record.Endpoint
		synced  func(string) bool
		want    []string
		without bool // the network is not followed
	}{
		"all is right":                          {boxes: []*record.Sandbox{a}, store: []*record.Endpoint{right, foreign}, synced: synced},
		"missing":                               {boxes: []*record.Sandbox{a}, store: []*record.Endpoint{foreign}, synced: synced, want: []string{"put e1"}},
		"of an older life":                      {boxes: []*record.Sandbox{a}, store: []*record.Endpoint{&old}, synced: synced, want: []string{"put e1"}},
		"stopped":                               {boxes: []*record.Sandbox{stopped}, store: []*record.Endpoint{right}, synced: synced, want: []string{"put e1"}},
		"a rename that did not come to its end": {boxes: []*record.Sandbox{a}, store: []*record.Endpoint{&renamed}, synced: synced, want: []string{"put e1"}},
		"an orphan of this host":                {store: []*record.Endpoint{right, foreign}, synced: synced, want: []string{"del e1"}},
		"an attach under way":                   {boxes: []*record.Sandbox{box("a", pending)}, store: []*record.Endpoint{foreign}, synced: synced},
		"the store has not spoken":              {boxes: []*record.Sandbox{a}, synced: func(string) bool { return false }},
		"an orphan, and no word of a store":     {store: []*record.Endpoint{right}, synced: func(string) bool { return false }},
	} {
		var got []string
		for _, f := range corrections(as, boxMap(tc.boxes...), picture(t, 5, nets, tc.store...), tc.synced) {
			if f.want == nil {
				got = append(got, "del "+string(f.id))
			} else {
				got = append(got, "put "+string(f.id))
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// One that is to be started again is down, and keeps all its addresses meanwhile.
func TestASandboxThatComesAgainKeepsItsAddresses(t *testing.T) {
	s := box("a", in(front, "e1", "10.1.0.2", "fd00:1::2"))
	s.Up, s.Status = false, record.SandboxRestarting
	ep := endpointOf(self, 1, s, s.Attachments[0])
	if ep.Running || !slices.Equal(ep.Addrs, []netip.Addr{ip("10.1.0.2"), ip("fd00:1::2")}) {
		t.Errorf("%+v", ep)
	}
}

// A start that fails before it came to a network gives back what the sandbox remembered of it, and of no other endpoint.
func TestAFailedStartForgetsNoAddresses(t *testing.T) {
	had, done, other := in(front, "e1", "10.1.0.2"), in(back, "e2", "10.2.0.2"), in("other", "e3", "10.3.0.2")
	before := box("a", had, done, other)
	hidden, moved, fresh := had, done, other
	hidden.Addrs, moved.Addrs, fresh.Endpoint, fresh.Addrs = nil, []netip.Addr{ip("10.2.0.3")}, "e9", nil
	s := remembering(box("a", hidden, moved, fresh), before)
	for i, want := range [][]netip.Addr{{ip("10.1.0.2")}, {ip("10.2.0.3")}, nil} {
		if got := s.Attachments[i].Addrs; !slices.Equal(got, want) {
			t.Errorf("network %s: %v, want %v", s.Attachments[i].Network, got, want)
		}
	}
}

// A stopped sandbox keeps its name and an address that was asked for, and no other address.
func TestAStoppedSandboxKeepsWhatWasAskedFor(t *testing.T) {
	dynamic, static := in(front, "e1", "10.1.0.2"), in(front, "e2", "10.1.0.3")
	static.IP = ip("10.1.0.3")
	half := in(front, "e3", "10.1.0.4", "fd00:1::4")
	half.IP6 = ip("fd00:1::4")
	failed := in(front, "e4") // whose addresses are hidden until they are its own again
	failed.IP = ip("10.1.0.5")
	for name, tc := range map[string]struct {
		at   record.Attachment
		want []netip.Addr
	}{
		"dynamic":                            {dynamic, nil},
		"static":                             {static, []netip.Addr{ip("10.1.0.3")}},
		"one of the two":                     {half, []netip.Addr{ip("fd00:1::4")}},
		"after a start that came to nothing": {failed, []netip.Addr{ip("10.1.0.5")}},
	} {
		s := box("a", tc.at)
		s.Up = false
		ep := endpointOf(self, 1, s, s.Attachments[0])
		if ep.Name != "a" || ep.Running || !slices.Equal(ep.Addrs, tc.want) {
			t.Errorf("%s: %+v", name, ep)
		}
	}
}

// What is to be corrected is found once and written one by one: a sandbox that has changed meanwhile is looked at again, and not made what it was.
func TestACorrectionIsOutdatedWhenItsSandboxHasChanged(t *testing.T) {
	t.Parallel()
	as := registry.Actor{Host: self, Incarnation: 1}
	down := box("a", in(front, "e1", "10.1.0.2"))
	down.Up, down.Status = false, record.SandboxExited
	up := box("a", in(front, "e1", "10.1.0.2"))
	intended := box("a", in(front, "e1", "10.1.0.2"))
	intended.Attachments[0].Intent = true
	orphan := box("gone", in(front, "e9", "10.1.0.9"))
	shows := picture(t, 5, []*record.Network{network(front, "10.1.0.0/24")}, endpointOf(self, 1, up, up.Attachments[0]), endpointOf(self, 1, orphan, orphan.Attachments[0]))
	fixes := corrections(as, boxMap(down), shows, func(string) bool { return true })
	if len(fixes) != 2 {
		t.Fatalf("fixes %+v", fixes)
	}
	for name, tc := range map[string]struct {
		now          []*record.Sandbox
		stop, remove bool // that it stopped, and that e9 is nobody's, is not true any more
	}{
		"nothing happened":  {[]*record.Sandbox{down}, false, false},
		"it runs again":     {[]*record.Sandbox{up}, true, false},
		"it is being begun": {[]*record.Sandbox{intended}, true, false},
		"it is gone":        {nil, true, false},
		"the other is made": {[]*record.Sandbox{down, orphan}, false, true},
	} {
		p := &publisher{publisherConfig: publisherConfig{boxes: newBoxes(nil)}}
		p.boxes.load(tc.now)
		for _, f := range fixes {
			want := tc.stop
			if f.want == nil {
				want = tc.remove
			}
			if got := p.outdated(as, f); got != want {
				t.Errorf("%s: the fix of %s is outdated: %v, want %v", name, f.id, got, want)
			}
		}
	}
}
