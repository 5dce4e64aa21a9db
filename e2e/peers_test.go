package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/store"
)

// takes tells whether a host takes another one for what is said.
func (h *host) takes(other *host, state string) error {
	h.c.t.Helper()
	return among(h.weft("host", "ls", "--format", "{{.Name}} {{.State}}"), other.Name+" "+state)
}

// shows tells whether a host lists an endpoint, with the state of its host where that is not alive.
func (h *host) shows(endpoint, state string) error {
	h.c.t.Helper()
	return among(h.weft("endpoint", "ls", "--format", "{{.Name}} {{.State}}"), endpoint+" "+state)
}

// stale tells whether a host lists just these as stale, each with its reason up to a time.
func (h *host) stale(want ...string) error {
	h.c.t.Helper()
	lines := strings.FieldsFunc(h.weft("endpoint", "ls", "--stale", "--format", "{{.Name}}: {{.Why}}"), func(r rune) bool { return r == '\n' })
	slices.Sort(lines)
	if !slices.EqualFunc(lines, want, strings.HasPrefix) {
		return fmt.Errorf("%s takes %q for stale, want %q", h.Name, lines, want)
	}
	return nil
}

func among(list, want string) error {
	if !slices.Contains(strings.Split(list, "\n"), want) {
		return fmt.Errorf("want %q among %q", want, list)
	}
	return nil
}

// cleared is what an agent tells of the endpoints that it has cleared.
func (h *host) cleared() string {
	h.c.t.Helper()
	return h.weft("events", "--since", "1h", "--until", "0s", "-f", "type=endpoint", "-f", "event=clear",
		"--format", "{{.Actor.Attributes.name}}: {{.Actor.Attributes.reason}}")
}

// within3s is how long a command may take that is refused on account of a host that is gone.
const within3s = 3 * time.Second

// Given a host whose way to the store alone is cut, when its session ends, then the others, which it answers, take it for detached: its sandboxes have their
// names and are reached, it is commanded, and nothing of it is cleared, however long that lasts; and it is alive again when the way is back.
func TestAHostWithoutTheStoreIsDetached(t *testing.T) {
	t.Parallel()
	const grace = 2 * time.Second
	c := lossy(t, grace)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	client := h1.box("client", "web").echo()
	b := h2.box("b", "web").echo()
	addr := b.addr("web")
	there := func() error { return errors.Join(client.finds("b", addr), b.finds("client", client.addr("web"))) }
	eventually(t, settle, func() error { return errors.Join(there(), client.reaches(addr)) })
	h3.knowsPeers()
	across := client.flow(addr)

	h2.does("nft", "add table inet others; add chain inet others out { type filter hook output priority 0; }; "+
		fmt.Sprintf("add rule inet others out tcp dport %d drop", ports[kind]))
	for _, h := range []*host{h1, h3} {
		eventually(t, noticed, func() error {
			must(t, there())
			return errors.Join(h.takes(h2, "detached"), h.shows("b", "detached"))
		})
	}
	for end := time.Now().Add(3 * grace); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		must(t, errors.Join(there(), h1.takes(h2, "detached"), h3.takes(h2, "detached")))
	}
	must(t, client.reaches(addr))
	must(t, h1.stale())
	h3.refuses(125, "endpoint with name b already exists in network web (on host host2)", "run", "-d", "--name", "b", "--network", "web", "--", "sleep", "1")
	h3.weft("exec", "b", "true")
	if n := saying([]*host{h1, h3}, `event="host clear"`) + saying([]*host{h1, h3}, `event="endpoint clear"`); n != 0 {
		t.Errorf("something was cleared, %d times", n)
	}

	h2.does("nft", "delete", "table", "inet", "others")
	for _, h := range c.hosts {
		eventually(t, noticed, func() error { return errors.Join(there(), h.takes(h2, "alive"), h.shows("b", "running")) })
	}
	across.flows()
	across.end()
	c.well()
}

// Given a host that has lost its power, then its names are out of DNS within what the store says, what it has is not given away before the grace time, and is
// by the very next command after it.
func TestAHostLosesItsPower(t *testing.T) {
	t.Parallel()
	const grace = 6 * time.Second
	c := lossy(t, grace)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	client := h1.box("client", "web")
	b := h2.box("b", "web", "--ip", "10.1.0.50")
	eventually(t, settle, func() error { return client.finds("b", b.addr("web")) })
	bound, err := time.ParseDuration(h1.weft("store", "status", "--format", "{{.NoticedWithin}}"))
	must(t, err)
	h1.knowsPeers()

	must(t, h2.PowerOff(within(t, patience)))
	off := time.Now()
	eventually(t, noticed, func() error { return client.finds("b") })
	if took := time.Since(off); took > bound+time.Second {
		t.Errorf("its name was answered for %s, want at most %s and a second", took, bound)
	} else {
		t.Logf("its name was answered for %s; the store says %s", took, bound)
	}
	eventually(t, settle, func() error { return h1.stale("b: host lost for ") })
	for words, wanted := range map[string][]string{
		"container already connected to network web: endpoint b is of host host2, which has been lost for ": {"--name", "b"},
		"Address already in use: 10.1.0.50 belongs to b on host host2, which has been lost for ":            {"--ip", "10.1.0.50"},
	} {
		began := time.Now()
		r := h1.try(append(append([]string{"run", "-d", "--network", "web"}, wanted...), "--", "sleep", "1")...)
		said := strings.Contains(r.Stderr, words) && strings.Contains(r.Stderr, "weft network disconnect -f web b")
		if took := time.Since(began); took > within3s || r.Code != 125 || !said {
			t.Errorf("run %q: exit %d after %s: %s; want %q and what clears it", wanted, r.Code, took, r.Stderr, words)
		}
	}
	eventually(t, patience, func() error {
		why := h1.weft("endpoint", "ls", "--stale", "--format", "{{.Why}}")
		d, _ := time.ParseDuration(strings.TrimPrefix(why, "host lost for "))
		if why != "" && d <= grace { // it is rounded; and an agent may have cleared the host already
			return errors.New(why)
		}
		return nil
	})
	b = h1.box("b", "web", "--ip", "10.1.0.50").echo() // at the first try
	eventually(t, settle, func() error { return errors.Join(client.finds("b", "10.1.0.50"), client.reaches("10.1.0.50")) })
	// By the command, or by whoever was there before it.
	if told := h1.cleared() + h3.cleared(); !strings.HasPrefix(told, "b: ") || !strings.Contains(told, " has been lost for ") {
		t.Errorf("of what was cleared the agents tell %q", told)
	}
	c.well()
}

// Given the record of a sandbox that its host, which is there, does not have, then it is listed as stale, and whoever wants its name has it in one
// step, with an event that says why.
func TestARecordWhoseOwnerHasNoSuchSandbox(t *testing.T) {
	t.Parallel()
	c, _ := upWithStore(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	client := h1.box("client", "web")
	ghost := h2.box("ghost", "web", "--ip", "10.1.0.50").view().NetworkSettings.Networks["web"].EndpointID
	r := c.records()
	kept := slices.DeleteFunc(r.ofNetworks(), func(e store.Entry) bool { return !strings.Contains(e.Key.Name+string(e.Value), ghost) })
	h2.weft("rm", "-f", "ghost")
	must(t, h2.Restart(within(t, patience))) // so that it takes no part in the network, whose records it would put right
	h2.awaitJoined()
	h1.knowsPeers()
	h3.knowsPeers()
	var txn store.Txn
	for _, e := range kept {
		txn.Then = append(txn.Then, store.Put(e.Key, e.Value))
	}
	_, err := r.store.Txn(within(t, patience), txn)
	must(t, err)

	eventually(t, settle, func() error { return client.finds("ghost", "10.1.0.50") })
	must(t, h1.stale("ghost: no such sandbox there"))
	b := h3.box("ghost", "web", "--ip", "10.1.0.50").echo()
	eventually(t, settle, func() error { return errors.Join(client.finds("ghost", "10.1.0.50"), client.reaches(b.addr("web"))) })
	if told, want := h3.cleared(), "ghost: host host2 says that it has no such sandbox"; told != want {
		t.Errorf("host3 tells %q, want %q", told, want)
	}
	must(t, h1.stale())
	h1.weft("store", "check")
	c.well()
}

// Given a sandbox whose process is killed, then its name is answered no more, on its host at once and on the others within a second.
func TestTheNameOfAKilledSandbox(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	far, near, b := h1.box("far", "web"), h2.box("near", "web"), h2.box("b", "web")
	addr := b.addr("web")
	eventually(t, settle, func() error { return errors.Join(far.finds("b", addr), near.finds("b", addr)) })
	pid := inspectPID(h2, "b")
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	killed := time.Now()
	took := map[string]time.Duration{}
	for _, x := range []*box{near, far} {
		eventually(t, settle, func() error { return x.finds("b") })
		took[x.name] = time.Since(killed)
	}
	t.Logf("the name was answered for %s on its host, and for %s on another", took["near"], took["far"])
	if took["near"] > 500*time.Millisecond || took["far"] > time.Second {
		t.Error("that is too long")
	}
	h1.weft("store", "check")
	c.well()
}

// Given endpoints of a host that is gone, then a host that takes no part in their network clears each, by whatever users know of it, as often as they like. What is
// live is refused, and with --live its owner drops it.
func TestStaleEndpointsAreClearedFromAThirdHost(t *testing.T) {
	t.Parallel()
	c := lossy(t, time.Hour)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	client := h1.box("client", "web")
	byName, bySandbox, byEndpoint, byPrefix := h2.box("byname", "web"), h2.box("bysandbox", "web"), h2.box("byendpoint", "web"), h2.box("byprefix", "web")
	refs := [][2]string{
		{"byendpoint", byEndpoint.view().NetworkSettings.Networks["web"].EndpointID}, {"byname", byName.name},
		{"byprefix", byPrefix.id[:16]}, {"bysandbox", bySandbox.id},
	}
	h3.knowsPeers()
	for _, r := range refs {
		h3.refuses(1, "is alive", "network", "disconnect", "-f", "web", r[1])
	}
	live := h2.box("live", "web").echo()
	eventually(t, settle, func() error { return client.reaches(live.addr("web")) })
	h3.weft("network", "disconnect", "-f", "--live", "web", "live")
	eventually(t, settle, func() error {
		if nets := live.view().NetworkSettings.Networks; len(nets) != 0 {
			return fmt.Errorf("live is in %v", nets)
		}
		return nil
	})
	eventually(t, settle, func() error { return client.finds("live") })
	must(t, h3.stale())

	must(t, h2.PowerOff(within(t, patience)))
	eventually(t, noticed, func() error {
		return h3.stale("byendpoint: host lost for ", "byname: host lost for ", "byprefix: host lost for ", "bysandbox: host lost for ")
	})
	for i, r := range refs {
		for range 2 {
			h3.weft("network", "disconnect", "-f", "web", r[1])
		}
		var left []string
		for _, l := range refs[i+1:] {
			left = append(left, l[0]+": ")
		}
		eventually(t, settle, func() error { return errors.Join(h1.stale(left...), h3.stale(left...)) })
	}
	for _, r := range refs {
		if want := r[0] + ": network disconnect -f: host host2 has been lost for "; strings.Count(h3.cleared(), want) != 1 {
			t.Errorf("host3 tells %q, want %q once", h3.cleared(), want)
		}
	}
	h1.weft("network", "disconnect", "web", "client")
	h3.weft("network", "rm", "web")
	c.well()
	h2.up()
	h2.awaitJoined()
	eventually(t, settle, func() error {
		if nets := byName.view().NetworkSettings.Networks; len(nets) != 0 {
			return fmt.Errorf("on host2 byname is in %v", nets)
		}
		return nil
	})
	c.well()
}

// Given two hosts of one name, then all works, every host says so of both, and a command that means one of them has to give its ID.
func TestTwoHostsOfOneName(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	for _, h := range []*host{h1, h2} {
		h.up()
		h.awaitJoined()
	}
	h3.Args = []string{"--name", "HOST2"}
	h3.up()
	ids := map[string]string{}
	eventually(t, patience, func() error {
		for line := range strings.Lines(h1.weft("host", "ls", "--no-trunc", "--format", "{{.ID}} {{.VTEP}} {{.Notes}}")) {
			id, rest, _ := strings.Cut(line, " ")
			addr, note, _ := strings.Cut(rest, " ")
			if ids[addr] = id; addr != h1.Addr.String() && !strings.Contains(note, "too: name one of them by its ID") {
				return fmt.Errorf("of %s it is said %q", addr, note)
			}
		}
		if len(ids) != 3 {
			return fmt.Errorf("the hosts are %v", ids)
		}
		return nil
	})
	id2, id3 := ids[h2.Addr.String()], ids[h3.Addr.String()]
	for _, args := range [][]string{{"host", "inspect", "host2"}, {"host", "rm", "host2"}, {"rm", "-f", "host2/b"}} {
		h1.refuses(1, "host host2 is ambiguous", args...)
	}
	eventually(t, settle, func() error {
		told := h1.weft("events", "--since", "1h", "--until", "0s", "-f", "type=host", "-f", "event=ambiguous", "--format", "{{.Actor.ID}}")
		if !strings.Contains(told, id2) || !strings.Contains(told, id3) {
			return fmt.Errorf("host1 tells of %q, want %s and %s", told, id2, id3)
		}
		return nil
	})

	h1.weft("network", "create", "-d", "overlay", "web")
	client, b, d := h1.box("client", "web"), h2.box("b", "web").echo(), h3.box("d", "web").echo()
	for _, x := range []*box{b, d} {
		eventually(t, settle, func() error { return errors.Join(client.finds(x.name, x.addr("web")), client.reaches(x.addr("web"))) })
	}
	eventually(t, patience, func() error {
		if r := h1.try("exec", id3[:12]+"/d", "true"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	h1.weft("exec", id2+"/b", "true")
	c.well()
}
