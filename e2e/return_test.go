package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// A host that is cut off from store and peers is cleared by one agent after the grace time. When it is back, with its sandboxes running all the
// while, it isolates what others have taken, says so once, claims the rest again as it was, and a restart attaches what was lost anew.
func TestAHostComesBackAfterItWasCleared(t *testing.T) {
	t.Parallel()
	c := lossy(t, 3*time.Second)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	client := h1.box("client", "web")
	taken, free := h2.box("taken", "web", "--ip", "10.1.0.50").echo(), h2.box("free", "web").echo()
	dynamic := h2.box("dynamic", "web").echo()
	h2.box("stopped", "web", "--ip", "10.1.0.60")
	h2.weft("stop", "stopped")
	was := map[string]string{"free": free.addr("web"), "dynamic": dynamic.addr("web")}
	pid := h2.weft("inspect", "-f", "{{.State.Pid}}", "free")
	eventually(t, settle, func() error { return errors.Join(client.finds("free", was["free"]), client.reaches(was["free"])) })

	must(t, h2.SetLink(false))
	eventually(t, noticed, func() error { return client.finds("free") }) // out of DNS
	eventually(t, noticed, func() error {                                // and cleared, with what its stopped sandbox held
		if out := h3.weft("endpoint", "ls", "-f", "host=host2", "-q"); out != "" {
			return fmt.Errorf("of host2 there still is %s", out)
		}
		return nil
	})
	other := h3.box("taken", "web", "--ip", "10.1.0.70").echo() // the name
	third := h3.box("dynamic2", "web", "--ip", was["dynamic"]).echo()
	fourth := h3.box("fourth", "web", "--ip", "10.1.0.60").echo()
	if n := saying([]*host{h1, h3}, `event="host clear"`); n != 1 {
		t.Errorf("%d agents say that they have cleared host2, want one", n)
	}

	must(t, h2.SetLink(true))
	eventually(t, noticed, func() error { return errors.Join(client.finds("free", was["free"]), client.reaches(was["free"])) })
	if now := h2.weft("inspect", "-f", "{{.State.Pid}}", "free"); now != pid {
		t.Errorf("free runs as process %s, was %s: nothing of it was to be touched", now, pid)
	}
	for b, why := range map[*box]string{taken: "the name taken belongs to a sandbox on host host3", dynamic: was["dynamic"] + " belongs to dynamic2 on host host3"} {
		eventually(t, settle, func() error {
			if got := b.view().NetworkSettings.Networks["web"].Isolated; got != why {
				return fmt.Errorf("%s is isolated for %q, want %q", b.name, got, why)
			}
			return nil
		})
		if b.reaches(client.addr("web")) == nil {
			t.Errorf("%s, which is isolated, reaches others", b.name)
		}
	}
	if out := h2.weft("ps", "--format", "{{.Names}} {{.Status}}"); !strings.Contains(out, "(isolated)") {
		t.Errorf("weft ps does not tell: %s", out)
	}
	for _, b := range []*box{other, third, fourth} { // who has it now keeps it
		eventually(t, settle, func() error { return errors.Join(client.finds(b.name, b.addr("web")), client.reaches(b.addr("web"))) })
	}

	h2.weft("restart", "dynamic")
	eventually(t, settle, func() error {
		return errors.Join(client.finds("dynamic", dynamic.addr("web")))
	})
	if dynamic.addr("web") == was["dynamic"] {
		t.Error("a restart gave it an address that is another's")
	}
	h2.refuses(1, "endpoint with name taken already exists in network web (on host host3)", "restart", "-t", "0", "taken")
	h2.refuses(1, "Address already in use: 10.1.0.60 belongs to fourth on host host3", "start", "stopped")
	if n := saying([]*host{h2}, `event="container isolate"`); n != 3 {
		t.Errorf("it says of %d sandboxes that they are isolated, want once of each of 3", n)
	}
	h1.weft("store", "check")
}

// saying counts the lines of hosts' logs that have some words.
func saying(hosts []*host, words string) int {
	n := 0
	for _, h := range hosts {
		n += strings.Count(h.Log(10_000), words)
	}
	return n
}

// A host that is gone for good is taken out of the cluster whole, and one that has only been away joins anew.
func TestAHostIsRemoved(t *testing.T) {
	t.Parallel()
	c := lossy(t, time.Hour)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	h1.weft("network", "create", "-d", "overlay", "back")
	client := h1.box("client", "web")
	h2.box("a", "web", "--ip", "10.1.0.50")
	h2.box("b", "back")
	h1.refuses(1, "host host2 is alive", "host", "rm", "host2")
	h1.refuses(1, "host host1 is this one", "host", "rm", "host1")
	h1.refuses(1, "no such host", "host", "rm", "host9")

	must(t, h2.PowerOff(within(t, patience)))
	h3.awaitLoss(h2)
	eventually(t, noticed, func() error {
		if r := h3.try("host", "rm", "host2"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	if out := h3.weft("host", "ls", "-q"); len(strings.Fields(out)) != 2 {
		t.Errorf("the hosts are %s, want two", out)
	}
	if out := h3.weft("endpoint", "ls", "-f", "host=host2", "-q"); out != "" {
		t.Errorf("of host2 there still is %s", out)
	}
	h1.weft("network", "rm", "back")
	a := h3.box("a", "web", "--ip", "10.1.0.50").echo()
	eventually(t, settle, func() error { return errors.Join(client.finds("a", a.addr("web")), client.reaches(a.addr("web"))) })

	must(t, os.RemoveAll(h2.pki(""))) // nobody trusts it any more
	h2.up()
	eventually(t, noticed, func() error {
		if out := h1.weft("host", "ls", "-q"); len(strings.Fields(out)) != 3 {
			return fmt.Errorf("the hosts are %s, want three", out)
		}
		return nil
	})
	h2.refuses(1, "in network web (on host host3)", "start", "a")
	h1.weft("store", "check")
}
