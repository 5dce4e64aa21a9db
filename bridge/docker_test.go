package bridge_test

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/kernel/netnstest"
)

// The rule that weft has in DOCKER-USER lets sandboxes out, and not into Docker's containers: there Docker's rules are asked.
func TestDockersContainersAreDockersToOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.sandbox(w.network(nil, "172.18.0.0/16"), "172.18.0.2")
	b, c, d := w.behind("docker0", 30), w.behind("br-0123456789ab", 31), w.behind("br-lan", 32)
	for _, args := range [][]string{
		{"-N", "DOCKER-USER"}, {"-A", "FORWARD", "-j", "DOCKER-USER"}, {"-A", "FORWARD", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"},
		{"-A", "FORWARD", "-p", "tcp", "-d", "172.30.0.2", "--dport", "10", "-j", "ACCEPT"}, {"-P", "FORWARD", "DROP"},
	} {
		if out, err := exec.Command("nsenter", append([]string{"--net=" + w.host.NS, "iptables-nft"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	w.apply()
	for _, ns := range []string{b, c, d, w.outside.NS} {
		serve(t, ns)
	}
	reaches(t, "out", a, w.outside.Addr.String()+":9", w.host.Addr.String())
	reaches(t, "what is behind a bridge that is not Docker's", a, "172.32.0.2:9", "172.32.0.1")
	doesNotReach(t, "Docker's default network", a, "172.30.0.2:9")
	doesNotReach(t, "another network of Docker's", a, "172.31.0.2:9")
	if _, err := ask(a, "tcp", "172.30.0.2:10"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("what Docker lets pass: %v, want an answer of the container", err)
	}
}

// behind is a namespace at a bridge of somebody else's in the host.
func (w *world) behind(bridge string, n byte) string {
	w.t.Helper()
	ns := netnstest.NS(w.t, fmt.Sprintf("c%d", n))
	near := fmt.Sprintf("veth%d", n)
	run := func(ns string, args ...string) {
		if out, err := exec.Command("nsenter", append([]string{"--net=" + ns, "ip"}, args...)...).CombinedOutput(); err != nil {
			w.t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	run(w.host.NS, "link", "add", bridge, "type", "bridge")
	run(w.host.NS, "addr", "add", net.IPv4(172, n, 0, 1).String()+"/24", "dev", bridge)
	run(w.host.NS, "link", "set", bridge, "up")
	run(w.host.NS, "link", "add", near, "master", bridge, "type", "veth", "peer", "name", "eth0", "netns", ns)
	run(w.host.NS, "link", "set", near, "up")
	run(ns, "link", "set", "eth0", "up")
	run(ns, "addr", "add", net.IPv4(172, n, 0, 2).String()+"/24", "dev", "eth0")
	netnstest.In(w.t, ns, func() error { return netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(172, n, 0, 1)}) })
	return ns
}
