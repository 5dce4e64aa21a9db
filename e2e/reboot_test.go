package e2e

import (
	"errors"
	"fmt"
	"testing"
)

// mac is a sandbox's hardware address in a network.
func (b *box) mac(network string) string {
	b.h.c.t.Helper()
	return b.h.weft("inspect", "--type", "sandbox", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).MacAddress}}", network), b.name)
}

// Given hosts that lose their power while the store is away, too, when both are back, whichever comes first, then the sandboxes with a policy have
// their addresses, hardware addresses and published ports without a command; the others are down, and what they asked for is held for them.
func TestARebootRehearsal(t *testing.T) {
	for _, first := range []string{"the store", "the host"} {
		t.Run(first+" comes back first", func(t *testing.T) {
			t.Parallel()
			c, s := upWithStore(t)
			h1, h2 := c.hosts[0], c.hosts[1]
			h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
			witness := h1.box("witness", "web")
			gap := h2.box("gap", "web")
			a := h2.box("a", "web", "--restart", "always")
			down := h2.box("down", "web", "--ip", "10.1.0.50")
			h2.weft("rm", "-f", gap.name)
			addr, mac := a.addr("web"), a.mac("web")
			eventually(t, settle, func() error { return witness.finds("a", addr) })
			eventually(t, patience, func() error { return pictureSaved(h2) })

			s.down()
			must(t, h2.PowerOff(within(t, patience)))
			if first == "the store" {
				s.up()
			}
			h2.up()
			if first == "the host" {
				s.up()
			}
			h2.awaitJoined()
			h2.awaitLife("a", runs)
			if got, at := a.addr("web"), a.mac("web"); got != addr || at != mac {
				t.Errorf("after the reboot a has %s and %s, it had %s and %s", got, at, addr, mac)
			}
			eventually(t, patience, func() error {
				return errors.Join(witness.finds("a", addr), witness.pings(addr, 8, soon))
			})
			if v := h2.life(down.name); v.State.Status != "exited" {
				t.Errorf("down is %+v after a reboot", v)
			}
			h1.refuses(125, "Address already in use", "run", "-d", "--name", "thief", "--network", "web", "--ip", "10.1.0.50", "--", "sleep", forever)
			h1.refuses(125, "", "run", "-d", "--name", "down", "--network", "web", "--", "sleep", forever)
			h2.weft("start", "down")
			eventually(t, settle, func() error { return witness.finds("down", "10.1.0.50") })
			h1.soundStore()
		})
	}
}
