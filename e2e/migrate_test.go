package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/e2e/lab"
	"weft/store"
	"weft/store/record"
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
	c.leavesAiling("the store that the records have moved to ends first")
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(b.addr("web")) })
	traffic := a.flow(b.addr("web"))
	h3.kill()
	eventually(t, 2*patience, func() error { // its session may outlive it by twice its time to live
		if s, _, _ := h1.storeStatus(); s.HostsAlive != 2 {
			return fmt.Errorf("%d hosts are alive", s.HostsAlive)
		}
		return nil
	})

	for i, k := range []server.Kind{server.Consul, server.ZooKeeper, server.Etcd} {
		_, _, url := c.secondStore(k, "moved")
		busy := make(chan error, 1)
		go func() { busy <- h2.bustle(within(t, patience)) }() // claims and releases, of which none may fail
		text := h1.weft("store", "migrate", "--to", url)
		must(t, <-busy)
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
	c.well()
}

// block keeps a host from an address, until the returned function is called.
func (h *host) block(addr netip.Addr) (unblock func()) {
	h.c.t.Helper()
	route := &netlink.Route{Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)}, Type: unix.RTN_BLACKHOLE}
	must(h.c.t, h.Do(func() error { return netlink.RouteAdd(route) }))
	return func() { must(h.c.t, h.Do(func() error { return netlink.RouteDel(route) })) }
}

// established tells whether a host has a TCP connection to an address.
func established(t testing.TB, h *host, to netip.Addr) (yes bool) {
	t.Helper()
	must(t, h.Do(func() error {
		all, err := netlink.SocketDiagTCP(unix.AF_INET)
		for _, s := range all {
			if a, ok := netip.AddrFromSlice(s.ID.Destination.To4()); ok && a == to {
				yes = true
			}
		}
		return err
	}))
	return yes
}

// Given a host that cannot reach the new store, or a store that is not free, then nothing is moved and everything goes on; so it does when the
// command is interrupted. What has kept the move off gone, it succeeds.
func TestAMoveThatCannotBe(t *testing.T) {
	t.Parallel()
	c, b := upWithStore(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, x := h1.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(x.addr("web")) })
	traffic := a.flow(x.addr("web"))
	to, node, url := c.secondStore(server.Etcd, "moved")

	goesOn := func(name string) {
		t.Helper()
		for _, h := range c.hosts {
			h.awaitStore(b.url, 3)
		}
		h2.weft("network", "create", "-d", "overlay", name)
		traffic.flows()
		if r := h1.try("store", "check"); r.Code != 0 {
			t.Errorf("%s%s", r.Stdout, r.Stderr)
		}
	}
	h1.refuses(1, "it is the same store, or a copy of it", "store", "migrate", "--to", b.url)
	h1.refuses(1, "unknown cluster store scheme", "store", "migrate", "--to", "redis://x")
	h1.refuses(1, "embedded", "store", "migrate", "--to", "embedded")
	h1.refuses(1, "no move of the records is under way", "store", "migrate", "--abort")
	goesOn("one")

	unblock := h2.block(node.Addr)
	h1.refuses(1, "host2: ", "store", "migrate", "--to", url)
	goesOn("two")
	unblock()

	must(t, to.Members[0].Pause()) // the copy stands still
	cmd := h1.Command(t.Context(), "store", "migrate", "--to", url)
	must(t, cmd.Start())
	eventually(t, patience, func() error { // the agent has its connections to the new store, which does not answer
		if !established(t, h1, node.Addr) {
			return errors.New("not begun")
		}
		return nil
	})
	must(t, cmd.Process.Signal(os.Interrupt))
	if err := cmd.Wait(); err == nil {
		t.Error("a move that was interrupted succeeded")
	}
	must(t, to.Members[0].Resume())
	goesOn("three")

	if text := h1.weft("store", "migrate", "--to", url); !strings.Contains(text, "3 hosts follow") {
		t.Errorf("migrate said %q", text)
	}
	for _, h := range c.hosts {
		h.awaitStore(url, 3)
	}
	h1.refuses(1, "no move of the records is under way", "store", "migrate", "--abort")
	if text := h2.weft("store", "migrate", "--to", b.url); !strings.Contains(text, "3 hosts follow") { // back to where the options say
		t.Errorf("migrate said %q", text)
	}
	traffic.end()
	h3 := c.hosts[2]
	h3.kill()
	h3.up()
	h3.awaitStore(b.url, 3)
	if strings.Contains(h3.Log(30), "change --cluster-store") {
		t.Error("an agent whose options are right again is told to change them")
	}
}

// keep fills a network with addresses that are kept for names, so that there is something to copy.
func (c *cluster) keep(network string, n int) {
	c.t.Helper()
	r := c.records()
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 60, byte(200 + i/250), byte(1 + i%250)})
		k := &record.Kept{ID: record.EndpointID(fmt.Sprintf("kept%d", i)), Network: record.NetworkID(network), Name: fmt.Sprintf("kept%d", i), Addrs: []netip.Addr{addr}}
		b, err := record.Encode(k)
		must(c.t, err)
		_, err = r.store.Txn(within(c.t, patience), store.Txn{Then: []store.Op{store.Put(record.KeptKey(k.Network, k.Name), b), store.Put(record.AddrKey(k.Network, addr), []byte(k.ID))}})
		must(c.t, err)
	}
}

// Given a move whose agent is killed at any moment, then the cluster is in one store or the other, works, and the same command ends the move.
func TestTheMovingAgentIsKilled(t *testing.T) {
	t.Parallel()
	c, _ := upWithStore(t)
	c.leavesAiling("the store that the records have moved to ends first")
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.60.0.0/16", "web")
	c.keep(h1.weft("network", "inspect", "-f", "{{.ID}}", "web"), 500)
	a, x := h3.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(x.addr("web")) })
	traffic := a.flow(x.addr("web"))
	_, _, base := c.secondStore(server.Etcd, "p")
	moved := 0
	for i := range 6 {
		url := fmt.Sprintf("%s%d", base, i)
		cmd := h1.Command(t.Context(), "store", "migrate", "--to", url)
		must(t, cmd.Start())
		<-time.After(time.Duration(30+120*i) * time.Millisecond) // not a wait for anything: the moment of the kill
		h1.kill()
		_ = cmd.Wait() // it may have been done
		h1.up()
		var now string
		eventually(t, patience, func() error {
			stores := map[string]bool{}
			for _, h := range c.hosts {
				s, code, text := h.storeStatus()
				if code != 0 || s.HostsAlive != 3 {
					return fmt.Errorf("%s: exit %d, %s, %+v", h.Name, code, text, s)
				}
				stores[s.Store], now = true, s.Store
			}
			if len(stores) != 1 {
				return fmt.Errorf("the hosts use %v", stores)
			}
			return nil
		})
		h2.weft("network", "create", "-d", "overlay", fmt.Sprintf("n%d", i))
		if r := h3.try("store", "check"); r.Code != 0 {
			t.Errorf("killed at %d: %s%s", i, r.Stdout, r.Stderr)
		}
		if now == url {
			moved++
			continue
		}
		if text := h1.weft("store", "migrate", "--to", url); !strings.Contains(text, "3 hosts follow") {
			t.Errorf("migrate said %q", text)
		}
		for _, h := range c.hosts {
			h.awaitStore(url, 3)
		}
		traffic.flows()
	}
	t.Logf("%d of 6 moves had been done when their agent was killed", moved)
	traffic.end()
	c.well()
}

// Given a cluster whose store is embedded in its first agent, when its records move to a store of their own, then they stay there when that agent
// is restarted, and a new host is told by the embedded store.
func TestRecordsMoveOutOfAnEmbeddedStore(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	c.leavesAiling("the store that the records have moved to ends first")
	c.start()
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(b.addr("web")) })
	traffic := a.flow(b.addr("web"))
	_, _, url := c.secondStore(server.Etcd, "weft")
	if text := h2.weft("store", "migrate", "--to", url); !strings.Contains(text, "2 hosts follow") {
		t.Errorf("migrate said %q", text)
	}
	h1.kill()
	h1.up()
	h1.awaitStore(url, 2)
	if text := h1.weft("store", "status"); !strings.Contains(text, "Configured: embedded: the records have moved") {
		t.Errorf("status says %q", text)
	}
	h2.kill() // which no option tells of a store: it has learnt it when it joined
	h2.up()
	h2.awaitStore(url, 2)
	if text := h2.weft("store", "status"); strings.Contains(text, "Configured") || strings.Contains(h2.Log(1000), "change --cluster-store") {
		t.Errorf("host2 is told to change an option that it does not have: %s", text)
	}
	h3 := c.addHost("host3")
	must(t, h3.Host.Start())
	h3.awaitJoined()
	h3.awaitStore(url, 3)
	x := h3.box("x", "web").echo()
	eventually(t, settle, func() error { return a.reaches(x.addr("web")) })
	traffic.end()
	c.well()
}
