package e2e

import (
	"fmt"
	"strings"
	"testing"

	"weft/e2e/lab"
)

// Tunnels go over IPv6 where the hosts' data addresses are of that family, and what they carry does not change but for the MTU.
func TestTunnelsOverIPv6(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, lab.Embedded{})
	underlay6(c)
	for i, h := range c.hosts {
		h.VTEP = host6(i + 1)
		h.Args = []string{"--data-addr", h.VTEP.String()}
	}
	c.hosts[2].Args = []string{"--cluster-advertise", fmt.Sprintf("[%s]:7790", c.hosts[2].VTEP)}
	c.start()
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.1.0.0/24", "--subnet", "fd00:1::/64", "-o", "weft.multicast=true", "web")
	if got := h1.weft("network", "inspect", "-v", "-f", "{{.MTU}}", "web"); got != "1430" {
		t.Errorf("the network's MTU is %s, want 1500 less 70", got)
	}
	all := []*box{h1.box("a", "web").echo().echo6(), h2.box("b", "web").echo().echo6(), h3.box("d", "web").echo().echo6()}
	for _, from := range all {
		for _, to := range all {
			eventually(t, settle, func() error { return from.reaches(to.addr("web")) })
			eventually(t, settle, func() error { return from.reaches6(to.addr6("web")) })
			eventually(t, settle, func() error { return from.finds(to.name, to.addr("web")) })
		}
	}
	ears := map[*box]func() map[string]int{all[1]: all[1].ears(), all[2]: all[2].ears()}
	all[0].shouts(group.String(), "over IPv6")
	for b, heard := range ears {
		if got := heard(); got["over IPv6"] != 1 {
			t.Errorf("%s heard %v", b.name, got)
		}
	}
	h2.kill()
	h2.up()
	h2.awaitJoined()
	if err := all[1].reaches(all[2].addr("web")); err != nil {
		t.Errorf("after an agent's restart: %v", err)
	}
}

// A host whose tunnel address is of the other family says so.
func TestTunnelsOfTwoFamiliesAreTold(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	underlay6(c)
	c.hosts[0].up()
	c.hosts[0].awaitJoined()
	c.hosts[1].Args = []string{"--data-addr", host6(2).String()}
	c.hosts[1].up()
	eventually(t, patience, func() error {
		r := c.hosts[1].try("host", "ls")
		if !strings.Contains(r.Stdout+r.Stderr, "different address families") {
			return fmt.Errorf("it lists %s%s", r.Stdout, r.Stderr)
		}
		return nil
	})
}
