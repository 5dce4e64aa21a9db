package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
)

// restored is how soon weft has its own back after others took it away.
const restored = 5 * time.Second

// does runs another's program in the host's namespace.
func (h *host) does(line ...string) string {
	h.c.t.Helper()
	var out []byte
	err := lab.Within(h.Path, func() (err error) {
		out, err = exec.Command(line[0], line[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		h.c.t.Fatalf("%s: %v: %s", strings.Join(line, " "), err, out)
	}
	return string(out)
}

// reachable tells whether a sandbox with port 7 published as 8080 is in touch with all the world: out, in, from the host, and a neighbour.
func reachable(c *cluster, h *host, a, b *box) error {
	return errors.Join(
		a.says(c.lab.OutsideAddr().String(), unanswered), c.outside().reached(h.at("8080"), c.lab.Outside().Addr.String()),
		h.caller().reached(h.at("8080"), h.Addr.String()), a.says(b.addr("web"), unanswered),
	)
}

// notes are what the host says of itself, one a line.
func (h *host) notes() string {
	h.c.t.Helper()
	return strings.ReplaceAll(h.weft("host", "ls", "--format", "{{.Notes}}"), "; ", "\n")
}

// busy is a host with two sandboxes in a local network, one of them with a published port.
func busy(c *cluster, h *host) (a, b *box) {
	h.weft("network", "create", "web")
	a, b = h.box("a", "web", "-p", "8080:7").echo(), h.box("b", "web").echo()
	echo(c, c.lab.Outside().Path, c.lab.OutsideAddr().String())
	eventually(c.t, settle, func() error { return reachable(c, h, a, b) })
	return a, b
}

// What others flush or delete in the host is back within seconds, without a word to the agent.
func TestWhatIsTakenAwayComesBack(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	a, b := busy(c, h)
	bridge := ""
	for _, l := range strings.Fields(h.does("ip", "-o", "-br", "link", "show", "type", "bridge")) {
		if strings.HasPrefix(l, "br-") {
			bridge = l
		}
	}
	for _, harm := range [][]string{
		{"nft", "flush", "ruleset"}, {"nft", "flush", "chain", "inet", "weft", "postrouting"}, {"nft", "delete", "table", "bridge", "weft"},
		{"ip", "addr", "flush", "dev", bridge}, {"ip", "link", "set", bridge, "down"}, {"ip", "link", "delete", bridge},
	} {
		before := h.does("ip", "-o", "-br", "link")
		h.does(harm...)
		began := time.Now()
		eventually(t, restored, func() error { return reachable(c, h, a, b) })
		t.Logf("%s: back after %s", strings.Join(harm, " "), time.Since(began).Round(time.Millisecond))
		if after := h.does("ip", "-o", "-br", "link"); len(strings.Split(before, "\n")) != len(strings.Split(after, "\n")) {
			t.Errorf("%s: links were\n%sand are\n%s", strings.Join(harm, " "), before, after)
		}
	}
	h.does("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1")
	eventually(t, restored, func() error { return reachable(c, h, a, b) })
}

// A user's own policy to drop has no place for weft: it is not touched, and named with the command that helps.
func TestAPolicyThatDropsIsNamed(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	a, b := busy(c, h)
	h.does("iptables", "-P", "FORWARD", "DROP")
	theirs := h.does("iptables-save")
	if err := a.says(c.lab.OutsideAddr().String(), unanswered); err == nil {
		t.Fatal("the check itself does not work: the policy drops nothing")
	}
	note := "chain FORWARD of nftables table ip filter drops what none of its rules lets pass, and weft's packets with it: "
	_, remedy, ok := strings.Cut(h.notes(), note)
	if !ok {
		t.Fatalf("host ls does not say so: %s", h.notes())
	}
	if got := h.does("iptables-save"); counterless(got) != counterless(theirs) {
		t.Errorf("the user's rules were\n%sand are\n%s", theirs, got)
	}
	remedy, _, _ = strings.Cut(remedy, "\n")
	h.does(strings.Fields(remedy)...)
	eventually(t, restored, func() error { return reachable(c, h, a, b) })
	if got := h.notes(); strings.Contains(got, note) {
		t.Errorf("it is still said: %s", got)
	}
}

// counterless is what iptables-save says without its comments and counters, sorted.
func counterless(s string) string {
	var out []string
	for l := range strings.SplitSeq(s, "\n") {
		if !strings.HasPrefix(l, "#") {
			l, _, _ = strings.Cut(l, " [")
			out = append(out, l)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// A real dockerd whose FORWARD policy drops, with bridge netfilter on: weft's one rule is in the chain that Docker offers, comes back when it is
// lost, and nothing of Docker's is touched.
func TestBesideARealDocker(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nowhere{})
	h := c.hosts[0]
	d := dockerdOn(c, h.Node, h.Name+"-docker", "")
	d.net = []string{"--ip-forward=true"} // it switches forwarding on, and lets FORWARD drop for that
	d.start()
	d.load()
	d.run("theirs", "bridge", object{}, object{})
	h.does("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1")
	docker := counterless(h.does("iptables-save"))
	if !strings.Contains(docker, "FORWARD DROP") || !strings.Contains(docker, "DOCKER-USER") {
		t.Fatalf("the check itself does not work: %s", docker)
	}
	h.up()
	a, b := busy(c, h)
	without := func() string {
		lines := strings.Split(counterless(h.does("iptables-save")), "\n")
		return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "weft") }), "\n")
	}
	same := func(when string) {
		t.Helper()
		if got := without(); got != docker {
			t.Errorf("%s: Docker's rules were\n%s\nand are\n%s", when, docker, got)
		}
	}
	same("beside each other")
	if got := h.notes(); strings.Contains(got, "FORWARD") {
		t.Errorf("it complains: %s", got)
	}

	h.does("iptables", "-D", "DOCKER-USER", "1")
	eventually(t, restored, func() error { return reachable(c, h, a, b) })
	same("after weft's rule was lost")

	d.kill()
	h.does("nft", "flush", "ruleset")
	d.start()
	eventually(t, patience, func() error {
		if !strings.Contains(h.does("iptables", "-S", "DOCKER-USER"), "weft") {
			return fmt.Errorf("weft has no rule there")
		}
		return reachable(c, h, a, b)
	})
	if !strings.Contains(h.does("iptables", "-S", "FORWARD"), "-P FORWARD DROP") {
		t.Log("dockerd found forwarding switched on, and left the policy as it was")
	}
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// spawn starts a daemon in the host's namespace, which ends with the test at the latest.
func (h *host) spawn(env []string, line ...string) *exec.Cmd {
	h.c.t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), env...)
	must(h.c.t, lab.Within(h.Path, cmd.Start))
	h.c.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed: its status says so
	})
	return cmd
}

// A real firewalld, which starts after the agent and is reloaded: sandboxes stay in touch with all the world.
func TestBesideARealFirewalld(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"firewalld": "firewalld", "dbus-daemon": "dbus-daemon"})
	c := newCluster(t, 1, nowhere{})
	h, dir := c.hosts[0], t.TempDir()
	env := []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + filepath.Join(dir, "bus")}
	must(t, os.WriteFile(filepath.Join(dir, "bus.conf"), fmt.Appendf(nil, busConfig, "unix:path="+filepath.Join(dir, "bus")), 0o644))
	h.spawn(env, "dbus-daemon", "--config-file="+filepath.Join(dir, "bus.conf"), "--nofork", "--nopidfile")
	eventually(t, patience, func() error { _, err := os.Stat(filepath.Join(dir, "bus")); return err })
	h.Env = append(h.Env, env...)
	h.up()
	a, b := busy(c, h)
	h.spawn(env, "firewalld", "--nofork", "--nopid", "--system-config", filepath.Join(dir, "etc"), "--log-file", filepath.Join(dir, "log"))
	cli := func(args ...string) error {
		return lab.Within(h.Path, func() error {
			cmd := exec.Command("firewall-cmd", args...)
			cmd.Env = append(os.Environ(), env...)
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("firewall-cmd %v: %w: %s", args, err, out)
			}
			return nil
		})
	}
	eventually(t, patience, func() error { return cli("--state") })
	if !strings.Contains(h.does("nft", "list", "chain", "inet", "firewalld", "filter_FORWARD"), "reject") {
		t.Fatal("the check itself does not work: firewalld rejects nothing")
	}
	eventually(t, restored, func() error { return reachable(c, h, a, b) })
	must(t, cli("--reload"))
	eventually(t, restored, func() error { return reachable(c, h, a, b) })
	if got := h.notes(); strings.Contains(got, "firewalld") {
		t.Errorf("it complains: %s", got)
	}
}
