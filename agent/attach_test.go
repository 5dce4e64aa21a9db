package agent

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"weft/agent/api"
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
		a, err := d.choose(n, net, ep, p, false)
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
	if _, err := d.choose(n, net, "e5", netip.Addr{}, false); err == nil {
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
