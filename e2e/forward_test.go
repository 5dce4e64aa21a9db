package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Commands about a sandbox work from every host as they do on its own.
func TestASandboxIsCommandedFromAnotherHost(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "web")
	client := h1.box("client", "web")
	b := h2.box("served", "web", "-e", "PS1=ready>").echo()
	h1.knowsPeers()

	// A command in it: its output and exit code, also where it cannot be run; what it reads; and its terminal.
	if got := h1.weft("exec", "served", "echo", "from", "afar"); got != "from afar" {
		t.Errorf("exec says %q", got)
	}
	if r := h1.try("exec", "served", "sh", "-c", "echo on its error output >&2; exit 42"); r.Code != 42 || r.Stderr != "on its error output\n" {
		t.Errorf("exit %d: %q", r.Code, r.Stderr)
	}
	h1.refuses(127, "nonsense", "exec", "served", "nonsense")
	cat := h1.Command(within(t, patience), "exec", "-i", "host2/served", "cat")
	large := bytes.Repeat([]byte("0123456789abcde\n"), 64<<10)
	cat.Stdin = bytes.NewReader(large)
	if got, err := cat.Output(); err != nil || !bytes.Equal(got, large) {
		t.Errorf("of 1 MiB of input %d bytes came back: %v", len(got), err)
	}
	s := h1.terminal("exec", "-it", "served", "sh")
	s.shows("ready>")
	s.types("stty size\r")
	s.shows("24 80")
	s.resize(40, 100)
	s.answers("stty size", "40 100")
	s.types("exit 3\r")
	s.ends(3)

	// What it writes, until it ends.
	h2.weft("run", "-d", "--name", "talks", "--network", "none", "--", "sh", "-c", "echo one; sleep "+forever)
	logs := h1.Command(within(t, patience), "logs", "-f", "talks")
	out, err := logs.StdoutPipe()
	must(t, errors.Join(err, logs.Start()))
	line := make([]byte, 4)
	if _, err := out.Read(line); err != nil || string(line) != "one\n" {
		t.Errorf("logs show %q, %v", line, err)
	}
	h3.weft("kill", "talks")
	if got := h1.weft("wait", "talks"); got != "137" {
		t.Errorf("wait says %q", got)
	}
	if err := logs.Wait(); err != nil {
		t.Errorf("logs -f: %v", err)
	}
	if got := h1.weft("rm", "talks"); got != "talks" {
		t.Errorf("rm says %q", got)
	}
	h2.refuses(1, "No such sandbox: talks", "rm", "talks")

	// Its networks and its life.
	addr := b.addr("web")
	h3.weft("network", "disconnect", "web", "served")
	eventually(t, settle, func() error { return errors.Join(client.finds("served"), client.blind(addr)) })
	h3.weft("network", "connect", "--alias", "again", "web", "served")
	eventually(t, settle, func() error { return client.finds("again", b.addr("web")) })
	h1.refuses(1, "endpoint with name served already exists in network web", "network", "connect", "web", "served")
	h1.weft("stop", "-t", "0", "served")
	h1.refuses(1, "is not running (on host host2)", "exec", "served", "true")
	h1.weft("start", "served")
	h1.weft("restart", "-t", "0", "served")
	h1.weft("rename", "served", "moved")
	if got := h3.weft("inspect", "-f", "{{.Name}} {{.State.Status}}", "moved"); strings.TrimPrefix(got, "/") != "moved running" {
		t.Errorf("inspect says %q", got)
	}
	h1.refuses(1, "No such sandbox: served", "stop", "served")
	h1.weft("rm", "-f", "host2/moved")
	h1.weft("store", "check")
}

// Which sandbox a name means: the one here, or the only one there is; else the host's name has to be given.
func TestSandboxesOfOneNameOnSeveralHosts(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	where := func(h *host) {
		h.weft("run", "-d", "--name", "twin", "--network", "none", "-e", "AT="+h.Name, "--", "sleep", forever)
	}
	at := func(h *host, ref, want string) {
		t.Helper()
		if got := h.weft("exec", ref, "printenv", "AT"); got != want {
			t.Errorf("on %s %s is at %s, want %s", h.Name, ref, got, want)
		}
	}
	where(h2)
	h1.knowsPeers()
	at(h1, "twin", "host2")
	where(h3)
	h1.refuses(1, "sandbox twin is ambiguous: hosts host2, host3 have one; say which, as in host2/twin", "exec", "twin", "true")
	at(h1, "host3/twin", "host3")
	at(h3, "twin", "host3")
	where(h1)
	at(h1, "twin", "host1")
	at(h1, "host1/twin", "host1")
	h1.refuses(1, "no such host: host9", "rm", "-f", "host9/twin")

	// The beginning of an ID here, unless it is a name somewhere.
	begins := h1.weft("inspect", "-f", "{{.Id}}", "host1/twin")[:4]
	at(h1, begins, "host1")
	h2.weft("run", "-d", "--name", begins, "--network", "none", "-e", "AT="+h2.Name, "--", "sleep", forever)
	at(h1, begins, "host2")
	at(h1, "host1/"+begins, "host1")
	h1.weft("rm", "-f", begins)
	at(h1, begins, "host1")

	// A host that takes no commands says so; those that it gives are taken.
	h3.Args = append(h3.Args, "--refuse-forwarded")
	must(t, h3.Restart(within(t, patience)))
	h3.awaitJoined()
	eventually(t, patience, func() error {
		return h1.says("host host3 takes no commands from other hosts (weftd --refuse-forwarded): run it there", "rm", "-f", "host3/twin")
	})
	at(h3, "host2/twin", "host2")

	// A host whose agent is away has its sandboxes still, and is waited for by nobody.
	h2.kill()
	began := time.Now()
	eventually(t, patience, func() error { return h1.says("No such sandbox: twin", "rm", "-f", "host2/twin") })
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to say so", took)
	}
	h2.up()
	eventually(t, patience, func() error {
		if r := h1.try("rm", "-f", "host2/twin"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
}

// says tells whether a command fails with these words.
func (h *host) says(words string, args ...string) error {
	h.c.t.Helper()
	if r := h.try(args...); r.Code == 0 || !strings.Contains(r.Stderr, words) {
		return fmt.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	return nil
}

// knowsPeers waits until a host can ask all others.
func (h *host) knowsPeers() {
	h.c.t.Helper()
	for _, o := range h.c.hosts {
		if o != h {
			eventually(h.c.t, patience, func() error { return h.saysOnly("No such sandbox: nobody", o.Name+"/nobody") })
		}
	}
}

// saysOnly tells whether a host answers for a reference, and has nothing of that name.
func (h *host) saysOnly(words, ref string) error {
	r := h.try("inspect", "--type", "sandbox", ref)
	if !strings.Contains(r.Stderr, words) || strings.Contains(r.Stderr, "may be on") {
		return errors.New(r.Stderr)
	}
	return nil
}
