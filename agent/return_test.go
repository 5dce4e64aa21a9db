package agent

import (
	"net/netip"
	"strings"
	"testing"

	"weft/store"
	"weft/store/record"
)

// netOf is a network's partition as it is in the store.
func netOf(t *testing.T, eps ...*record.Endpoint) *record.Net {
	t.Helper()
	const id record.NetworkID = "n"
	b := store.Batch{Rev: 1, Resync: true}
	put := func(k store.Key, v []byte) { b.Puts = append(b.Puts, store.Entry{Key: k, Value: v, Rev: 1}) }
	for _, ep := range eps {
		ep.Network = id
		v, err := record.Encode(ep)
		if err != nil {
			t.Fatal(err)
		}
		put(record.EndpointKey(id, ep.ID), v)
		put(record.EndpointNameKey(id, ep.Name), []byte(ep.ID))
		for _, a := range ep.Addrs {
			put(record.AddrKey(id, a), []byte(ep.ID))
		}
		if ep.StaticMAC {
			put(record.MACKey(id, ep.MAC), []byte(ep.ID))
		}
	}
	net, _ := record.Empty().Apply(record.NetPartition(id), b).Net(id)
	return net
}

func TestWhatAHostThatWasClearedHasLost(t *testing.T) {
	t.Parallel()
	addr, other := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.9")
	foreign := func(name string, a netip.Addr, mac record.MAC) *record.Endpoint {
		return &record.Endpoint{ID: "theirs", Host: "b", Incarnation: 1, Sandbox: "s", Name: name, Addrs: []netip.Addr{a}, MAC: mac, StaticMAC: true}
	}
	up := record.Attachment{Network: "n", Endpoint: "mine", Addrs: []netip.Addr{addr}}
	static := record.Attachment{Network: "n", Endpoint: "mine", IP: addr, MAC: "02:42:0a:01:00:63"}
	for _, c := range []struct {
		name string
		net  *record.Net
		at   record.Attachment
		up   bool
		want string // part of the reason; "": it is its own
	}{
		{"nobody has taken anything", netOf(t), up, true, ""},
		{"its record is still there", netOf(t, &record.Endpoint{ID: "mine", Host: "a", Incarnation: 1, Sandbox: "s", Name: "c1", Addrs: []netip.Addr{addr}, MAC: "02:42:0a:01:00:02"}), up, true, ""},
		{"others have other things", netOf(t, foreign("c9", other, "02:42:0a:01:00:09")), up, true, ""},
		{"its address was given again", netOf(t, foreign("c9", addr, "02:42:0a:01:00:09")), up, true, "10.1.0.2 belongs to c9 on host B"},
		{"the dynamic address of one that is down was given again", netOf(t, foreign("c9", addr, "02:42:0a:01:00:09")), up, false, ""},
		{"the static address of one that is down was given again", netOf(t, foreign("c9", addr, "02:42:0a:01:00:09")), static, false, "10.1.0.2 belongs to c9"},
		{"its name was taken", netOf(t, foreign("C1", other, "02:42:0a:01:00:09")), up, true, "the name c1 belongs to a sandbox on host B"},
		{"its hardware address was taken", netOf(t, foreign("c9", other, "02:42:0a:01:00:63")), static, true, "02:42:0a:01:00:63 belongs to c9"},
		{"the network was removed", nil, up, true, "the network was removed"},
		{"it was never announced", nil, record.Attachment{Network: "n", Endpoint: "mine", Intent: true}, true, ""},
		{"it was isolated before", nil, record.Attachment{Network: "n", Isolated: "x"}, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &record.Sandbox{ID: "s1", Name: "c1", Up: c.up}
			got := lostTo(c.net, "a", s, c.at, func(id record.HostID) string { return strings.ToUpper(string(id)) })
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Only a fence at or above its incarnation says that a host was cleared.
func TestWhenAHostWasCleared(t *testing.T) {
	t.Parallel()
	v, err := record.Encode(&record.Fence{Host: "a", Incarnation: 3, By: "b"})
	if err != nil {
		t.Fatal(err)
	}
	p := record.Empty().Apply(store.Meta, store.Batch{Rev: 1, Puts: []store.Entry{{Key: record.FenceKey("a"), Value: v, Rev: 1}}})
	for inc, want := range map[uint64]bool{1: true, 3: true, 4: false} {
		if got := fenced(p, "a", inc); got != want {
			t.Errorf("incarnation %d: %v, want %v", inc, got, want)
		}
	}
	if fenced(p, "b", 1) {
		t.Error("another host's fence")
	}
}

func TestWhichHostsAnAgentClears(t *testing.T) {
	t.Parallel()
	put := func(p *record.Snapshot, k store.Key, r any) *record.Snapshot {
		b, err := record.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		return p.Apply(k.Partition, store.Batch{Rev: 1, Puts: []store.Entry{{Key: k, Value: b, Rev: 1}}})
	}
	hosts := record.Empty()
	for i, id := range []record.HostID{"a", "b", "c"} {
		hosts = put(hosts, record.HostKey(id), &record.Host{ID: id, Name: string(id), Advertise: "192.0.2.1:2376", VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), Incarnation: 2})
	}
	fence := func(p *record.Snapshot, inc uint64, by record.HostID, clearing bool) *record.Snapshot {
		return put(p, record.FenceKey("b"), &record.Fence{Host: "b", Incarnation: inc, By: by, Clearing: clearing})
	}
	alive := put(hosts, record.AliveKey("c"), &record.Liveness{Host: "c", Incarnation: 2, Instance: "i"})
	due := []record.HostID{"b"}
	for name, c := range map[string]struct {
		p    *record.Snapshot
		due  []record.HostID
		want int
	}{
		"nobody is due":                       {hosts, nil, 0},
		"one is due":                          {hosts, due, 1},
		"its earlier incarnation was cleared": {fence(hosts, 1, "c", false), due, 1},
		"it was cleared":                      {fence(hosts, 2, "c", false), due, 0},
		"another one is clearing it":          {fence(alive, 2, "c", true), due, 0},
		"the one that cleared it has died":    {fence(hosts, 2, "c", true), nil, 1},
		"an earlier life of this one began":   {fence(hosts, 2, "a", true), nil, 1},
		"one that nobody knows any more":      {record.Empty(), due, 0},
	} {
		if got := toClear(c.p, "a", c.due); len(got) != c.want || c.want > 0 && got[0] != "b" {
			t.Errorf("%s: clears %v, want %d", name, got, c.want)
		}
	}
}
