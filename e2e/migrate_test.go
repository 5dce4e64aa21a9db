package e2e

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
	"weft/store/storetest/server"
)

// secondStore starts one more store on a node of its own, and returns its URL.
func (c *cluster) secondStore(k server.Kind, prefix string) (*server.Cluster, *lab.Node, string) {
	c.t.Helper()
	n, err := c.lab.AddNode(fmt.Sprintf("%s%d", k, time.Now().UnixNano()%100000))
	must(c.t, err)
	s, err := server.Start(within(c.t, 2*time.Minute), server.Options{
		Kind: k, Dir: c.t.TempDir(), Host: n.Addr.String(), Port: int(ports[k]), Dial: n.Dial,
		Start: func(_ *server.Member, cmd *exec.Cmd) error { return n.Start(cmd) },
	})
	must(c.t, err)
	c.t.Cleanup(func() { must(c.t, s.Stop()) })
	return s, n, fmt.Sprintf("%s://%s/%s", k, netip.AddrPortFrom(n.Addr, ports[k]), prefix)
}

func (h *host) awaitStore(url string, hosts int) {
	h.c.t.Helper()
	eventually(h.c.t, patience, func() error {
		if s, code, text := h.storeStatus(); code != 0 || s.Store != url || s.HostsAlive != hosts {
			return fmt.Errorf("%s: exit %d, %s, %+v", h.Name, code, text, s)
		}
		return nil
	})
}

// Given a cluster with traffic, when its records move from store to store, then no packet is lost, networks and sandboxes are made before and
// after, agents that are restarted with their old options find the new store, and one that was away while the records moved does so too.
func TestRecordsMoveWhileAgentsRun(t *testing.T) {
	t.Parallel()
	c, _ := upWithStore(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(b.addr("web")) })
	traffic := a.flow(b.addr("web"))
	h3.kill()

	for i, k := range []server.Kind{server.Consul, server.ZooKeeper, server.Etcd} {
		_, _, url := c.secondStore(k, "moved")
		text := h1.weft("store", "migrate", "--to", url)
		t.Log(text[strings.Index(text, "Moved"):])
		if !strings.Contains(text, "2 hosts follow") {
			t.Errorf("migrate said %q", text)
		}
		h1.awaitStore(url, 2)
		h2.awaitStore(url, 2)
		name := fmt.Sprintf("after%d", i)
		h2.weft("network", "create", "-d", "overlay", name)
		x := h1.box(name, "web").echo()
		eventually(t, settle, func() error { return b.reaches(x.addr("web")) })
		if r := h1.try("store", "check"); r.Code != 0 {
			t.Errorf("after %s: %s%s", url, r.Stdout, r.Stderr)
		}
		traffic.flows()
		h2.kill() // with its old options
		h2.up()
		h2.awaitStore(url, 2)
	}
	traffic.end()
	h3.up() // it finds the way over both
	c.hosts[2].awaitJoined()
	url := func() string { s, _, _ := h1.storeStatus(); return s.Store }()
	h3.awaitStore(url, 3)
	y := h3.box("y", "web").echo()
	eventually(t, settle, func() error { return a.reaches(y.addr("web")) })
	if log := h3.Log(200); !strings.Contains(log, "followed the cluster's records to another store") {
		t.Error("the agent that was away does not say that it followed")
	}
}
