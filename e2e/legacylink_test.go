package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// plain runs a sandbox in the default network.
func (h *host) plain(name string, options ...string) *box {
	h.c.t.Helper()
	args := append([]string{"run", "-d", "--name", name}, options...)
	b := &box{h: h, name: name, id: h.weft(append(args, "--", "sleep", forever)...)}
	b.netns = b.view().NetworkSettings.SandboxKey
	return b
}

// knows is nil where /etc/hosts of a sandbox has a line.
func (b *box) knows(line string) error {
	got := b.h.weft("exec", b.name, "cat", "/etc/hosts")
	for l := range strings.Lines(got) {
		if strings.Join(strings.Fields(l), " ") == line {
			return nil
		}
	}
	return fmt.Errorf("/etc/hosts of %s has no line %q:\n%s", b.name, line, got)
}

// resolv is a sandbox's /etc/resolv.conf.
func (b *box) resolv() string {
	b.h.c.t.Helper()
	return b.h.weft("exec", b.name, "cat", "/etc/resolv.conf")
}

// takeAddress runs sandboxes until one has an address in the default network; others give theirs back.
func (h *host) takeAddress(addr string) {
	h.c.t.Helper()
	n := 0
	eventually(h.c.t, patience, func() error {
		n++
		b := h.plain(fmt.Sprintf("thief%d", n))
		if got := b.addr("bridge"); got != addr {
			h.weft("rm", "-f", b.name)
			return fmt.Errorf("the address is %s, want %s", got, addr)
		}
		return nil
	})
}

func TestLinksOnTheDefaultNetwork(t *testing.T) {
	t.Parallel()
	_, h := alone(t)
	// Given nothing, a link has no target, and its sandbox is not made
	h.refuses(125, "Could not get container for db", "run", "-d", "--name", "web", "--link", "db:webdb", "--", "sleep", forever)
	h.refuses(125, "Network-scoped alias is supported only for containers in user defined networks", "run", "-d", "--network-alias", "x", "--", "sleep", forever)
	h.refuses(125, "Network-scoped alias is supported only for containers in user defined networks", "run", "-d", "--network", "bridge", "--network-alias", "x,mode=vip", "--", "sleep", forever)
	if got := h.weft("ps", "-aq"); got != "" {
		t.Fatalf("left: %s", got)
	}

	// When the target is there, it is in /etc/hosts with alias, host name and name, and in the environment, also of what is executed later
	db := h.plain("db", "-e", "COLOUR=blue", "--expose", "5432")
	web := h.plain("web", "--link", "db:webdb")
	line := func() string { return fmt.Sprintf("%s webdb %s db", db.addr("bridge"), db.id[:12]) }
	must(t, web.knows(line()))
	env := h.weft("exec", "web", "env") + "\n"
	for _, want := range []string{"WEBDB_NAME=/web/webdb", "WEBDB_ENV_COLOUR=blue", "WEBDB_PORT=tcp://" + db.addr("bridge") + ":5432", "WEBDB_PORT_5432_TCP_PORT=5432"} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("the environment has no %s:\n%s", want, env)
		}
	}
	if got := inspect[struct {
		NetworkSettings struct {
			Networks map[string]struct{ Links, Aliases []string }
		}
	}](h, "inspect", "web").NetworkSettings.Networks["bridge"].Links; len(got) != 1 || got[0] != "db:webdb" {
		t.Errorf("inspect shows the links %q", got)
	}
	// And there is no other name: no resolver of weft's, but the host's servers
	if _, err := web.lookup("db"); err == nil {
		t.Error("there is a resolver in the default network")
	}
	if text := web.resolv(); !strings.Contains(text, "nameserver ") || strings.Contains(text, "127.0.0.") {
		t.Errorf("resolv.conf: %s", text)
	}

	// When the target returns with another address, or an agent has died meanwhile, or the target is called otherwise, the line follows
	old := db.addr("bridge")
	h.weft("stop", "-t", "0", "db")
	h.takeAddress(old)
	h.weft("start", "db")
	if db.addr("bridge") == old {
		t.Fatal("the target has its old address")
	}
	eventually(t, settle, func() error { return web.knows(line()) })
	h.kill()
	h.up()
	must(t, web.knows(line()))
	h.weft("rename", "db", "data")
	db.name = "data"
	eventually(t, settle, func() error {
		return web.knows(fmt.Sprintf("%s webdb %s data", db.addr("bridge"), db.id[:12]))
	})

	// When the sandbox is in a network of its user's too, it has names there, and keeps the link
	h.weft("network", "create", "own")
	peer := h.box("peer", "own")
	h.weft("network", "connect", "own", "web")
	must(t, web.finds("peer", peer.addr("own")))
	must(t, web.finds("data")) // not by the default network
	if text := web.resolv(); !strings.Contains(text, "nameserver 127.0.0.11") {
		t.Errorf("resolv.conf: %s", text)
	}
	must(t, web.knows(fmt.Sprintf("%s webdb %s data", db.addr("bridge"), db.id[:12])))
	h.weft("network", "disconnect", "own", "web")
	if text := web.resolv(); strings.Contains(text, "127.0.0.") {
		t.Errorf("resolv.conf, in the default network alone again: %s", text)
	}

	// When the target does not run, the sandbox cannot be started, as it cannot by Docker
	h.weft("stop", "-t", "0", "web", "data")
	h.refuses(1, "Cannot link to a non running container: /data AS /web/webdb", "start", "web")
	h.weft("start", "data", "web")
	must(t, web.knows(fmt.Sprintf("%s webdb %s data", db.addr("bridge"), db.id[:12])))
}

// A link in a network of the user's is a name for one sandbox in one network, and its target may come and go.
func TestLinksInANetworkOfOnesOwn(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "front")
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.2.0.0/24", "back")

	// Given a sandbox with a link to one that is not there yet: the name is nobody's, at once
	web := h1.box("web", "front", "--link", "db:store")
	other := h1.box("other", "front")
	start := time.Now()
	must(t, web.finds("store"))
	if took := time.Since(start); took > time.Second {
		t.Errorf("the answer took %s", took)
	}
	h1.weft("network", "connect", "--link", "db:hind", "back", "other")

	// When it comes, on another host, the link is its address in that network, for the linking sandbox alone
	db := h2.box("db", "front")
	h2.weft("network", "connect", "back", "db")
	eventually(t, settle, func() error { return web.finds("store", db.addr("front")) })
	eventually(t, settle, func() error { return web.finds("STORE.front", db.addr("front")) })
	must(t, other.finds("store"))
	eventually(t, settle, func() error { return other.finds("hind", db.addr("back")) })
	must(t, web.finds("hind"))

	// When it leaves that network, the link there is gone, and the one in the other network is not
	h2.weft("network", "disconnect", "front", "db")
	eventually(t, settle, func() error { return web.finds("store") })
	must(t, other.finds("hind", db.addr("back")))
	// When it returns with another address, the link follows
	h2.weft("network", "connect", "--ip", "10.1.0.77", "front", "db")
	eventually(t, settle, func() error { return web.finds("store", "10.1.0.77") })
	// When the linking sandbox leaves its network and comes again without the link, that is gone
	h1.weft("network", "disconnect", "back", "other")
	h1.weft("network", "connect", "back", "other")
	must(t, other.finds("hind"))
	eventually(t, settle, func() error { return other.finds("db.back", db.addr("back")) })
	h1.refuses(1, "it must name another sandbox", "network", "connect", "--link", "web:x", "back", "web")
}
