package e2e

import (
	"slices"
	"strings"
	"testing"

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
