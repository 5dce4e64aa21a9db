package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"weft/e2e/lab"
)

// nowhere is a cluster's store that nobody will ever reach.
type nowhere struct{}

func (nowhere) Args(*lab.Host) []string {
	return []string{"--cluster-store", "etcd://192.0.2.1:2379/weft"}
}

// alone is one host without a store.
func alone(t testing.TB) (*cluster, *host) {
	t.Helper()
	c := newCluster(t, 1, nowhere{})
	c.hosts[0].up()
	return c, c.hosts[0]
}

// names lists the networks by name.
func (h *host) networks(filters ...string) []string {
	h.c.t.Helper()
	args := []string{"network", "ls", "--format", "{{.Name}}"}
	for _, f := range filters {
		args = append(args, "-f", f)
	}
	return strings.Fields(h.weft(args...))
}

func TestLocalNetworksNeedNoStore(t *testing.T) {
	t.Parallel()
	_, h := alone(t)
	if got := h.networks(); !slices.Equal(got, []string{"bridge", "host", "none"}) {
		t.Errorf("a new host has the networks %q", got)
	}
	id := h.weft("network", "create", "web")
	if len(id) != 64 {
		t.Errorf("network create printed %q", id)
	}
	type view struct {
		Name, Driver, Scope string
		IPAM                struct {
			Config []struct{ Subnet, Gateway string }
		}
	}
	v := inspect[view](h, "network", "inspect", "web")
	if v.Driver != "bridge" || v.Scope != "local" || v.IPAM.Config[0].Subnet != "172.18.0.0/16" || v.IPAM.Config[0].Gateway != "172.18.0.1" {
		t.Errorf("inspect shows %+v", v)
	}
	a, b := h.box("a", "web").echo(), h.box("b", "web")
	if got := a.addr("web"); got != "172.18.0.2" {
		t.Errorf("the first sandbox has %s", got)
	}
	eventually(t, settle, func() error { return b.reaches(a.addr("web")) })
	eventually(t, settle, func() error { return b.finds("a", a.addr("web")) })
	h.refuses(1, "has active endpoints", "network", "rm", "web")
	h.weft("rm", "-f", "a", "b")
	h.weft("network", "rm", "web")
	h.refuses(1, "bridge is a pre-defined network and cannot be removed", "network", "rm", "bridge")
	h.refuses(1, "cluster store etcd://192.0.2.1:2379/weft is not reachable", "network", "create", "-d", "overlay", "far")
}

// The default network is there for whoever names none, and has no names.
func TestTheDefaultNetwork(t *testing.T) {
	t.Parallel()
	_, h := alone(t)
	run := func(name string) *box {
		b := &box{h: h, name: name, id: h.weft("run", "-d", "--name", name, "--", "sleep", forever)}
		b.netns = b.view().NetworkSettings.SandboxKey
		return b
	}
	a, b := run("a").echo(), run("b")
	if a.addr("bridge") != "172.17.0.2" || b.addr("bridge") != "172.17.0.3" {
		t.Errorf("the sandboxes have %s and %s", a.addr("bridge"), b.addr("bridge"))
	}
	eventually(t, settle, func() error { return b.reaches(a.addr("bridge")) })
	h.weft("network", "create", "web")
	h.weft("network", "connect", "web", "b")
	eventually(t, settle, func() error { return b.reaches(a.addr("bridge")) })
	h.refuses(125, "Network-scoped alias is supported only for containers in user defined networks", "run", "-d", "--network", "bridge", "--network-alias", "x", "--", "true")
	h.refuses(1, "Network-scoped alias is supported only for containers in user defined networks", "network", "connect", "--alias", "x", "bridge", "b")
}

// What can be asked of a local network, and what is refused: in Docker's words.
func TestLocalNetworksAreDockers(t *testing.T) {
	t.Parallel()
	_, h := alone(t)
	create := func(args ...string) string { return h.weft(append([]string{"network", "create"}, args...)...) }
	refuse := func(words string, args ...string) {
		t.Helper()
		h.refuses(1, words, append([]string{"network"}, args...)...)
	}
	create("web")
	refuse("network with name web already exists", "create", "web")
	refuse("bridge driver doesn't support multiple subnets", "create", "--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24", "two")
	refuse("Pool overlaps with other one on this address space", "create", "--subnet", "172.18.4.0/24", "part")
	refuse("of this host (interface eth0)", "create", "--subnet", "192.0.2.0/25", "routed")
	refuse("not in swarm mode", "create", "--ingress", "in")
	refuse("could not resolve driver", "create", "-d", "macvlan", "mac")
	refuse("has scope local", "create", "--scope", "global", "glob")
	must(t, h.Do(func() error { return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "dum0"}}) }))
	refuse("bridge name dum0", "create", "-o", "com.docker.network.bridge.name=dum0", "taken")
	create("-o", "com.docker.network.bridge.name=dmz", "-o", "com.docker.network.container_iface_prefix=net", "--label", "tier=front", "named")
	refuse("is taken by network named", "create", "-o", "com.docker.network.bridge.name=dmz", "again")
	if err := h.Do(func() error { _, err := netlink.LinkByName("dmz"); return err }); err != nil {
		t.Errorf("there is no bridge dmz: %v", err)
	}
	if got := h.networks("label=tier=front"); !slices.Equal(got, []string{"named"}) {
		t.Errorf("with the label are %q", got)
	}
	a := h.box("a", "named")
	if err := a.do(func() error { _, err := netlink.LinkByName("net0"); return err }); err != nil {
		t.Errorf("the interface: %v", err)
	}

	refuse("endpoint with name a already exists in network named", "connect", "named", "a")
	refuse("container a is not connected to network web", "disconnect", "web", "a")
	refuse("network nowhere not found", "connect", "nowhere", "a")
	refuse("No such sandbox: nobody", "connect", "web", "nobody")
	refuse("host network", "connect", "host", "a")
	h.weft("stop", "-t", "0", "a")
	h.weft("network", "connect", "web", "a") // takes effect at its start
	refuse("endpoint with name a already exists in network web", "connect", "web", "a")
	type view struct {
		Containers map[string]struct{ Name, Host, IPv4Address string }
	}
	if v := inspect[view](h, "network", "inspect", "web"); len(v.Containers) > 0 {
		t.Errorf("inspect shows %v of a sandbox that is stopped", v.Containers)
	}

	// A stopped sandbox's network is in use, also one that it has not been in yet; the others are removed.
	create("free")
	if r := h.try("network", "rm", "web", "free", "named"); r.Code != 1 || r.Stdout != "free\n" || strings.Count(r.Stderr, "has active endpoints") != 2 {
		t.Errorf("rm: exit %d, %q, %q", r.Code, r.Stdout, r.Stderr)
	}
	create("idle")
	if got := h.weft("network", "prune", "-f"); !strings.Contains(got, "Deleted Networks:\nidle") || len(h.networks("type=custom")) != 2 {
		t.Errorf("prune printed %q, and left %q", got, h.networks())
	}
	h.weft("start", "a")
	if v := inspect[view](h, "network", "inspect", "web"); v.Containers[a.id].Name != "a" || v.Containers[a.id].Host != "host1" {
		t.Errorf("inspect shows %+v of a sandbox that runs", v.Containers)
	}
}

func TestConfigurationNetworks(t *testing.T) {
	t.Parallel()
	_, h := alone(t)
	h.weft("network", "create", "--config-only", "--subnet", "10.9.0.0/24", "--ip-range", "10.9.0.128/25", "--label", "tier=front", "-o", "com.docker.network.driver.mtu=1300", "conf")
	h.refuses(125, "cannot create endpoint on configuration-only network", "run", "-d", "--network", "conf", "--", "true")
	h.refuses(1, "user specified configurations are not supported if the network depends on a configuration network", "network", "create", "--config-from", "conf", "--subnet", "10.8.0.0/24", "x")
	h.refuses(1, "network driver options are not supported if the network depends on a configuration network", "network", "create", "--config-from", "conf", "-o", "a=b", "x")
	h.refuses(1, `configuration network "nothing" does not exist`, "network", "create", "--config-from", "nothing", "x")
	h.weft("network", "create", "--config-from", "conf", "web")
	if got := h.box("a", "web").addr("web"); got != "10.9.0.128" {
		t.Errorf("the sandbox has %s, want the first address of the configuration's range", got)
	}
	type view struct {
		ConfigOnly bool
		ConfigFrom struct{ Network string }
		Labels     map[string]string
		Options    map[string]string
	}
	if v := inspect[view](h, "network", "inspect", "web"); v.ConfigOnly || v.ConfigFrom.Network != "conf" || v.Labels["tier"] != "front" || v.Options["com.docker.network.driver.mtu"] != "1300" {
		t.Errorf("inspect shows %+v", v)
	}
	h.refuses(1, `configuration network "conf" is in use`, "network", "rm", "conf")
	if v := inspect[view](h, "network", "inspect", "conf"); !v.ConfigOnly {
		t.Errorf("inspect shows %+v", v)
	}
	h.weft("rm", "-f", "a")
	h.weft("network", "rm", "web")
	h.weft("network", "rm", "conf")
}

// A whole day in a bridge network: names, the way out, an agent that is killed, the loss of power.
func TestALocalNetworkOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	outside := c.lab.OutsideAddr().String()
	echo(c, c.lab.Outside().Path, outside)
	h.weft("network", "create", "--subnet", "10.1.0.0/24", "web")
	a, b := h.box("a", "web", "--network-alias", "www"), h.box("b", "web", "--ip", "10.1.0.77").echo()
	eventually(t, settle, func() error { return a.finds("b", "10.1.0.77") })
	eventually(t, settle, func() error { return b.finds("www", a.addr("web")) })
	eventually(t, settle, func() error { return b.says(outside, soon) })
	if who, err := b.greeting(outside, soon); err != nil || who != h.Addr.String() {
		t.Errorf("outside sees b as %q (%v), want its host's address %s", who, err, h.Addr)
	}

	inside, egress := a.flow("10.1.0.77"), b.flow(outside)
	monitors := map[string]*monitor{"the host": watch(t, h.Path), "sandbox b": watch(t, b.netns)}
	h.kill()
	inside.flows()
	egress.flows()
	h.up()
	eventually(t, settle, func() error { return a.finds("b", "10.1.0.77") })
	h.weft("network", "connect", "bridge", "a") // done when the agent has been through all of its work
	inside.flows()
	egress.flows()
	inside.end()
	egress.end()
	for where, m := range monitors {
		if seen := m.stop(); where != "the host" && len(seen) > 0 {
			t.Errorf("in %s the kernel was changed: %q", where, seen)
		}
	}

	must(t, h.PowerOff(within(t, patience)))
	h.up()
	if got := h.networks(); !slices.Equal(got, []string{"bridge", "host", "none", "web"}) {
		t.Errorf("after the loss of power there are %q", got)
	}
	bridge := "br-" + h.weft("network", "ls", "-q", "-f", "name=web")
	eventually(t, settle, func() error { return h.Do(func() error { _, err := netlink.LinkByName(bridge); return err }) })
	h.weft("start", "a", "b")
	for _, x := range []*box{a, b} {
		x.netns = x.view().NetworkSettings.SandboxKey
	}
	b.echo()
	if got := b.addr("web"); got != "10.1.0.77" {
		t.Errorf("b has %s now", got)
	}
	eventually(t, settle, func() error { return a.reaches("10.1.0.77") })
	eventually(t, settle, func() error { return a.finds("b", "10.1.0.77") })
	h.weft("rm", "-f", "a", "b")
	h.weft("network", "rm", "web")
	eventually(t, settle, h.isEmpty)
}

// Two hosts of one cluster have local networks of the same names and subnets: each its own.
func TestLocalNetworksOfTwoHosts(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	c.start()
	h1, h2 := c.hosts[0], c.hosts[1]
	for _, h := range c.hosts {
		h.weft("network", "create", "--subnet", "172.30.0.0/16", "home")
	}
	a, b := h1.box("a", "home").echo(), h2.box("b", "home")
	if a.addr("home") != b.addr("home") {
		t.Errorf("a has %s, and b on another host %s", a.addr("home"), b.addr("home"))
	}
	if err := b.finds("a"); err != nil {
		t.Errorf("b finds a sandbox of another host's own network: %v", err)
	}
	h1.refuses(1, "network with name home already exists", "network", "create", "-d", "overlay", "home")
	h2.refuses(1, "Pool overlaps with other one on this address space", "network", "create", "-d", "overlay", "--subnet", "172.30.7.0/24", "wide")

	// A name that another host gives a network of the cluster is none alone.
	h1.weft("network", "create", "mine")
	h2.weft("network", "create", "-d", "overlay", "mine")
	eventually(t, settle, func() error {
		if r := h1.try("network", "inspect", "mine"); !strings.Contains(r.Stderr, "ambiguous") {
			return fmt.Errorf("inspect: exit %d, %q", r.Code, r.Stderr)
		}
		return nil
	})
	for _, id := range strings.Fields(h1.weft("network", "ls", "-q", "-f", "name=mine")) {
		h1.weft("network", "rm", id)
	}
	// No overlay takes what a host has for its own.
	d := h2.box("d", "bridge")
	if got := h1.weft("network", "create", "-d", "overlay", "--subnet", "10.77.0.0/24", "far"); len(got) != 64 {
		t.Error(got)
	}
	h2.weft("network", "connect", "far", "d")
	if d.addr("far") != "10.77.0.2" || d.addr("bridge") != "172.17.0.2" {
		t.Errorf("d has %s and %s", d.addr("far"), d.addr("bridge"))
	}
	h2.weft("network", "create", "--subnet", "172.29.0.0/16", "own")
	eventually(t, settle, func() error { // as soon as host1 has heard of it
		if r := h1.try("network", "create", "-d", "overlay", "--subnet", "172.29.3.0/24", "taken"); !strings.Contains(r.Stderr, "overlaps the route to 172.29.0.0/16 of host host2") {
			h1.try("network", "rm", "taken")
			return fmt.Errorf("create: exit %d, %q", r.Code, r.Stderr)
		}
		return nil
	})
}

// A host that is in networks of the cluster, and whose agent comes back while the store is out, serves its own networks.
func TestLocalNetworksWhileTheStoreIsOut(t *testing.T) {
	t.Parallel()
	c, b := newClusterWithStore(t, 1)
	c.leavesAiling("the store is out")
	b.start()
	c.start()
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "far")
	h.weft("network", "create", "near")
	a := h.box("a", "far", "--network", "near").echo()
	addr := a.addr("near")
	h.weft("network", "create", "spare")
	eventually(t, patience, func() error { return pictureSaved(h) })
	b.down()
	h.kill()
	h.up()
	h.weft("network", "create", "new")
	d := h.box("d", "near", "--network", "new")
	eventually(t, settle, func() error { return d.reaches(addr) })
	eventually(t, settle, func() error { return d.finds("a", addr) })
	h.weft("network", "disconnect", "new", "d")
	h.weft("network", "rm", "new", "spare")
	h.refuses(1, "is not reachable", "network", "create", "-d", "overlay", "farther")
	if got := h.networks("type=custom"); !slices.Equal(got, []string{"far", "near"}) {
		t.Errorf("the networks are %q", got)
	}
}
