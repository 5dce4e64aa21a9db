package e2e

import (
	"strings"
	"testing"
)

// The words are those that users, and their scripts, know from Docker.
func TestWhatIsTakenOrWrongIsRefused(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "--aux-address", "router=10.1.0.250", "web")
	h1.box("a", "web", "--ip", "10.1.0.9")
	h2.box("b", "web")

	create := func(args ...string) []string { return append([]string{"network", "create", "-d", "overlay"}, args...) }
	run := func(args ...string) []string {
		return append(append([]string{"run", "-d", "--network", "web"}, args...), "--", "sleep", forever)
	}
	for _, x := range []struct {
		code  int
		words string
		args  []string
	}{
		{1, "network with name web already exists", create("web")},
		{1, "network with name WEB already exists", create("WEB")},
		{1, "Pool overlaps with other one on this address space", create("--subnet", "10.1.0.128/25", "other")},
		{1, "Pool overlaps with other one on this address space", create("--subnet", "10.0.0.0/8", "other")},
		{1, "192.0.2.0/24", create("--subnet", "192.0.2.0/25", "other")}, // a route of the hosts
		{1, "no matching subnet for", create("--subnet", "10.3.0.0/24", "--gateway", "10.4.0.1", "other")},
		{1, "it should be 10.3.0.0/24", create("--subnet", "10.3.0.1/24", "other")},
		{1, "could not resolve driver", []string{"network", "create", "-d", "nope", "other"}},
		{1, "encrypted", create("-o", "encrypted", "other")},
		{1, "not in swarm mode", create("--ingress", "other")},
		{1, "network nope not found", []string{"network", "inspect", "nope"}},
		{1, "has active endpoints: a on this host (running), b on host2", []string{"network", "rm", "web"}},
		{1, "it should be 10.3.0.0/25", create("--subnet", "10.3.0.0/24", "--ip-range", "10.3.0.5/25", "other")},
		{125, "a is given twice: 10.3.0.7 and 10.3.0.8", create("--subnet", "10.3.0.0/24", "--aux-address", "a=10.3.0.7", "--aux-address", "a=10.3.0.8", "other")},
		{125, "is no NAME=IP", create("--subnet", "10.3.0.0/24", "--aux-address", "10.3.0.7", "other")},
		{1, "is a pre-defined network and cannot be removed", []string{"network", "rm", "host"}},
		{1, "endpoint with name a already exists in network web", []string{"network", "connect", "web", "a"}},

		{125, "Address already in use", run("--name", "x", "--ip", "10.1.0.9")},
		{125, "no configured subnet", run("--name", "x", "--ip", "10.9.0.9")},
		{125, "10.1.0.1", run("--name", "x", "--ip", "10.1.0.1")},
		{125, "10.1.0.255", run("--name", "x", "--ip", "10.1.0.255")},
		{125, "10.1.0.0", run("--name", "x", "--ip", "10.1.0.0")},
		{125, "10.1.0.250", run("--name", "x", "--ip", "10.1.0.250")},
		{125, `"a" is already in use`, run("--name", "a")},
		{125, "endpoint with name b already exists in network web", run("--name", "b")}, // on the other host
		{125, "network nope not found", []string{"run", "--network", "nope", "true"}},
	} {
		h1.refuses(x.code, x.words, x.args...)
	}
	for _, text := range []string{h1.weft("ps", "-a", "--format", "{{.Names}}"), h1.weft("network", "ls", "--format", "{{.Name}}")} {
		if strings.Contains(text, "x\n") || strings.Contains(text, "other") {
			t.Errorf("something stayed of what was refused: %q", text)
		}
	}
	if got := h1.weft("endpoint", "ls", "-q"); len(strings.Fields(got)) != 2 {
		t.Errorf("endpoints: %q, want the two of a and b", got)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	c.start()
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "web")
	for _, x := range []struct {
		code int
		args []string
	}{
		{0, []string{"run", "--rm", "--network", "web", "--", "true"}},
		{7, []string{"run", "--rm", "--network", "web", "--", "sh", "-c", "exit 7"}},
		{137, []string{"run", "--rm", "--network", "none", "--", "sh", "-c", "kill -9 $$"}},
		{125, []string{"run", "--rm", "--network", "nope", "--", "true"}},
		{125, []string{"run", "--nope", "true"}},
		{126, []string{"run", "--rm", "--network", "web", "--", "/etc/passwd"}},
		{127, []string{"run", "--rm", "--network", "web", "--", "no-such-program"}},
		{127, []string{"run", "-d", "--network", "web", "--", "no-such-program"}},
		{126, []string{"run", "-d", "--network", "web", "--", "/etc/passwd"}},
		{125, []string{"run", "-d", "--network", "web", "-w", "/no/such/directory", "--", "true"}},
	} {
		if r := h.try(x.args...); r.Code != x.code {
			t.Errorf("weft %v: exit %d, want %d; it said %q", x.args, r.Code, x.code, r.Stderr)
		}
	}
	b := h.box("b", "web")
	for code, command := range map[int]string{0: "true", 3: "exit 3"} {
		if r := h.try("exec", b.name, "sh", "-c", command); r.Code != code {
			t.Errorf("weft exec %q: exit %d, want %d; it said %q", command, r.Code, code, r.Stderr)
		}
	}
	if r := h.try("exec", b.name, "no-such-program"); r.Code != 127 {
		t.Errorf("weft exec of no program: exit %d, want 127; it said %q", r.Code, r.Stderr)
	}
	if got := h.weft("ps", "-aq"); len(strings.Fields(got)) != 1 {
		t.Errorf("sandboxes: %q, want b alone: what failed is gone", got)
	}
}

func TestTheForegroundPassesOutputOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	c.start()
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "web")
	r := h.try("run", "--rm", "--name", "x", "--hostname", "sea", "-e", "COLOUR=red", "--network", "web", "--", "sh", "-c",
		`echo "$(hostname) $COLOUR"; cat /etc/resolv.conf; echo oops >&2`)
	want := "sea red\nnameserver 127.0.0.11\noptions ndots:0\n"
	if r.Code != 0 || r.Stdout != want || r.Stderr != "oops\n" {
		t.Errorf("exit %d, output %q, errors %q; want output %q and oops", r.Code, r.Stdout, r.Stderr, want)
	}
}
