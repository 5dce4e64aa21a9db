package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// doubts waits until a host says that its store is not believed, and what to do.
func (h *host) doubts() {
	h.c.t.Helper()
	eventually(h.c.t, patience, func() error {
		if got := h.weft("host", "ls", "--format", "{{.Notes}}"); !strings.Contains(got, "weft store reseed") {
			return fmt.Errorf("host ls of %s says %q, want that the store is not believed", h.Name, got)
		}
		return nil
	})
}

// soundStore waits until nothing is wrong with the store: the hosts put right what is their own when they have joined again.
func (h *host) soundStore() {
	h.c.t.Helper()
	eventually(h.c.t, patience, func() error {
		r, err := h.Weft(within(h.c.t, patience), "store", "check")
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("store check: %s%s", r.Stdout, r.Stderr)
		}
		return err
	})
}

func (c *cluster) allJoined() {
	c.t.Helper()
	for _, h := range c.hosts {
		h.awaitJoined()
	}
}

// Given a store that is emptied, or set back by its own tools to what it was before the last changes, when it is reseeded, then all goes on as
// it was before the loss: no packet is lost, names, addresses and networks are there, what was removed stays removed, and what is given out next is
// nobody's.
func TestAStoreIsReseeded(t *testing.T) {
	for name, old := range map[string]bool{"emptied": false, "set back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := upWithStore(t)
			h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
			for _, n := range []string{"web", "back", "idle", "doomed"} {
				h1.weft("network", "create", "-d", "overlay", n)
			}
			a, b, d := h1.box("a", "web"), h2.box("b", "web", "--network-alias", "api,mode=vip", "--network", "back").echo(), h3.box("d", "back").echo()
			before := h2.box("before", "web")
			lose := s.lose
			if old {
				s.down()
				lose = s.save()
				s.up()
				c.allJoined()
			}
			h1.weft("network", "rm", "doomed")
			h2.weft("rm", "-f", before.name)
			after := h2.box("after", "web").echo()
			for _, x := range []*box{b, after} {
				eventually(t, settle, func() error { return a.finds(x.name, x.addr("web")) })
			}
			held := []string{a.addr("web"), b.addr("web"), after.addr("web")}
			traffic := a.flow(b.addr("web"))

			s.down()
			lose()
			s.up()
			for _, h := range c.hosts {
				h.doubts()
			}
			h1.refuses(125, "is not believed", "run", "-d", "--name", "thief", "--network", "web", "--", "sleep", forever)
			h1.weft("store", "reseed", "--dry-run")
			h1.doubts()
			if got := h1.weft("store", "reseed"); !strings.Contains(got, "Put back") || strings.Contains(got, "Not heard") {
				t.Errorf("store reseed says %q", got)
			}
			c.allJoined()
			h1.soundStore()
			traffic.flows()
			if got := strings.Fields(h3.weft("network", "ls", "-f", "type=custom", "-f", "driver=overlay", "--format", "{{.Name}}")); !slices.Equal(got, []string{"back", "idle", "web"}) {
				t.Errorf("networks: %q", got)
			}
			for _, x := range []*box{b, after} {
				eventually(t, settle, func() error { return a.finds(x.name, x.addr("web")) })
			}
			eventually(t, settle, func() error { return b.finds("d", d.addr("back")) })
			eventually(t, settle, func() error { return a.finds("before") })
			next := h1.box("next", "web")
			if got := next.addr("web"); slices.Contains(held, got) {
				t.Errorf("the next sandbox has %s, which is another one's", got)
			}
			h2.refuses(125, "Address already in use", "run", "-d", "--name", "thief", "--network", "web", "--ip", held[0], "--", "sleep", forever)
			h1.refuses(1, "nothing to put back", "store", "reseed")
			traffic.end()
		})
	}
}

// Given a host whose agent is away, then what others know of it is held for it; a network that it alone knows keeps the store from being believed,
// until it is back or that is insisted upon.
func TestAReseedWhileAnAgentIsAway(t *testing.T) {
	t.Parallel()
	c, s := upWithStore(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	a, b := h1.box("a", "web"), h3.box("b", "web", "--ip", "10.1.0.50").echo()
	eventually(t, settle, func() error { return a.finds("b", "10.1.0.50") })
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.2.0.0/24", "dark")
	only := h3.box("only", "dark")
	eventually(t, patience, func() error { return pictureSaved(h3) })
	if err := h3.Stop(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.down()
	s.lose()
	s.up()
	h1.doubts()
	h2.doubts()
	h1.refuses(1, "dark", "store", "reseed")
	h1.doubts()
	h1.refuses(125, "is not believed", "run", "-d", "--name", "thief", "--network", "dark", "--", "sleep", forever)
	if got := h1.weft("store", "reseed", "--force"); !strings.Contains(got, h3.Name) {
		t.Errorf("store reseed says %q, want that %s is still to come", got, h3.Name)
	}
	h1.awaitJoined()
	h2.awaitJoined()
	if err := a.reaches("10.1.0.50"); err != nil {
		t.Error(err)
	}
	h2.refuses(125, "Address already in use", "run", "-d", "--name", "thief", "--network", "web", "--ip", "10.1.0.50", "--", "sleep", forever)
	h3.up()
	h3.awaitJoined()
	eventually(t, settle, func() error { return a.finds("b", b.addr("web")) })
	eventually(t, settle, func() error { // until then its address is anybody's: that was insisted upon
		if got := h1.weft("endpoint", "ls", "-f", "network=dark", "--format", "{{.Name}}"); got != "only" {
			return fmt.Errorf("in dark are %q", got)
		}
		return nil
	})
	asker := h2.box("asker", "dark")
	eventually(t, settle, func() error { return asker.finds("only", only.addr("dark")) })
	h1.soundStore()
}

// Given an agent that is killed in the middle of a reseed, over and over, then the store is not believed until one has come to its end.
func TestAReseedIsKilled(t *testing.T) {
	t.Parallel()
	c, s := upWithStore(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.finds("b", b.addr("web")) })
	eventually(t, patience, func() error { return pictureSaved(h2) })
	traffic := a.flow(b.addr("web"))
	s.down()
	s.lose()
	s.up()
	h1.doubts()
	h2.doubts()
	h3.doubts()
	for i, wait := range []time.Duration{0, 30, 100, 300} {
		cmd := h2.Command(within(t, patience), "store", "reseed")
		must(t, cmd.Start())
		time.Sleep(wait * time.Millisecond)
		h2.kill()
		_ = cmd.Wait() // it cannot have got an answer, or has
		if i%2 == 0 {
			h1.refuses(125, "is not believed", "run", "-d", "--rm", "--name", "thief", "--network", "web", "--", "sleep", forever)
		}
		h2.up()
	}
	eventually(t, patience, func() error {
		r, err := h1.Weft(within(t, patience), "store", "reseed")
		if err == nil && r.Code != 0 && !strings.Contains(r.Stderr, "nothing to put back") {
			err = fmt.Errorf("store reseed: %s", r.Stderr)
		}
		return err
	})
	c.allJoined()
	h1.soundStore()
	eventually(t, settle, func() error { return a.finds("b", b.addr("web")) })
	traffic.end()
}
