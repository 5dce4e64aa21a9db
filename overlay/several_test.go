package overlay_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/kernel/netnstest"
	"weft/port"
	"weft/store/record"
)

// A sandbox of two networks: its default routes move as its ports say, without a moment without one, and what comes from an address leaves by
// its own network.
func TestADefaultRouteMovesBetweenNetworks(t *testing.T) {
	w := newWorld(t, 1)
	front := w.network("front", false, "10.1.0.0/24", "fd00:1::/64")
	back := w.network("back", false, "10.2.0.0/24", "fd00:2::/64")
	a := w.sandbox(0, front, "10.1.0.2", "fd00:1::2")
	first := w.eps[len(w.eps)-1].ID
	other := w.sandbox(0, back, "10.2.0.3", "fd00:2::3")
	w.sandbox(0, back, "10.2.0.2", "fd00:2::2") // its interface is to be a's
	second := w.eps[len(w.eps)-1].ID
	lead := func(frontLeads, bySource bool) {
		t.Helper()
		for id, is := range map[record.EndpointID]bool{first: frontLeads, second: !frontLeads} {
			p := w.ports[id]
			p.Netns, p.Default, p.Default6, p.BySource = a, is, is, bySource
			p.IfName = map[record.EndpointID]string{first: "eth0", second: "eth1"}[id]
			w.ports[id] = p
		}
		w.apply()
	}
	want := func(what string, ways ...string) {
		t.Helper()
		if got := defaults(t, a); !slices.Equal(got, ways) {
			t.Errorf("%s: %q, want %q", what, got, ways)
		}
	}
	lead(true, true)
	want("at first", "10.1.0.1 dev eth0", "fd00:1::1 dev eth0")
	serve(t, other, "")
	reaches(t, "the second network", a, "10.2.0.3", "10.2.0.2")
	reaches(t, "the second network in IPv6", a, "fd00:2::3", "fd00:2::2")
	for src, way := range map[string]string{"10.1.0.2": "eth0", "10.2.0.2": "eth1", "fd00:1::2": "eth0", "fd00:2::2": "eth1"} {
		if got := leaves(t, a, src); got != way {
			t.Errorf("what comes from %s leaves by %s, want %s", src, got, way)
		}
	}

	watched := make(chan []string)
	stop := make(chan struct{})
	go func() {
		var without []string
		for {
			select {
			case <-stop:
				watched <- without
				return
			default:
			}
			for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
				if n := countDefaults(a, f); n == 0 {
					without = append(without, fmt.Sprintf("family %d at %s", f, time.Now()))
				}
			}
		}
	}()
	for i := range 6 {
		lead(i%2 == 1, true)
	}
	close(stop)
	if without := <-watched; len(without) > 0 {
		t.Errorf("%d times there was no default route: %s", len(without), without[0])
	}
	lead(false, true)
	want("after it moved", "10.2.0.1 dev eth1", "fd00:2::1 dev eth1")

	w.eps = slices.DeleteFunc(w.eps, func(e *record.Endpoint) bool { return e.ID == second })
	gone := w.ports[second]
	delete(w.ports, second)
	p := w.ports[first]
	p.Default, p.Default6, p.BySource = true, true, false
	w.ports[first] = p
	w.apply()
	want("with one network left", "10.1.0.1 dev eth0", "fd00:1::1 dev eth0")
	if port.Table(gone.Endpoint.ID) == port.Table(first) {
		t.Error("both have one table")
	}
	netnstest.In(t, a, func() error {
		for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
			rs, err := netlink.RuleList(f)
			if err != nil {
				return err
			}
			for _, r := range rs {
				if r.Src != nil {
					t.Errorf("left: %v", r)
				}
			}
		}
		return nil
	})
}

func countDefaults(ns string, family int) int {
	n := 0
	_ = netnstest.Try(ns, func() error {
		rs, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			n = 1 // not known
			return err
		}
		for _, r := range rs {
			if r.Dst == nil || r.Dst.IP.IsUnspecified() {
				n++
			}
		}
		return nil
	})
	return n
}

// defaults are a namespace's default routes.
func defaults(t *testing.T, ns string) []string {
	t.Helper()
	var out []string
	netnstest.In(t, ns, func() error {
		for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
			rs, err := netlink.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range rs {
				if r.Dst == nil || r.Dst.IP.IsUnspecified() {
					l, err := netlink.LinkByIndex(r.LinkIndex)
					if err != nil {
						return err
					}
					out = append(out, fmt.Sprintf("%s dev %s", r.Gw, l.Attrs().Name))
				}
			}
		}
		return nil
	})
	return out
}

// leaves is the interface by which what comes from an address goes to the outside.
func leaves(t *testing.T, ns, src string) string {
	t.Helper()
	var name string
	netnstest.In(t, ns, func() error {
		dst := net.IPv4(198, 51, 100, 1)
		if netip.MustParseAddr(src).Is6() {
			dst = net.ParseIP("2001:db8::1")
		}
		rs, err := netlink.RouteGetWithOptions(dst, &netlink.RouteGetOptions{SrcAddr: net.ParseIP(src)})
		if err != nil || len(rs) == 0 {
			return fmt.Errorf("route from %s: %w", src, err)
		}
		l, err := netlink.LinkByIndex(rs[0].LinkIndex)
		if err == nil {
			name = l.Attrs().Name
		}
		return err
	})
	return name
}
