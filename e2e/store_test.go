package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/store"
)

// refusesQuickly is what a claim does without a store: at once is better, five seconds are the most.
func (h *host) refusesQuickly(code int, args ...string) {
	h.c.t.Helper()
	began := time.Now()
	r := h.try(args...)
	took := time.Since(began)
	if r.Code != code || !strings.Contains(r.Stderr, "cluster store ") || !strings.Contains(r.Stderr, "is not reachable") {
		h.c.t.Errorf("%s$ weft %s: exit %d, error %q; want exit %d and that the store is not reachable", h.Name, strings.Join(args, " "), r.Code, r.Stderr, code)
	}
	if took > 5*time.Second {
		h.c.t.Errorf("%s$ weft %s: refused after %s, want at most 5 s", h.Name, strings.Join(args, " "), took)
	}
}

// A store that is down refuses connections, and one that hangs takes them and says nothing.
func TestWhatGoesOnWithoutAStore(t *testing.T) {
	for name, away := range map[string]struct{ off, on func(*backend) }{
		"killed": {(*backend).down, (*backend).up},
		"hangs": {
			func(s *backend) { must(s.c.t, s.server.Members[0].Pause()) },
			func(s *backend) { must(s.c.t, s.server.Members[0].Resume()) },
		},
		"cable cut": {
			func(s *backend) { must(s.c.t, s.node.SetLink(false)) },
			func(s *backend) { must(s.c.t, s.node.SetLink(true)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := upWithStore(t)
			withoutStore(t, c, func() { away.off(s) }, func() { away.on(s) })
			records := c.records()
			eventually(t, patience, func() error {
				if got := records.endpoints(); len(got["ep"]) != 3 || len(got["addr"]) != 3 || len(got["name"]) != 3 {
					return fmt.Errorf("the store has %v, want the three endpoints that are left", got)
				}
				return nil
			})
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func withoutStore(t *testing.T, c *cluster, off, on func()) {
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "web")
	h1.weft("network", "create", "-d", "overlay", "other")
	a, b, d := h1.box("a", "web"), h2.box("b", "web").echo(), h3.box("d", "web", "--network", "other").echo()
	gone, ended, left := h2.box("gone", "web"), h2.box("ended", "web"), h3.box("left", "web", "--network", "other")
	addrB, addrD, addrLeft := b.addr("web"), d.addr("web"), left.addr("web")
	for _, x := range []*box{b, d, gone, ended, left} {
		eventually(t, settle, func() error { return a.finds(x.name, x.addr("web")) })
	}
	traffic := a.flow(addrB)

	off()
	h1.refusesQuickly(1, "network", "create", "-d", "overlay", "new")
	h1.refusesQuickly(1, "network", "connect", "other", "a")
	h2.refusesQuickly(125, "run", "-d", "--rm", "--name", "new", "--network", "web", "--", "sleep", forever)
	h2.refusesQuickly(125, "run", "-d", "--rm", "--name", "new", "--network", "other", "--", "sleep", forever)

	if err := a.reaches(addrD); err != nil {
		t.Error(err)
	}
	for name, addr := range map[string]string{"b": addrB, "d": addrD, "left": addrLeft} {
		if err := a.finds(name, addr); err != nil {
			t.Error(err)
		}
	}
	if got := h1.weft("network", "ls", "-q", "-f", "type=custom"); len(strings.Fields(got)) != 2 {
		t.Errorf("networks: %q, want both", got)
	}
	if got := h2.weft("network", "inspect", "-f", "{{len .Containers}}", "web"); got != "6" {
		t.Errorf("network inspect shows %s sandboxes, want the six", got)
	}

	h2.weft("rm", "-f", "gone")
	h2.weft("stop", "-t", "0", "ended")
	h2.weft("rm", "ended")
	h3.weft("network", "disconnect", "web", "left")
	h3.weft("rm", "-f", "left")
	if got := h2.weft("ps", "-a", "--format", "{{.Names}}"); got != "b" {
		t.Errorf("sandboxes of host2: %q, want b alone", got)
	}
	if err := b.finds("gone"); err != nil {
		t.Error(err)
	}
	traffic.flows()
	h2.kill() // what was released is in the journal, not in the agent
	h2.up()
	if err := b.finds("a", a.addr("web")); err != nil {
		t.Error(err)
	}
	if err := b.reaches(addrD); err != nil {
		t.Error(err)
	}
	traffic.flows()

	on()
	for _, name := range []string{"gone", "ended", "left"} {
		eventually(t, patience, func() error { return a.finds(name) })
	}
	for _, h := range c.hosts {
		eventually(t, patience, func() error { return h.Joined(within(t, patience)) })
	}
	eventually(t, patience, func() error { // host2's next agent has released what the last one could not
		if left := h1.weft("endpoint", "ls", "--filter", "network=web", "--format", "{{.Name}}"); strings.Contains(left, "gone") {
			return fmt.Errorf("the store still has gone: %q", left)
		}
		return nil
	})
	again := h3.box("gone", "web").echo() // its name is free again
	eventually(t, settle, func() error { return a.finds("gone", again.addr("web")) })
	eventually(t, settle, func() error { return a.reaches(again.addr("web")) })
	h3.weft("rm", "-f", "gone")
	h3.weft("network", "disconnect", "other", "d")
	traffic.end()
}

func TestAStoreThatComesLaterThanTheAgents(t *testing.T) {
	t.Parallel()
	c, s := newClusterWithStore(t, 2)
	for _, h := range c.hosts {
		h.up()
	}
	c.hosts[0].refusesQuickly(1, "network", "create", "-d", "overlay", "web")
	if got := c.hosts[0].weft("network", "ls", "--format", "{{.Name}}"); !strings.Contains(got, "none") {
		t.Errorf("without a store the networks are %q, want the built-in ones", got)
	}
	c.hosts[0].weft("run", "--rm", "--network", "none", "--", "true")
	s.start()
	for _, h := range c.hosts {
		h.awaitJoined()
	}
	c.hosts[0].weft("network", "create", "-d", "overlay", "web")
	a, b := c.hosts[0].box("a", "web"), c.hosts[1].box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(b.addr("web")) })
}

// A start that the store's absence refuses leaves the sandbox what it had: the address that was asked for is held on.
func TestAStartWithoutTheStoreGivesNoAddressAway(t *testing.T) {
	t.Parallel()
	c, s := newClusterWithStore(t, 2)
	s.start()
	c.start()
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.50.0.0/24", "web")
	h1.weft("run", "-d", "--name", "a", "--network", "web", "--ip", "10.50.0.50", "--", "sleep", forever)
	h1.weft("stop", "-t", "0", "a")
	s.down()
	h1.refusesQuickly(1, "start", "a")
	s.up()
	for _, h := range c.hosts {
		h.awaitJoined()
	}
	if got := h1.weft("inspect", "-f", "{{.NetworkSettings.Networks.web.IPAddress}}", "a"); got != "10.50.0.50" {
		t.Errorf("the stopped sandbox has the address %q, want the one that it asked for", got)
	}
	h1.weft("network", "create", "-d", "overlay", "later") // a pass of the host's has followed
	h2.refuses(125, "Address already in use", "run", "--rm", "--network", "web", "--ip", "10.50.0.50", "--", "true")
	h1.weft("start", "a")
}

// An agent that starts while the store is away gives its host back all that it had.
func TestAHostThatStartsWithoutTheStore(t *testing.T) {
	t.Parallel()
	c, s := upWithStore(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(b.addr("web")) })
	eventually(t, settle, func() error { return b.finds("a", a.addr("web")) })
	eventually(t, patience, func() error { return pictureSaved(h2) })
	addrA, addrB := a.addr("web"), b.addr("web")
	traffic := a.flow(addrB)
	s.down()
	h2.kill()
	h2.up()
	eventually(t, settle, func() error { return b.finds("a", addrA) })
	if got := h2.weft("ps", "--format", "{{.Names}}"); got != "b" {
		t.Errorf("sandboxes: %q, want b", got)
	}
	h2.weft("stop", "-t", "0", "b")
	traffic.stopQuietly()
	s.up()
	eventually(t, patience, func() error { return a.finds("b") })
	h2.weft("start", "b")
	eventually(t, settle, func() error { return a.finds("b", b.addr("web")) })
}

func TestARecordThatCannotBeRead(t *testing.T) {
	t.Parallel()
	c, _ := upWithStore(t)
	c.leavesAiling("there is a record that cannot be read")
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	h1.weft("network", "create", "-d", "overlay", "other")
	a, b := h1.box("a", "web"), h2.box("b", "web").echo()
	victim := h2.box("victim", "web")
	eventually(t, settle, func() error { return a.finds("victim", victim.addr("web")) })
	records, scribbled := c.records(), false
	for _, e := range records.ofNetworks() {
		if strings.HasPrefix(e.Key.Name, "ep/") && strings.Contains(string(e.Value), `"victim"`) {
			scribbled = true
			records.put(e.Key, "{scribble")
		}
	}
	if !scribbled {
		t.Fatal("the store has no record of victim")
	}
	records.put(store.Key{Partition: store.Meta, Name: networksPrefix + strings.Repeat("f", 64)}, "\x00\xff not a record")
	for _, h := range []*host{h1, h2} {
		eventually(t, settle, func() error {
			got := h.weft("host", "ls", "--format", "{{.Notes}}")
			if !strings.Contains(got, "ffffffffffff") || !strings.Contains(got, "corrupt") {
				return fmt.Errorf("host ls says %q, want the name of the corrupt record", got)
			}
			return nil
		})
	}
	if err := a.reaches(b.addr("web")); err != nil {
		t.Error(err)
	}
	h1.weft("network", "connect", "other", "a")
	d := h2.box("d", "other").echo()
	eventually(t, settle, func() error { return a.reaches(d.addr("other")) })
	if err := h1.Restart(within(t, patience)); err != nil { // nor does one stop an agent from starting
		t.Fatal(err)
	}
	eventually(t, settle, func() error { return a.finds("b", b.addr("web")) })
}

// Nor is one that somebody empties while the agents look on: what runs goes on.
func TestAStoreThatIsEmptied(t *testing.T) {
	t.Parallel()
	c, _ := upWithStore(t)
	c.leavesAiling("the store is empty")
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(b.addr("web")) })
	addrB := b.addr("web")
	traffic := a.flow(addrB)
	c.records().empty()
	for _, h := range []*host{h1, h2} {
		eventually(t, patience, func() error {
			if got := h.weft("host", "ls", "--format", "{{.Notes}}"); !strings.Contains(got, "lost the record of cluster") {
				return fmt.Errorf("host ls says %q, want that the store was emptied", got)
			}
			return nil
		})
	}
	traffic.flows()
	traffic.end()
	if err := errors.Join(a.reaches(addrB), a.finds("b", addrB)); err != nil {
		t.Error(err)
	}
}

// A store that has lost everything is no truth: nothing is taken down because of it.
func TestAStoreThatComesBackEmpty(t *testing.T) {
	t.Parallel()
	c, s := upWithStore(t)
	c.leavesAiling("the store is empty")
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(b.addr("web")) })
	addrA, addrB := a.addr("web"), b.addr("web")
	traffic := a.flow(addrB)
	eventually(t, patience, func() error { return pictureSaved(h2) })
	s.down()
	s.lose()
	s.up()
	eventually(t, patience, func() error {
		if got := h1.weft("host", "ls", "--format", "{{.Notes}}"); !strings.Contains(got, "lost the record of cluster") {
			return fmt.Errorf("host ls says %q, want that the store was emptied", got)
		}
		return nil
	})
	traffic.flows()
	h2.kill()
	h2.up()
	traffic.flows()
	traffic.end()
	if err := errors.Join(a.reaches(addrB), b.finds("a", addrA)); err != nil {
		t.Error(err)
	}
	if got := h2.weft("ps", "--format", "{{.Names}}"); got != "b" {
		t.Errorf("sandboxes: %q, want b", got)
	}
}
