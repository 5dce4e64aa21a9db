package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// settle is how long what one host does may take to be true on the others; the store's part of it is a few milliseconds.
const settle = 5 * time.Second

func TestOverlayAcrossHosts(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]

	id := h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24", "web")
	if len(id) != 64 {
		t.Errorf("network create printed %q, want an ID of 64 digits alone", id)
	}
	for _, h := range c.hosts {
		eventually(t, settle, func() error {
			if got := h.weft("network", "ls", "--no-trunc", "-q", "-f", "name=web"); got != id {
				return fmt.Errorf("%s lists %q, want %s", h.Name, got, id)
			}
			return nil
		})
	}

	a := h1.box("a", "web", "--network-alias", "first").echo()
	b := h2.box("b", "web", "--ip", "10.2.0.20", "--hostname", "bee").echo()
	d := h3.box("d", "web").echo()
	if got := b.addr("web"); got != "10.2.0.20" {
		t.Errorf("b has %s, want the address that it asked for", got)
	}
	if !strings.HasPrefix(a.addr("web"), "10.1.0.") || !strings.HasPrefix(d.addr("web"), "10.1.0.") {
		t.Errorf("a has %s and d has %s, want addresses of the first subnet", a.addr("web"), d.addr("web"))
	}

	all := []*box{a, b, d}
	for _, from := range all {
		for _, to := range all {
			eventually(t, settle, func() error { return from.reaches(to.addr("web")) })
			for _, name := range []string{to.name, strings.ToUpper(to.name), to.name + ".web", to.id[:12]} {
				eventually(t, settle, func() error { return from.finds(name, to.addr("web")) })
			}
		}
	}
	for _, from := range all {
		eventually(t, settle, func() error { return from.finds("first", a.addr("web")) })
		eventually(t, settle, func() error { return from.finds("bee", b.addr("web")) })
		if err := from.finds("nobody"); err != nil {
			t.Error(err)
		}
	}
	if who, err := a.greeting(b.addr("web"), soon); err != nil || who != a.addr("web") {
		t.Errorf("b sees a as %q, %v; want its own address %s, untranslated", who, err, a.addr("web"))
	}
}

func TestInspectShowsTheEndpointsOfAllHosts(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "--label", "tier=front", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web", "--ip", "10.1.0.77")
	h2.box("c", "web")
	h2.weft("stop", "-t", "0", "c")

	type view struct {
		Name, Scope, Driver string
		Labels              map[string]string
		IPAM                struct {
			Config []struct{ Subnet, Gateway string }
		}
		Containers map[string]struct{ Name, IPv4Address, MacAddress, Host string }
	}
	for _, h := range []*host{h1, h3} { // one that takes part in it, and one that does not
		v := inspect[view](h, "network", "inspect", "web")
		if v.Name != "web" || v.Scope != "global" || v.Driver != "overlay" || v.Labels["tier"] != "front" || v.IPAM.Config[0].Gateway != "10.1.0.1" {
			t.Errorf("%s inspects %+v", h.Name, v)
		}
		if got := v.Containers[a.id]; got.Name != "a" || got.Host != "host1" || got.IPv4Address != a.addr("web")+"/24" {
			t.Errorf("%s inspects a as %+v", h.Name, got)
		}
		if got := v.Containers[b.id]; got.Name != "b" || got.Host != "host2" || got.IPv4Address != "10.1.0.77/24" || got.MacAddress != "02:42:0a:01:00:4d" {
			t.Errorf("%s inspects b as %+v", h.Name, got)
		}
		if len(v.Containers) != 2 {
			t.Errorf("%s inspects %d sandboxes, want the two that run", h.Name, len(v.Containers))
		}
	}
}

func TestAnAliasRotatesAndLosesWhatStops(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "web")
	a := h1.box("a", "web", "--network-alias", "www")
	b := h2.box("b", "web", "--network-alias", "www")
	client := h3.box("client", "web")
	addrA, addrB := a.addr("web"), b.addr("web")
	eventually(t, settle, func() error { return client.finds("www", addrA, addrB) })

	first := map[string]int{}
	for range 20 {
		got, err := client.lookup("www")
		if err != nil {
			t.Fatal(err)
		}
		first[got[0]]++
	}
	if first[addrA] == 0 || first[addrB] == 0 {
		t.Errorf("twenty answers began with %v, want both addresses in turn", first)
	}

	h2.weft("stop", "-t", "0", "b")
	eventually(t, settle, func() error { return client.finds("www", addrA) })
	if err := client.finds("b"); err != nil {
		t.Error(err)
	}
	h2.weft("start", "b")
	eventually(t, settle, func() error { return client.finds("www", addrA, b.addr("web")) })
	h1.weft("rm", "-f", "a")
	eventually(t, settle, func() error { return client.finds("www", b.addr("web")) })
}

func TestConnectAndDisconnect(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "front")
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.2.0.0/24", "back")
	a, b := h1.box("a", "front").echo(), h2.box("b", "back").echo()
	addrB := b.addr("back")
	if err := a.blind(addrB); err != nil {
		t.Error(err)
	}

	h1.weft("network", "connect", "--alias", "db-client", "--ip", "10.2.0.9", "back", "a")
	eventually(t, settle, func() error { return a.reaches(addrB) })
	eventually(t, settle, func() error { return b.finds("db-client", "10.2.0.9") })
	if err := b.reaches("10.2.0.9"); err != nil {
		t.Error(err)
	}
	h1.refuses(1, "endpoint with name a already exists in network back", "network", "connect", "back", "a")

	h1.weft("network", "disconnect", "back", "a")
	eventually(t, settle, func() error { return b.finds("db-client") })
	if err := a.blind(addrB); err != nil {
		t.Error(err)
	}
	h1.refuses(1, "container a is not connected to network back", "network", "disconnect", "back", "a")
	if err := a.finds("b"); err != nil {
		t.Error(err)
	}
	for range 4 { // at once, while the old interface is still on its way out
		h1.weft("network", "connect", "back", "a")
		h1.weft("network", "disconnect", "back", "a")
	}
	h1.weft("network", "connect", "--ip", "10.2.0.9", "back", "a")
	eventually(t, settle, func() error { return a.reaches(addrB) })
}

func TestASandboxThatIsStoppedConnectsAtItsStart(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "front")
	h1.weft("network", "create", "-d", "overlay", "back")
	b := h2.box("b", "back")
	h1.box("a", "front")
	h1.weft("stop", "-t", "0", "a")
	h1.weft("network", "connect", "--alias", "late", "back", "a")
	if err := b.finds("late"); err != nil {
		t.Error(err)
	}
	h1.weft("start", "a")
	a := &box{h: h1, name: "a"}
	eventually(t, settle, func() error { return b.finds("late", a.addr("back")) })
}

func TestALinkIsANameForOneSandboxOnly(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "web")
	a := h1.box("a", "web", "--link", "b:database") // b is not there yet
	other := h2.box("other", "web")
	if err := a.finds("database"); err != nil {
		t.Error(err)
	}
	b := h3.box("b", "web")
	eventually(t, settle, func() error { return a.finds("database", b.addr("web")) })
	if err := other.finds("database"); err != nil {
		t.Error(err)
	}
}

// Nothing passes between networks, whatever a sandbox takes for its way: its gateway, the hosts, the other's address.
func TestNetworksAreIsolated(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "red")
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.2.0.0/24", "blue")
	red, blue := h1.box("red1", "red").echo(), h1.box("blue1", "blue").echo()
	farRed, farBlue := h2.box("red2", "red").echo(), h2.box("blue2", "blue").echo()
	eventually(t, settle, func() error { return red.reaches(farRed.addr("red")) })
	eventually(t, settle, func() error { return blue.reaches(farBlue.addr("blue")) })
	for _, from := range []*box{red, farRed} {
		for _, to := range []*box{blue, farBlue} {
			if err := from.blind(to.addr("blue")); err != nil {
				t.Errorf("from %s to %s: %v", from.name, to.name, err)
			}
			if err := from.finds(to.name); err != nil {
				t.Error(err)
			}
		}
	}
	// What another host sends in the clear towards a pool is not let through either.
	if err := c.hosts[2].sees(red.addr("red"), h1.Addr.String()); err == nil {
		t.Error("host3 reaches into network red with a route through host1")
	}
}

func TestInternalNetworksHaveNoWayOut(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	echo(c, c.lab.Outside().Path, c.lab.OutsideAddr().String())
	h1.weft("network", "create", "-d", "overlay", "--internal", "inside")
	a, b := h1.box("a", "inside").echo(), h2.box("b", "inside").echo()
	eventually(t, settle, func() error { return a.reaches(b.addr("inside")) })
	if err := a.finds("b", b.addr("inside")); err != nil {
		t.Error(err)
	}
	for _, to := range []string{c.lab.OutsideAddr().String(), c.lab.Outside().Addr.String(), h1.Addr.String(), h2.Addr.String()} {
		if err := a.blind(to); err != nil {
			t.Error(err)
		}
	}
}

func TestEgressIsMasqueraded(t *testing.T) {
	t.Parallel()
	c := up(t)
	echo(c, c.lab.Outside().Path, c.lab.OutsideAddr().String())
	c.hosts[0].weft("network", "create", "-d", "overlay", "web")
	for i, h := range c.hosts {
		b := h.box(fmt.Sprintf("b%d", i), "web")
		var who string
		eventually(t, settle, func() (err error) {
			who, err = b.greeting(c.lab.OutsideAddr().String(), soon)
			return err
		})
		if who != h.Addr.String() {
			t.Errorf("outside sees %s as %s, want its host's address %s", b.name, who, h.Addr)
		}
		if err := b.says(c.lab.OutsideAddr().String(), soon); err != nil {
			t.Error(err)
		}
		if err := b.pings(c.lab.OutsideAddr().String(), 1400, soon); err != nil {
			t.Error(err)
		}
	}
}

// The default route moves to a network that is left when the one that had it goes.
func TestTheDefaultRouteMoves(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1 := c.hosts[0]
	echo(c, c.lab.Outside().Path, c.lab.OutsideAddr().String())
	for _, n := range []string{"front", "back"} {
		h1.weft("network", "create", "-d", "overlay", n)
	}
	a := h1.box("a", "front", "--network", "back")
	h1.weft("network", "disconnect", "front", "a")
	eventually(t, settle, func() error {
		_, err := a.greeting(c.lab.OutsideAddr().String(), soon)
		return err
	})
}
