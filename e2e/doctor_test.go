package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/e2e/lab"
)

// check is one of `weft doctor`'s.
type check struct{ Name, Subject, Status, Finding, Remedy string }

// examined is what doctor says of a host, and its exit code.
func (h *host) examined(options ...string) ([]check, int) {
	h.c.t.Helper()
	r := h.try(append([]string{"doctor", "--format", "json"}, options...)...)
	var out []check
	for line := range strings.Lines(r.Stdout) {
		var c check
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			h.c.t.Fatalf("%s: doctor printed %q: %v", h.Name, line, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		h.c.t.Fatalf("%s: doctor said nothing, exit code %d: %s", h.Name, r.Code, r.Stderr)
	}
	return out, r.Code
}

// well requires that doctor finds nothing wrong on any host that runs, within a while: some of what was done last may just be on its way.
func (c *cluster) well() {
	c.t.Helper()
	c.healthy(within(c.t, patience))
}

// leavesAiling says why doctor need not find the hosts well at a story's end.
func (c *cluster) leavesAiling(why string) { c.ailing = why }

// wellAtTheEnd requires that records, kernel and names agree on each host that runs when a story has ended.
func (c *cluster) wellAtTheEnd() {
	if c.t.Failed() || c.ailing != "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience) // the test's own has ended
	defer cancel()
	c.healthy(ctx)
}

func (c *cluster) healthy(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, h := range c.hosts {
		if h.Running() && h.ailing == "" {
			all.Go(func() { h.healthy(ctx) })
		}
	}
}

func (h *host) healthy(ctx context.Context) {
	var last lab.Result
	for {
		r, err := h.Host.Weft(ctx, "doctor")
		if err == nil && r.Code == 0 {
			return
		}
		if err == nil {
			last = r
		}
		select {
		case <-ctx.Done():
			h.c.t.Errorf("%s is not well: exit %d:\n%s%s", h.Name, last.Code, last.Stdout, last.Stderr)
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func TestDoctorFindsASoundClusterWell(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.2.0.0/24", "db")
	h1.weft("network", "create", "one")
	h1.box("a", "web", "-p", "8080:80")
	h2.box("b", "web", "--network-alias", "v,mode=vip")
	h3.box("d", "db")
	h2.box("e", "db")
	h1.box("f", "one")
	h1.box("g", "bridge")
	c.well()
}

// found returns a check of a name on a subject.
func found(cs []check, name, subject string) (check, bool) {
	for _, c := range cs {
		if c.Name == name && c.Subject == subject {
			return c, true
		}
	}
	return check{}, false
}

// complains waits until doctor reports something about a subject, with these words in the finding and the remedy.
func (h *host) complains(within time.Duration, name, subject, finding, remedy string) {
	h.c.t.Helper()
	began := time.Now()
	eventually(h.c.t, within, func() error {
		cs, code := h.examined()
		c, ok := found(cs, name, subject)
		if !ok || c.Status == "ok" || code != 1 && c.Status == "error" || !strings.Contains(c.Finding, finding) || !strings.Contains(c.Remedy, remedy) {
			return fmt.Errorf("exit code %d, check %s of %q is %+v, want %q and %q", code, name, subject, c, finding, remedy)
		}
		return nil
	})
	h.c.t.Logf("%s reported %s of %q after %s", h.Name, name, subject, time.Since(began).Round(10*time.Millisecond))
}

func TestDoctorFindsAFilteredTunnelWithinTenSeconds(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	h1.box("a", "web")
	h2.box("b", "web")
	c.well()
	h2.does("nft", "add table inet others; add chain inet others in { type filter hook input priority -10; }; add rule inet others in udp dport 4789 drop")
	cut := time.Now()
	eventually(t, 10*time.Second, func() error {
		if notes := h1.notes(); !strings.Contains(notes, "path to host "+h2.Name+": no-tunnel") {
			return fmt.Errorf("host ls says %q", notes)
		}
		return nil
	})
	t.Logf("host ls says so after %s", time.Since(cut).Round(10*time.Millisecond))
	h1.complains(10*time.Second, "tunnel", h2.Name, "does not arrive; what comes from there arrives here", "let UDP port 4789 from "+h1.Addr.String()+" pass into "+h2.Name)
	h2.complains(10*time.Second, "tunnel", h1.Name, "nothing of what it sends to UDP port 4789 arrives here", "firewalls of both")
	h2.does("nft", "delete", "table", "inet", "others")
	c.well()
}

func TestDoctorFindsAMTUBlackHole(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	h1.box("a", "web")
	h2.box("b", "web")
	h2.does("nft", "add table netdev others; add chain netdev others in { type filter hook ingress device eth0 priority 0; }; add rule netdev others in meta protocol ip udp dport 4789 meta length > 1300 drop")
	h1.complains(20*time.Second, "mtu", h2.Name, "vanish on the way there", "com.docker.network.driver.mtu=12")
	h2.complains(20*time.Second, "mtu", h1.Name, "those that come back vanish", "run weft doctor there")
	h2.does("nft", "delete", "table", "netdev", "others")
	c.well()
}

// What others have put in weft's way is named, with what to do; and so is a store that is away.
func TestDoctorFindsWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	c, store := upWithStore(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	a := h1.box("a", "web")
	h2.box("b", "web")
	c.well()

	h1.does("ip", "route", "add", "10.1.0.128/25", "dev", "eth0")
	h1.complains(settle, "routes", "web", "overlaps this host's route to 10.1.0.128/25 by eth0", "ip route del 10.1.0.128/25 dev eth0")
	h1.does("ip", "route", "del", "10.1.0.128/25", "dev", "eth0")

	h1.does("ip", "link", "add", "vx9", "type", "vxlan", "id", "9", "dstport", "4789", "nolearning")
	h1.complains(settle, "vxlan", "vx9", "VNI 9, uses UDP port 4789", "ip link del vx9")
	h1.does("ip", "link", "del", "vx9")

	h1.does("nft", "add table inet strict; add chain inet strict f { type filter hook forward priority 0; policy drop; }")
	h1.complains(settle, "firewall", "", "chain f of nftables table inet strict drops", "nft insert rule inet strict f")
	h1.does("nft", "delete", "table", "inet", "strict")

	must(t, lab.Within(a.netns, func() error {
		return exec.Command("nft", "add table ip own; add chain ip own out { type filter hook output priority 0; }; add rule ip own out udp dport 53 drop").Run()
	}))
	h1.complains(patience, "names", "web", "no answer from the resolver of a", "port 53")
	must(t, lab.Within(a.netns, func() error { return exec.Command("nft", "delete", "table", "ip", "own").Run() }))
	c.well()

	store.down()
	h1.complains(patience, "store", "", "does not answer", "weft store status")
	store.up()
	eventually(t, 2*time.Minute, func() error {
		if r := h1.try("doctor", "-q"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stdout)
		}
		return nil
	})
}
