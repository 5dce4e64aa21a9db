package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestDualStackOverThreeHosts(t *testing.T) {
	t.Parallel()
	c := up(t)
	underlay6(c)
	echo6(c, c.lab.Outside().Path)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.1.0.0/24", "--subnet", "fd00:1::/64", "web")
	a, b, d := h1.box("a", "web").echo().echo6(), h2.box("b", "web", "--ip6", "fd00:1::b").echo().echo6(), h3.box("d", "web").echo().echo6()
	if got := b.addr6("web"); got != "fd00:1::b" {
		t.Errorf("b has %s, want what it asked for", got)
	}
	all := []*box{a, b, d}
	for _, from := range all {
		for _, to := range all {
			eventually(t, settle, func() error { return from.reaches(to.addr("web")) })
			eventually(t, settle, func() error { return from.reaches6(to.addr6("web")) })
			eventually(t, settle, func() error { return from.finds(to.name, to.addr("web")) })
			eventually(t, settle, func() error { return from.finds6(to.name, to.addr6("web")) })
		}
	}
	for i, from := range all {
		var who string
		eventually(t, settle, func() (err error) {
			who, err = from.greeting6(outside6, soon)
			return err
		})
		if who != host6(i+1).String() {
			t.Errorf("outside sees %s as %s, want its host's address %s", from.name, who, host6(i+1))
		}
	}
	v := a.view6().NetworkSettings.Networks["web"]
	if v.IPv6Gateway != "fd00:1::1" || v.Gateway != "10.1.0.1" || v.GlobalIPv6PrefixLen != 64 || v.IPPrefixLen != 24 {
		t.Errorf("inspect shows %+v", v)
	}
	type network struct {
		EnableIPv6 bool
		IPAM       struct {
			Config []struct{ Subnet, Gateway string }
		}
		Containers map[string]struct{ IPv4Address, IPv6Address string }
	}
	n := inspect[network](h3, "network", "inspect", "web")
	if !n.EnableIPv6 || len(n.IPAM.Config) != 2 || n.Containers[b.id].IPv6Address != "fd00:1::b/64" {
		t.Errorf("network inspect shows %+v", n)
	}

	h2.refuses(125, "Address already in use", "run", "-d", "--name", "x", "--network", "web", "--ip6", "fd00:1::b", "--", "sleep", "1")
	h2.weft("stop", "-t", "0", "b")
	h1.refuses(125, "Address already in use", "run", "-d", "--name", "x", "--network", "web", "--ip6", "fd00:1::b", "--", "sleep", "1")
	h2.weft("start", "b")
	b.netns = b.view().NetworkSettings.SandboxKey
	b.echo6()
	if got := b.addr6("web"); got != "fd00:1::b" {
		t.Errorf("after stop and start b has %s", got)
	}
	eventually(t, settle, func() error { return a.reaches6("fd00:1::b") })
	addrD := d.addr6("web")
	h1.kill()
	if err := a.reaches6(addrD); err != nil {
		t.Errorf("without its agent a does not reach d: %v", err)
	}
	h1.up()
	h1.awaitJoined()
	eventually(t, settle, func() error { return a.reaches6("fd00:1::b") })
}

// Where the user gives no IPv6 subnet, one is cut from the cluster's own range, and no two networks share one.
func TestIPv6SubnetsArePicked(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	seen := map[netip.Prefix]string{}
	for _, n := range []string{"one", "two"} {
		h1.weft("network", "create", "-d", "overlay", "--ipv6", n)
		a, b := h1.box("a"+n, n).echo6(), h2.box("b"+n, n).echo6()
		addr := netip.MustParseAddr(a.addr6(n))
		if !netip.MustParsePrefix("fd00::/8").Contains(addr) {
			t.Errorf("%s is no unique local address", addr)
		}
		p := netip.PrefixFrom(addr, 64).Masked()
		if other, twice := seen[p]; twice {
			t.Errorf("%s and %s both have %s", n, other, p)
		}
		seen[p] = n
		for _, pair := range [][2]*box{{a, b}, {b, a}} {
			eventually(t, settle, func() error { return pair[0].reaches6(pair[1].addr6(n)) })
		}
	}
	r := h2.try("network", "create", "-d", "overlay", "--subnet", "fd00:5::/64", "three")
	if r.Code == 0 || !strings.Contains(r.Stderr, "IPv6 is disabled for the new network") {
		t.Errorf("an IPv6 subnet without --ipv6: %s", fmt.Sprint(r))
	}
}

// A bridge of both families needs no store.
func TestDualStackOnABridge(t *testing.T) {
	t.Parallel()
	c := up(t)
	underlay6(c)
	echo6(c, c.lab.Outside().Path)
	h := c.hosts[2]
	h.weft("network", "create", "--ipv6", "lan")
	h.weft("network", "create", "--ipv6", "--internal", "inside")
	a, b := h.box("a", "lan").echo().echo6(), h.box("b", "lan").echo().echo6()
	for _, pair := range [][2]*box{{a, b}, {b, a}} {
		eventually(t, settle, func() error { return pair[0].reaches(pair[1].addr("lan")) })
		eventually(t, settle, func() error { return pair[0].reaches6(pair[1].addr6("lan")) })
		eventually(t, settle, func() error { return pair[0].finds6(pair[1].name, pair[1].addr6("lan")) })
	}
	var who string
	eventually(t, settle, func() (err error) {
		who, err = a.greeting6(outside6, soon)
		return err
	})
	if who != host6(3).String() {
		t.Errorf("outside sees a as %s, want its host's address %s", who, host6(3))
	}
	in := h.box("in", "inside").echo6()
	for from, to := range map[*box]string{a: in.addr6("inside"), in: a.addr6("lan")} {
		if who, err := from.greeting6(to, unanswered); err == nil {
			t.Errorf("%s reaches %s of another network, as %s", from.name, to, who)
		}
	}
	if _, err := in.greeting6(outside6, unanswered); err == nil {
		t.Error("an internal network leads out")
	}
	addrB := b.addr6("lan")
	h.kill()
	h.up()
	h.awaitJoined()
	if err := a.reaches6(addrB); err != nil {
		t.Errorf("after the agent's restart: %v", err)
	}
}

// No packet of IPv6 passes between networks either, on one host or between two.
func TestNetworksAreIsolatedInIPv6(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.1.0.0/24", "--subnet", "fd00:1::/64", "red")
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.2.0.0/24", "--subnet", "fd00:2::/64", "blue")
	h1.weft("network", "create", "--ipv6", "local")
	red, farRed := h1.box("red1", "red").echo6(), h2.box("red2", "red").echo6()
	eventually(t, settle, func() error { return red.reaches6(farRed.addr6("red")) })
	others := map[*box]string{h1.box("blue1", "blue").echo6(): "blue", h2.box("blue2", "blue").echo6(): "blue", h1.box("l1", "local").echo6(): "local"}
	for other, network := range others {
		for _, r := range []*box{red, farRed} {
			if who, err := r.greeting6(other.addr6(network), unanswered); err == nil {
				t.Errorf("%s reaches %s as %s", r.name, other.name, who)
			}
			if who, err := other.greeting6(r.addr6("red"), unanswered); err == nil {
				t.Errorf("%s reaches %s as %s", other.name, r.name, who)
			}
		}
	}
}
