package agent

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/store/record"
)

// stepClock is moved by the test.
type stepClock struct{ now time.Time }

func (c *stepClock) Now() time.Time                         { return c.now }
func (c *stepClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

func TestAddressesAreTheLowestThatNobodyHasOrHadAMomentAgo(t *testing.T) {
	n := network(front, "10.1.0.0/29") // .1 is the gateway, .2 to .6 are free
	theirs := box("o", in(front, "e9", "10.1.0.2"))
	net, _ := picture(t, 5, []*record.Network{n}, endpointOf(other, 1, theirs, theirs.Attachments[0])).Net(front)
	clock := &stepClock{now: time.Unix(1000, 0)}
	d := newAddresses(clock)
	choose := func(ep record.EndpointID, preferred string) string {
		t.Helper()
		var p netip.Addr
		if preferred != "" {
			p = ip(preferred)
		}
		a, err := d.choose(n, net, ep, poolsOf(n), p, false)
		if err != nil {
			t.Fatal(err)
		}
		return a.String()
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	want("the first free one", choose("e1", ""), "10.1.0.3")
	want("not one that another attach has chosen", choose("e2", ""), "10.1.0.4")
	want("the one it had before", choose("e3", "10.1.0.6"), "10.1.0.6")
	want("not one that is another's now", choose("e4", "10.1.0.2"), "10.1.0.5")
	if _, err := d.choose(n, net, "e5", poolsOf(n), netip.Addr{}, false); err == nil {
		t.Error("a full network gave an address out")
	} else if r := (*api.Refusal)(nil); !errors.As(err, &r) || r.Kind != api.InUse {
		t.Errorf("full: %v", err)
	}

	d.settle(front, ip("10.1.0.3"))
	d.settle(front, ip("10.1.0.4"))
	d.rest(front, ip("10.1.0.3"))
	want("not one that was released just now", choose("e6", ""), "10.1.0.4")
	want("unless nothing else is left", choose("e7", ""), "10.1.0.3")
	d.settle(front, ip("10.1.0.3"))
	d.settle(front, ip("10.1.0.4"))
	clock.now = clock.now.Add(restFor + time.Second)
	want("nor for longer than it rests", choose("e8", ""), "10.1.0.3")
}

func dual(id record.NetworkID, subnets ...string) *record.Network {
	n := network(id, subnets[0])
	for _, s := range subnets[1:] {
		p := netip.MustParsePrefix(s)
		n.Pools = append(n.Pools, record.Pool{Subnet: p, Gateway: p.Addr().Next()})
	}
	n.IPv6 = true
	return n
}

// Each family has an address of its own, and a race lost for one leaves the other as it is.
func TestAnAttachmentGetsAnAddressOfEachFamily(t *testing.T) {
	n := dual(front, "10.1.0.0/24", "fd00:1::/64")
	theirs := box("o", in(front, "e9", "10.1.0.2"))
	net, _ := picture(t, 5, []*record.Network{n}, endpointOf(other, 1, theirs, theirs.Attachments[0])).Net(front)
	had := in(front, "e1", "10.1.0.9", "fd00:1::9")
	for name, tc := range map[string]struct {
		at   record.Attachment
		lost []string
		want []string // "" for one of the next free ones
	}{
		"new":                   {record.Attachment{Endpoint: "e1"}, nil, []string{"10.1.0.3", "fd00:1::2"}},
		"had both before":       {had, nil, []string{"10.1.0.9", "fd00:1::9"}},
		"asks for IPv6":         {record.Attachment{Endpoint: "e1", IP6: ip("fd00:1::5")}, nil, []string{"10.1.0.3", "fd00:1::5"}},
		"asks for IPv4":         {record.Attachment{Endpoint: "e1", IP: ip("10.1.0.5")}, nil, []string{"10.1.0.5", "fd00:1::2"}},
		"had one, asks for one": {record.Attachment{Endpoint: "e1", IP6: ip("fd00:1::5"), Addrs: had.Addrs}, nil, []string{"10.1.0.9", "fd00:1::5"}},
		"lost IPv4":             {had, []string{"10.1.0.9"}, []string{"", "fd00:1::9"}},
		"lost IPv6":             {had, []string{"fd00:1::9"}, []string{"10.1.0.9", ""}},
	} {
		d := newAddresses(&stepClock{now: time.Unix(1000, 0)})
		tr := trialOf(tc.at)
		for _, l := range tc.lost {
			tr = tr.without(ip(l))
		}
		at := tc.at
		settle, err := d.assign(n, net, "c1", &at, tr)
		if err != nil || len(at.Addrs) != 2 {
			t.Errorf("%s: %v, %v", name, at.Addrs, err)
			continue
		}
		for f, want := range tc.want {
			if got := at.Addrs[f]; want != "" && got != ip(want) || family(got) != f {
				t.Errorf("%s: %v, want %s", name, got, want)
			}
		}
		settle()
		if len(d.chosen) > 0 {
			t.Errorf("%s: still reserved: %v", name, d.chosen)
		}
	}
}

// Where the second family has no address left, the first one's is not reserved any more.
func TestAFamilyWithoutAFreeAddressFailsTheAttach(t *testing.T) {
	n := dual(front, "10.1.0.0/24", "fd00:1::/126")
	net, _ := picture(t, 5, []*record.Network{n}).Net(front)
	d := newAddresses(&stepClock{now: time.Unix(1000, 0)})
	for i, full := range []bool{false, false, true} {
		at := record.Attachment{Endpoint: record.EndpointID(string(rune('a' + i)))}
		if _, err := d.assign(n, net, "c", &at, trial{}); (err != nil) != full {
			t.Fatalf("attachment %d: %v, %v", i, at.Addrs, err)
		}
	}
	if len(d.chosen) != 4 {
		t.Errorf("reserved: %v", d.chosen)
	}
}

func TestAskForAddresses(t *testing.T) {
	n := dual(front, "10.1.0.0/24", "fd00:1::/64")
	for name, tc := range map[string]struct {
		r    api.AttachmentRequest
		want string
	}{
		"both":              {api.AttachmentRequest{IP: "10.1.0.5", IP6: "fd00:1::5"}, ""},
		"none":              {api.AttachmentRequest{}, ""},
		"no address":        {api.AttachmentRequest{IP6: "x"}, "invalid IPv6 address: x"},
		"the other family":  {api.AttachmentRequest{IP6: "10.1.0.5"}, "invalid IPv6 address"},
		"and the other way": {api.AttachmentRequest{IP: "fd00:1::5"}, "invalid IPv4 address"},
		"a zone":            {api.AttachmentRequest{IP6: "fd00:1::5%eth0"}, "invalid IPv6 address"},
		"mapped":            {api.AttachmentRequest{IP6: "::ffff:10.1.0.5"}, "invalid IPv6 address"},
		"outside":           {api.AttachmentRequest{IP6: "fd00:2::5"}, "no configured subnet of the network contains it"},
		"the gateway":       {api.AttachmentRequest{IP6: "fd00:1::1"}, "is the gateway of fd00:1::/64"},
		"anycast":           {api.AttachmentRequest{IP6: "fd00:1::"}, "subnet-router anycast address"},
	} {
		var at record.Attachment
		err := askFor(n, tc.r, &at)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// An endpoint whose making failed may be in the store all the same: it is released, unless the sandbox had it before.
func TestWhatFailedIsReleased(t *testing.T) {
	t.Parallel()
	at := in(front, "e1", "10.1.0.2")
	at.Intent = true
	release := []journal.Release{{Network: front, Endpoint: "e1"}}
	intended := in(front, "")
	intended.Intent = true
	for name, tc := range map[string]struct {
		before *record.Sandbox
		keeps  bool
		want   []journal.Release
	}{
		"connected to a sandbox that runs": {box("a", in(back, "e2", "10.2.0.2")), false, release},
		"first start":                      {box("a", intended), true, release},
		"kept while it was down":           {box("a", in(front, "e1")), true, nil},
	} {
		got, rs := undone(tc.before, at)
		now, has := got.Attachment(front)
		if has != tc.keeps || now.Intent || len(now.Addrs) > 0 || !slices.Equal(rs, tc.want) {
			t.Errorf("%s: it has %v (%+v) and releases %v, want %v", name, has, now, rs, tc.want)
		}
	}
}
