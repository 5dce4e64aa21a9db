package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
	"weft/integrations/ipamplugin/plugintest"
)

// keeper starts an IPAM plugin that the agents of some hosts find: it is one and the same for all of them.
func keeper(c *cluster, name string, hosts ...*host) *plugintest.Plugin {
	c.t.Helper()
	dir := filepath.Join(c.cfg.Dir, "p")
	p, err := plugintest.New(dir, name)
	must(c.t, err)
	for _, h := range hosts {
		h.Args = append(h.Args, "--plugin-dir", dir)
	}
	c.t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			c.t.Error(err)
		}
		for _, w := range p.Wrong() {
			c.t.Errorf("plugin %s: %s", name, w)
		}
	})
	return p
}

// has fails where a plugin's books do not show just these addresses.
func has(t testing.TB, p *plugintest.Plugin, want ...string) {
	t.Helper()
	eventually(t, settle, func() error {
		if got := p.Given(); !slices.Equal(got, want) {
			return fmt.Errorf("the plugin's books have %v, want %v", got, want)
		}
		return nil
	})
}

// pluginHost is a host alone, with its plugin.
func pluginHost(t *testing.T) (*host, *plugintest.Plugin) {
	t.Helper()
	c := newCluster(t, 1, lab.Embedded{})
	p := keeper(c, "keeper", c.hosts...)
	c.start()
	return c.hosts[0], p
}

// What a network and its sandboxes have of a plugin, from beginning to end.
func TestAPluginGivesOutAddresses(t *testing.T) {
	t.Parallel()
	h, p := pluginHost(t)
	h.refuses(1, `could not resolve driver "nobody"`, "network", "create", "--ipam-driver", "nobody", "x")
	h.weft("network", "create", "--ipam-driver", "keeper", "--ipam-opt", "k=v", "auto")
	h.weft("network", "create", "-d", "overlay", "--ipam-driver", "keeper", "--subnet", "10.60.0.0/24", "--gateway", "10.60.0.9", "--aux-address", "r=10.60.0.2", "wide")
	if got := p.Pools(); !slices.Equal(got, []string{"keeper-global/10.60.0.0/24", "keeper-local/10.77.0.0/24"}) {
		t.Errorf("the plugin's pools are %v", got)
	}
	if got := h.weft("network", "inspect", "-f", "{{.IPAM.Driver}} {{json .IPAM.Options}} {{(index .IPAM.Config 0).Gateway}}", "auto"); got != `keeper {"k":"v"} 10.77.0.1` {
		t.Errorf("inspect shows %s", got)
	}
	a := h.box("a", "auto")
	if got := a.addr("auto"); got != "10.77.0.2" {
		t.Errorf("a has %s", got)
	}
	b := h.box("b", "wide", "--ip", "10.60.0.50").echo()
	h.refuses(1, "Address already in use", "network", "connect", "--ip", "10.60.0.50", "wide", "a")
	h.weft("network", "connect", "wide", "a")
	eventually(t, settle, func() error { return a.reaches(b.addr("wide")) })
	has(t, p, "10.60.0.1", "10.60.0.2", "10.60.0.50", "10.77.0.2") // .2 is the auxiliary one

	h.weft("stop", "-t", "0", "a", "b")
	has(t, p, "10.60.0.2", "10.60.0.50") // what was asked for is kept for the stopped sandbox
	h.weft("start", "a", "b")
	has(t, p, "10.60.0.1", "10.60.0.2", "10.60.0.50", "10.77.0.2")
	h.weft("network", "disconnect", "wide", "b")
	h.weft("network", "connect", "--ip", "10.60.0.50", "wide", "b")
	h.refuses(1, "has active endpoints", "network", "rm", "wide")
	h.weft("rm", "-f", "a", "b")
	has(t, p, "10.60.0.2")
	h.weft("network", "rm", "wide", "auto")
	if got := p.Pools(); len(got) > 0 {
		t.Errorf("after all the plugin has %v", got)
	}
}

// A plugin that hangs, lies or is gone costs an error with its name, and leaves nothing behind on either side.
func TestAPluginMisbehaves(t *testing.T) {
	t.Parallel()
	h, p := pluginHost(t)
	h.weft("network", "create", "--ipam-driver", "keeper", "net")
	a := h.box("a", "net")
	lie := func(call string, answer any) {
		p.SetHook(func(c string, _ map[string]any) any {
			if c == call {
				return answer
			}
			return nil
		})
	}
	object := func(kv ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	for _, tt := range []struct {
		call, want string
		answer     any
		args       []string
	}{
		{"IpamDriver.RequestAddress", "is outside the pool 10.77.0.0/24", object("Address", "10.99.0.5/24"), []string{"run", "-d", "--name", "b", "--network", "net", "--", "sleep", forever}},
		{"IpamDriver.RequestAddress", "it is the broadcast address", object("Address", "10.77.0.255/24"), []string{"run", "-d", "--name", "b", "--network", "net", "--", "sleep", forever}},
		{"IpamDriver.RequestAddress", "which it had given to another endpoint", object("Address", a.addr("net")+"/24"), []string{"run", "-d", "--name", "b", "--network", "net", "--", "sleep", forever}},
		{"IpamDriver.RequestAddress", "we are full", object("Error", "we are full"), []string{"run", "-d", "--name", "b", "--network", "net", "--", "sleep", forever}},
		{"IpamDriver.RequestPool", "is loopback", object("PoolID", "x", "Pool", "127.1.0.0/16", "Data", map[string]string{"com.docker.network.gateway": "127.1.0.1/16"}), []string{"network", "create", "--ipam-driver", "keeper", "n2"}},
		{"IpamDriver.RequestPool", "Pool overlaps with other one on this address space", object("PoolID", "y", "Pool", "10.77.0.0/25", "Data", map[string]string{"com.docker.network.gateway": "10.77.0.1/25"}), []string{"network", "create", "--ipam-driver", "keeper", "n2"}},
		{"IpamDriver.RequestPool", "is no JSON", "nonsense", []string{"network", "create", "--ipam-driver", "keeper", "n2"}},
	} {
		lie(tt.call, tt.answer)
		code := 1
		if tt.args[0] == "run" {
			code = 125
		}
		h.refuses(code, tt.want, tt.args...)
	}
	p.SetHook(nil)
	// What it was given back though it never was out is the test's own doing: the lies were not in the books.
	for _, w := range p.Wrong() {
		if !strings.Contains(w, "10.99.0.5") && !strings.Contains(w, "10.77.0.255") && !strings.Contains(w, "pool x") && !strings.Contains(w, "pool y") {
			t.Error(w)
		}
	}
	p.Pardon()

	hold := make(chan struct{})
	p.SetHook(func(c string, _ map[string]any) any { <-hold; return nil })
	begun := time.Now()
	h.refuses(125, "has not answered in time", "run", "-d", "--name", "b", "--network", "net", "--", "sleep", forever)
	if d := time.Since(begun); d > 25*time.Second {
		t.Errorf("a plugin that hangs held the command for %s", d)
	}
	close(hold)
	p.SetHook(nil)
	must(t, p.Stop())
	h.refuses(125, "it cannot be reached", "run", "-d", "--name", "b", "--network", "net", "--", "sleep", forever)
	h.weft("rm", "-f", "a") // what releases does not need the plugin
	h.weft("network", "rm", "net")
	must(t, p.Start())
	h.Host.Restart(within(t, patience))
	h.awaitJoined()
	eventually(t, patience, func() error {
		if given, pools := p.Given(), p.Pools(); len(given)+len(pools) > 1 { // one address may have been given by the call that nobody waited for any more
			return fmt.Errorf("the plugin still has %v and %v out", given, pools)
		}
		return nil
	})
	p.Pardon()
}

// The agent is killed at any moment of creations, runs and removals: in the end the plugin has everything back, and once. What the plugin said while
// the agent died, nobody heard: of that, and of nothing else, one thing may be left in its books, or be given back twice, for each time.
func TestWhatAPluginGaveSurvivesTheAgent(t *testing.T) {
	t.Parallel()
	h, p := pluginHost(t)
	r := rand.New(rand.NewPCG(1, 2))
	h.weft("network", "create", "--ipam-driver", "keeper", "stays")
	kept := h.box("kept", "stays", "--ip", "10.77.0.100")
	const kills = 6
	for i := range kills {
		ended := make(chan struct{})
		name := fmt.Sprint("n", i)
		go func() {
			defer close(ended)
			for _, args := range [][]string{
				{"network", "create", "--ipam-driver", "keeper", name}, {"run", "-d", "--name", "x" + name, "--network", name, "--", "sleep", forever},
				{"network", "connect", "stays", "x" + name}, {"rm", "-f", "x" + name}, {"network", "rm", name},
			} {
				_, _ = h.Host.Weft(within(t, patience), args...) // it may be cut off
			}
		}()
		<-time.After(time.Duration(20+r.IntN(250)) * time.Millisecond)
		h.kill()
		<-ended
		h.up()
		h.awaitJoined()
	}
	for _, id := range strings.Fields(h.weft("ps", "-aq")) {
		if !strings.HasPrefix(kept.id, id) {
			h.weft("rm", "-f", id)
		}
	}
	for _, n := range strings.Fields(h.weft("network", "ls", "-f", "type=custom", "--format", "{{.Name}}")) {
		if n != "stays" {
			h.weft("network", "rm", n)
		}
	}
	eventually(t, settle, func() error {
		given, pools, wrong := p.Given(), p.Pools(), p.Wrong()
		if !slices.Contains(given, "10.77.0.100") || len(given)-1+len(pools)-1+len(wrong) > kills {
			return fmt.Errorf("the plugin's books have %v and %v out, and were asked %v", given, pools, wrong)
		}
		return nil
	})
	p.Pardon()
	if got := kept.addr("stays"); got != "10.77.0.100" {
		t.Errorf("the sandbox that went on has %s", got)
	}
}

// Each host asks its own plugin. Where these do not know of each other, the store's own rule keeps addresses apart; a plugin that keeps no books
// is told again what is out.
func TestPluginsOfSeveralHosts(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	h1, h2 := c.hosts[0], c.hosts[1]
	var books []*plugintest.Plugin
	for _, h := range c.hosts {
		dir := filepath.Join(c.cfg.Dir, "p"+h.Name)
		p, err := plugintest.New(dir, "each")
		must(t, err)
		t.Cleanup(func() { _ = p.Stop() })
		p.Replay, p.MAC = true, true
		h.Args = append(h.Args, "--plugin-dir", dir)
		books = append(books, p)
	}
	c.start()
	h1.weft("network", "create", "-d", "overlay", "--ipam-driver", "each", "--subnet", "10.61.0.0/24", "wide")
	eventually(t, settle, func() error {
		if r := h2.try("network", "inspect", "wide"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
	a := h1.box("a", "wide").echo()
	b := h2.box("b", "wide").echo()
	if a.addr("wide") != "10.61.0.2" || b.addr("wide") != "10.61.0.3" {
		t.Errorf("a has %s, b has %s", a.addr("wide"), b.addr("wide"))
	}
	eventually(t, settle, func() error { return a.reaches(b.addr("wide")) })
	has(t, books[0], "10.61.0.2")
	has(t, books[1], "10.61.0.3") // the one that a had went back

	books[1].Forget()
	must(t, h2.Host.Restart(within(t, patience)))
	h2.awaitJoined()
	h2.box("d", "wide")
	has(t, books[1], "10.61.0.3", "10.61.0.4") // b's was told again; .2 is a's
	h2.weft("rm", "-f", "b", "d")
	h1.weft("rm", "-f", "a")
	has(t, books[0])
	h1.weft("network", "rm", "wide")
	for _, p := range books {
		for _, w := range p.Wrong() {
			t.Error(w)
		}
	}
}
