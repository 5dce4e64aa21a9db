package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"weft/e2e/lab"
	"weft/kernel"
)

// guest is a namespace that the test made, as weft shows it.
func (h *host) guest(name, netns string) *box { return &box{h: h, name: name, netns: netns} }

// links lists the interfaces of a namespace.
func links(ns string) (out []string, err error) {
	err = lab.Within(ns, func() error {
		ls, err := net.Interfaces()
		for _, l := range ls {
			out = append(out, l.Name)
		}
		return err
	})
	slices.Sort(out)
	return out, err
}

// empties waits until weft has nothing in a namespace any more.
func (h *host) empties(ns string, rest ...string) {
	h.c.t.Helper()
	eventually(h.c.t, patience, func() error {
		got, err := links(ns)
		if err != nil || !slices.Equal(got, append(rest, "lo")) {
			return fmt.Errorf("in %s there are %v, %v", ns, got, err)
		}
		return nil
	})
}

func (h *host) forgets(name string) {
	h.c.t.Helper()
	eventually(h.c.t, patience, func() error {
		if r := h.try("inspect", "--type", "sandbox", name); r.Code == 0 {
			return fmt.Errorf("%s is still there: %s", name, r.Stdout)
		}
		return nil
	})
}

// A network namespace that another program has made takes part in networks, with names in both directions, as long as it is there.
func TestANamespaceOfOthersTakesPart(t *testing.T) {
	t.Parallel()
	c := up(t)
	h, other := c.hosts[0], c.hosts[1]
	h.weft("network", "create", "-d", "overlay", "--subnet", "10.5.0.0/24", "web")
	h.weft("network", "create", "-d", "overlay", "--internal", "db")
	b := other.box("b", "web").echo()
	ns := filepath.Join(t.TempDir(), "theirs")
	must(t, kernel.MakeNetns(ns))
	t.Cleanup(func() { _ = kernel.RemoveNetns(ns) })
	// Which has ways of its own.
	must(t, lab.Within(ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
	}))
	target := "netns:" + ns
	h.weft("network", "connect", "--ip", "10.5.0.9", "--alias", "guest", "web", target)
	g := h.guest("theirs", ns).echo()
	eventually(t, settle, func() error {
		return errors.Join(b.finds("theirs", "10.5.0.9"), b.finds("guest", "10.5.0.9"), g.finds("b", b.addr("web")), g.reaches(b.addr("web")), b.reaches("10.5.0.9"))
	})
	must(t, lab.Within(ns, func() error {
		rs, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		for _, r := range rs {
			if (r.Dst == nil || r.Dst.IP.IsUnspecified()) && r.Gw != nil {
				err = errors.Join(err, fmt.Errorf("it has the default route %v", r))
			}
		}
		return err
	}))
	h.weft("network", "connect", "db", target)
	h.refuses(1, "endpoint with name theirs already exists in network db", "network", "connect", "db", target)
	if got := h.weft("ps", "--no-trunc", "--format", "{{.Names}}|{{.Command}}|{{.Networks}}|{{.State}}"); got != `theirs|"`+target+`"|web,db|running` {
		t.Errorf("ps shows %s", got)
	}
	for _, args := range [][]string{{"stop", "theirs"}, {"kill", "theirs"}, {"exec", "theirs", "true"}, {"logs", "theirs"}, {"restart", "theirs"}, {"attach", "theirs"}, {"wait", "theirs"}} {
		h.refuses(1, "is a namespace that others made", args...)
	}

	// The agent comes and goes, and what is right stays as it is.
	h.kill()
	h.up()
	eventually(t, settle, func() error {
		return errors.Join(g.reaches(b.addr("web")), g.finds("b", b.addr("web")), b.finds("theirs", "10.5.0.9"))
	})

	h.weft("network", "disconnect", "web", target)
	eventually(t, settle, func() error {
		return errors.Join(b.finds("theirs"), g.finds("theirs", (&box{h: h, name: "theirs"}).addr("db")))
	})
	h.weft("network", "disconnect", "db", "theirs")
	h.forgets("theirs")
	h.empties(ns)
	h.refuses(1, "is not connected to network web", "network", "disconnect", "web", target)

	// It goes while it is connected, once with an agent that sees it and once without.
	for _, seen := range []bool{true, false} {
		h.weft("network", "connect", "--ip", "10.5.0.9", "web", target)
		eventually(t, settle, func() error { return b.finds("theirs", "10.5.0.9") })
		if !seen {
			h.kill()
		}
		must(t, kernel.RemoveNetns(ns))
		if !seen {
			h.up()
		}
		h.forgets("theirs")
		eventually(t, settle, func() error { return b.finds("theirs") })
		must(t, kernel.MakeNetns(ns))
	}
	eventually(t, settle, func() error { // which is let go of after the store was told
		if spaces, _ := filepath.Glob(filepath.Join(h.RunDir(), "sandboxes", "*", "netns")); len(spaces) > 0 {
			return fmt.Errorf("still held: %v", spaces)
		}
		return h.holdsNothingOf("web")
	})
}

// holdsNothingOf tells that no endpoint of this host is left in a network.
func (h *host) holdsNothingOf(network string) error {
	if got := h.weft("endpoint", "ls", "-q", "-f", "network="+network, "-f", "host="+h.Name); got != "" {
		return fmt.Errorf("%s has endpoints in %s: %s", h.Name, network, got)
	}
	return nil
}

func TestAProcessOfOthersTakesPart(t *testing.T) {
	t.Parallel()
	c := up(t)
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "web")
	b := c.hosts[1].box("b", "web").echo()
	theirs := exec.Command("sleep", forever)
	theirs.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	must(t, theirs.Start())
	t.Cleanup(func() { _ = theirs.Process.Kill(); _ = theirs.Wait() })
	name := fmt.Sprintf("pid-%d", theirs.Process.Pid)
	target := fmt.Sprintf("pid:%d", theirs.Process.Pid)
	h.weft("network", "connect", "web", target)
	g := h.guest(name, fmt.Sprintf("/proc/%d/ns/net", theirs.Process.Pid)).echo()
	addr := g.addr("web")
	eventually(t, settle, func() error { return errors.Join(b.finds(name, addr), b.reaches(addr), g.reaches(b.addr("web"))) })
	h.refuses(1, "is the network namespace of sandbox "+name, "network", "connect", "web", "netns:"+g.netns)

	for target, words := range map[string]string{
		"pid:0":                        "it must be the number of a process",
		"pid:x":                        "it must be the number of a process",
		"pid:4194999":                  "no such network namespace",
		"netns:relative":               "it must be the absolute path",
		"netns:/does/not/exist":        "no such network namespace",
		"netns:/dev/null":              "it is no network namespace",
		fmt.Sprintf("pid:%d", h.PID()): "sharing network namespace with another container or host",
	} {
		h.refuses(1, words, "network", "connect", "web", target)
	}
	h.refuses(1, "network nothing not found", "network", "connect", "nothing", fmt.Sprintf("netns:/proc/%d/ns/net", c.hosts[1].PID()))
	if got := h.weft("ps", "-aq"); strings.Contains(got, "\n") {
		t.Errorf("what failed is there: %s", got)
	}

	must(t, theirs.Process.Kill())
	_ = theirs.Wait()
	h.forgets(name)
	eventually(t, settle, func() error { return errors.Join(b.finds(name), h.holdsNothingOf("web")) })
}

// A container of a real dockerd takes part; it may be stopped, started and removed by its own daemon.
func TestAContainerOfDockerTakesPart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	d := newDockerd(c, "docks", "")
	d.net = []string{"--iptables=false", "--bip", "172.30.0.1/24"}
	c.hosts[0].Env = []string{"DOCKER_HOST=unix://" + d.socket()}
	c.start()
	h := c.hosts[0]
	d.start()
	d.load()
	d.run("web1", "bridge", object{}, nil)
	d.run("shared", "host", object{}, nil)
	d.create("later", "bridge", object{}, nil)

	h.weft("network", "create", "-d", "overlay", "web")
	b := c.hosts[1].box("b", "web").echo()
	h.weft("network", "connect", "--alias", "front", "web", "docker:web1")
	g := h.guest("web1", d.netnsOf("web1"))
	addr := g.addr("web")
	eventually(t, settle, func() error {
		return errors.Join(b.finds("front", addr), g.reaches(b.addr("web")), g.finds("b", b.addr("web")))
	})
	if got, err := links(g.netns); err != nil || !slices.Equal(got, []string{"eth0", "lo", "weft0"}) {
		t.Errorf("the container has %v, %v", got, err)
	}
	h.refuses(1, "sharing network namespace with another container or host", "network", "connect", "web", "docker:shared")
	h.refuses(1, "No such container: gone", "network", "connect", "web", "docker:gone")

	// One that does not run joins when it does.
	h.weft("network", "connect", "web", "docker:later")
	if got := h.weft("ps", "-a", "--format", "{{.State}}", "-f", "name=later"); got != "exited" {
		t.Errorf("later is %s", got)
	}
	d.must(http.MethodPost, "/containers/later/start", nil, nil)
	later := h.guest("later", "")
	eventually(t, patience, func() error { return b.finds("later", addressOf(later, "web")...) })

	// Stopped and started, also while no agent is there.
	d.must(http.MethodPost, "/containers/web1/stop?t=0", nil, nil)
	eventually(t, patience, func() error { return b.finds("web1") })
	h.kill()
	d.must(http.MethodPost, "/containers/web1/start", nil, nil)
	h.up()
	eventually(t, patience, func() error { return errors.Join(b.finds("web1", addr), b.pings(addr, 8, soon)) })
	d.must(http.MethodPost, "/containers/web1/restart?t=0", nil, nil)
	g = h.guest("web1", d.netnsOf("web1"))
	eventually(t, patience, func() error {
		return errors.Join(b.finds("web1", addr), b.pings(addr, 8, soon), g.finds("b", b.addr("web")))
	})

	// Removed: nothing of it is left.
	d.must(http.MethodDelete, "/containers/web1?force=true", nil, nil)
	h.forgets("web1")
	h.weft("network", "disconnect", "web", "docker:later")
	h.forgets("later")
	eventually(t, settle, func() error { return h.holdsNothingOf("web") })
	h.empties(d.netnsOf("later"), "eth0")

	// A daemon that does not answer is no reason to wait.
	d.kill()
	h.refuses(1, "ask the Docker daemon at unix://"+d.socket(), "network", "connect", "web", "docker:later")
}

// addressOf is a sandbox's address, if it has one yet.
func addressOf(b *box, network string) []string {
	if a := b.view().NetworkSettings.Networks[network].IPAddress; a != "" {
		return []string{a}
	}
	return nil
}

// netnsOf is the network namespace of a container, as this process sees it.
func (d *dockerd) netnsOf(name string) string {
	d.c.t.Helper()
	var v struct{ State struct{ Pid int } }
	d.must(http.MethodGet, "/containers/"+name+"/json", nil, &v)
	return fmt.Sprintf("/proc/%d/root/proc/%d/ns/net", d.cmd.Process.Pid, v.State.Pid)
}
