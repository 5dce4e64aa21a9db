package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
)

// lifeView is what of `weft inspect` tells of a sandbox's lives.
type lifeView struct {
	RestartCount int
	State        struct {
		Status   string
		ExitCode int
		Pid      int
	}
	HostConfig struct {
		RestartPolicy struct {
			Name              string
			MaximumRetryCount int
		}
	}
}

func (h *host) life(name string) lifeView {
	h.c.t.Helper()
	return inspect[lifeView](h, "inspect", name)
}

// awaitLife waits until a sandbox is as wanted.
func (h *host) awaitLife(name string, as func(lifeView) bool) lifeView {
	h.c.t.Helper()
	var v lifeView
	eventually(h.c.t, patience, func() error {
		if v = h.life(name); as(v) {
			return nil
		}
		return fmt.Errorf("%s is %+v", name, v)
	})
	return v
}

// runs: one whose process has ended and is not dealt with yet has no process ID.
func runs(v lifeView) bool { return v.State.Status == "running" && v.State.Pid != 0 }

// A sandbox gets another name, in DNS on all hosts as well; a name that is taken anywhere is refused, and nothing has changed then.
func TestASandboxIsRenamed(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	h1.weft("network", "create", "-d", "overlay", "db")
	a, b := h1.box("ann", "web", "--network", "db"), h2.box("ben", "web")
	h2.box("taken", "db")
	addr := a.addr("web")
	eventually(t, settle, func() error { return b.finds("ann", addr) })

	h1.weft("rename", "ann", "n")
	eventually(t, settle, func() error { return errors.Join(b.finds("n", addr), b.finds("ann")) })
	eventually(t, settle, func() error { return a.finds("n", addr, (&box{h: h1, name: "n"}).addr("db")) })
	h1.refuses(1, "No such sandbox: ann", "inspect", "--type", "sandbox", "ann")

	// In web the name is free, in db it is not: it moves in neither.
	h1.refuses(1, "endpoint with name taken already exists in network db", "rename", "n", "taken")
	h1.box("here", "db")
	h1.refuses(1, "is already in use by sandbox", "rename", "n", "here")
	h1.refuses(1, "same name as its current name", "rename", "n", "n")
	eventually(t, settle, func() error { return errors.Join(b.finds("n", addr), b.finds("taken"), b.finds("here")) })

	// One that is stopped, and one that has never run.
	h1.weft("stop", "-t", "0", "n")
	h1.weft("rename", "n", "later")
	h1.weft("start", "later")
	eventually(t, settle, func() error { return b.finds("later", addr) })
	h1.kill()
	h1.up()
	eventually(t, settle, func() error { return b.finds("later", addr) })
	if r := h2.try("store", "check"); r.Code != 0 {
		t.Errorf("the store: %s%s", r.Stdout, r.Stderr)
	}
}

// A process that ends is started again as its policy says, in a namespace of its own with the same addresses, until a user stops it.
func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	c := up(t)
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "web")
	witness := c.hosts[1].box("witness", "web")
	h.refuses(125, "Conflicting options: --restart and --rm", "run", "--rm", "--restart", "always", "--network", "web", "--", "true")

	// At most so often after failures; what it wrote is kept, of all its lives.
	h.weft("run", "-d", "--name", "few", "--network", "web", "--restart", "on-failure:2", "--", "sh", "-c", "echo again; exit 3")
	v := h.awaitLife("few", func(v lifeView) bool { return v.State.Status == "exited" })
	if v.RestartCount != 2 || v.State.ExitCode != 3 || v.HostConfig.RestartPolicy.Name != "on-failure" || v.HostConfig.RestartPolicy.MaximumRetryCount != 2 {
		t.Errorf("few is %+v", v)
	}
	if got := h.weft("logs", "few"); got != "again\nagain\nagain" {
		t.Errorf("few wrote %q", got)
	}
	h.weft("run", "-d", "--name", "fine", "--network", "web", "--restart", "on-failure", "--", "true")
	h.awaitLife("fine", func(v lifeView) bool { return v.State.Status == "exited" && v.RestartCount == 0 })

	// One that dies is out of DNS, comes back, and has its address.
	dir := t.TempDir()
	a := h.box("ann", "web", "--restart", "unless-stopped")
	addr, first := a.addr("web"), h.life("ann").State.Pid
	eventually(t, settle, func() error { return witness.finds("ann", addr) })
	must(t, lookProcess(t, h, a).Kill())
	v = h.awaitLife("ann", func(v lifeView) bool { return runs(v) && v.State.Pid != first })
	if v.RestartCount != 1 || a.addr("web") != addr {
		t.Errorf("a is %+v and has %s, it had %s", v, a.addr("web"), addr)
	}
	eventually(t, settle, func() error { return witness.finds("ann", addr) })
	h.weft("kill", "-s", "KILL", "ann")
	h.awaitLife("ann", func(v lifeView) bool { return v.State.Status == "exited" })
	h.weft("start", "ann")
	if v := h.life("ann"); !runs(v) || v.RestartCount != 0 {
		t.Errorf("after a start a is %+v", v)
	}

	// One that fails all the time waits longer and longer; a user can stop it meanwhile, and nobody gets its address before.
	flag := filepath.Join(dir, "go")
	h.weft("run", "-d", "--name", "loop", "--network", "web", "--restart", "always", "--", "sh", "-c", "test -e "+flag+" && exec sleep 1000000; exit 1")
	h.awaitLife("loop", func(v lifeView) bool { return v.State.Status == "restarting" && v.RestartCount > 4 })
	h.refuses(1, "You cannot remove a restarting sandbox", "rm", "loop")
	h.refuses(1, "is restarting, wait until it is running", "exec", "loop", "true")
	h.refuses(1, "You cannot attach to a restarting sandbox", "attach", "loop")
	if got := h.weft("ps", "--format", "{{.Names}} {{.Status}}", "-f", "name=loop"); !strings.HasPrefix(got, "loop Restarting (1) ") {
		t.Errorf("ps shows %q", got)
	}
	h.kill() // while it waits
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.up()
	h.awaitLife("loop", runs)
	h.weft("stop", "-t", "0", "loop")
	if v := h.life("loop"); v.State.Status != "exited" {
		t.Errorf("loop is %+v", v)
	}
	h.weft("rm", "loop")
	h.weft("rm", "-f", "ann")
	h.refuses(1, "No such sandbox", "inspect", "--type", "sandbox", "ann")
}

// Those with a policy come back with their addresses after their host has lost its power, the others are down; what ended while no agent was
// there is started by the next one.
func TestRestartPoliciesAfterRebootAndAgent(t *testing.T) {
	t.Parallel()
	c := up(t)
	h := c.hosts[1]
	h.weft("network", "create", "-d", "overlay", "web")
	witness := c.hosts[0].box("witness", "web")
	gap := h.box("gap", "web")
	a, always := h.box("ann", "web", "--restart", "unless-stopped"), h.box("always", "web", "--restart", "always")
	plain, off := h.box("plain", "web"), h.box("off", "web", "--restart", "unless-stopped")
	addrA, addrAlways := a.addr("web"), always.addr("web")
	h.weft("rm", "-f", gap.name)
	h.weft("stop", "-t", "0", off.name, always.name)

	theirs := lookProcess(t, h, a)
	h.kill()
	must(t, theirs.Kill())
	h.up()
	h.awaitLife("ann", runs)
	if got := a.addr("web"); got != addrA {
		t.Errorf("after the agent's restart a has %s, it had %s", got, addrA)
	}
	for _, name := range []string{"off", "always"} {
		if v := h.life(name); v.State.Status != "exited" {
			t.Errorf("%s, which a user stopped, is %+v after a restart of the agent", name, v)
		}
	}

	must(t, h.PowerOff(within(t, patience)))
	h.up()
	h.awaitJoined()
	h.awaitLife("ann", runs)
	h.awaitLife("always", runs) // as docker: also though it was stopped
	if got := a.addr("web"); got != addrA {
		t.Errorf("after the reboot a has %s, it had %s", got, addrA)
	}
	for _, b := range []*box{plain, off} {
		if v := h.life(b.name); v.State.Status != "exited" {
			t.Errorf("%s is %+v after a reboot", b.name, v)
		}
	}
	eventually(t, settle, func() error {
		return errors.Join(witness.finds("ann", addrA), witness.finds("always", always.addr("web")))
	})
	if got := always.addr("web"); got != addrAlways {
		t.Logf("always has %s, it had %s: it was free meanwhile", got, addrAlways)
	}
	eventually(t, settle, func() error { return witness.pings(addrA, 8, soon) })
}

// While the store is away, what exists goes on: also a process that ends and has a policy.
func TestARestartNeedsNoStore(t *testing.T) {
	t.Parallel()
	c, b := newClusterWithStore(t, 1)
	b.start()
	c.start()
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "web")
	a, witness := h.box("ann", "web", "--restart", "always"), h.box("witness", "web")
	addr, first := a.addr("web"), h.life("ann").State.Pid
	b.down()
	eventually(t, patience, func() error {
		if r := h.try("store", "status"); r.Code == 0 {
			return errors.New("the store is still there")
		}
		return nil
	})
	must(t, lookProcess(t, h, a).Kill())
	h.awaitLife("ann", func(v lifeView) bool { return runs(v) && v.State.Pid != first })
	if got := a.addr("web"); got != addr {
		t.Errorf("a has %s, it had %s", got, addr)
	}
	eventually(t, settle, func() error { return errors.Join(witness.pings(addr, 8, soon), witness.finds("ann", addr)) })
	h.weft("restart", "-t", "0", "ann")
	eventually(t, settle, func() error { return errors.Join(witness.pings(addr, 8, soon), witness.finds("ann", addr)) })
	b.up()
	h.awaitJoined()
	eventually(t, patience, func() error {
		if r := h.try("store", "check"); r.Code != 0 {
			return fmt.Errorf("the store: %s%s", r.Stdout, r.Stderr)
		}
		return nil
	})
}

func lookProcess(t *testing.T, h *host, b *box) *os.Process {
	t.Helper()
	p, err := os.FindProcess(h.life(b.name).State.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A restart by hand keeps names and addresses; what it had begun goes on after the agent's death.
func TestARestartByHand(t *testing.T) {
	t.Parallel()
	c := up(t)
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "web")
	witness := c.hosts[1].box("witness", "web")
	a := h.box("ann", "web")
	addr, first := a.addr("web"), h.life("ann").State.Pid
	h.weft("restart", "-t", "0", "ann")
	if v := h.life("ann"); !runs(v) || v.State.Pid == first || v.RestartCount != 0 || a.addr("web") != addr {
		t.Errorf("a is %+v and has %s, it had %s", v, a.addr("web"), addr)
	}
	eventually(t, settle, func() error { return errors.Join(witness.finds("ann", addr), witness.pings(addr, 8, soon)) })

	// One that takes its time to end; the agent does not live to see it.
	marks := filepath.Join(t.TempDir(), "marks")
	h.weft("run", "-d", "--rm", "--name", "slow", "--network", "web", "--stop-timeout", "30", "--", "sh", "-c",
		"echo begin >> "+marks+"; trap 'echo term >> "+marks+"; sleep 1; exit 0' TERM; while :; do sleep 0.1; done")
	marked := func(want string) func() error {
		return func() error {
			raw, err := os.ReadFile(marks)
			if err != nil || string(raw) != want {
				return fmt.Errorf("the marks are %q, %v, want %q", raw, err, want)
			}
			return nil
		}
	}
	eventually(t, patience, marked("begin\n"))
	cmd := h.Command(within(t, patience), "restart", "slow")
	must(t, cmd.Start())
	eventually(t, patience, marked("begin\nterm\n"))
	h.kill()
	_ = cmd.Wait()
	h.up()
	eventually(t, patience, func() error { // the next agent may have asked it to end once more
		if marked("begin\nterm\nterm\nbegin\n")() == nil {
			return nil
		}
		return marked("begin\nterm\nbegin\n")()
	})
	h.awaitLife("slow", runs)
	h.weft("stop", "-t", "0", "slow")
	h.refuses(1, "No such sandbox", "inspect", "--type", "sandbox", "slow") // --rm
}

// Logs tell the two outputs apart, can be followed over a restart of the agent, and end with the process.
func TestLogs(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, lab.Embedded{})
	c.start()
	h := c.hosts[0]
	gate := filepath.Join(t.TempDir(), "gate")
	h.weft("run", "-d", "--name", "ann", "--network", "none", "--", "sh", "-c",
		"echo one; echo two >&2; sleep 0.1; echo three; until test -e "+gate+"; do sleep 0.05; done; echo last")
	eventually(t, patience, func() error {
		r := h.try("logs", "ann")
		if r.Stdout != "one\nthree\n" || r.Stderr != "two\n" {
			return fmt.Errorf("logs: %+v", r)
		}
		return nil
	})
	if r := h.try("logs", "-t", "--tail", "1", "ann"); len(r.Stdout) < 30 || !strings.HasSuffix(r.Stdout, " three\n") {
		t.Errorf("logs -t --tail 1: %+v", r)
	} else if _, err := time.Parse(time.RFC3339Nano, strings.Fields(r.Stdout)[0]); err != nil {
		t.Error(err)
	}
	if r := h.try("logs", "--until", "1h", "ann"); r.Stdout+r.Stderr != "" {
		t.Errorf("logs --until 1h: %+v", r)
	}
	h.refuses(1, "No such sandbox: gone", "logs", "gone")
	shown := filepath.Join(t.TempDir(), "shown")
	out, err := os.Create(shown)
	must(t, err)
	defer out.Close()
	cmd := h.Command(within(t, patience), "logs", "-f", "ann")
	cmd.Stdout = out
	must(t, cmd.Start())
	is := func(want string) func() error {
		return func() error {
			raw, err := os.ReadFile(shown)
			if err != nil || string(raw) != want {
				return fmt.Errorf("logs -f has shown %q, %v", raw, err)
			}
			return nil
		}
	}
	eventually(t, patience, is("one\nthree\n"))
	h.kill()
	h.up()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cmd.Wait(), is("one\nthree\nlast\n")()); err != nil {
		t.Error(err)
	}
}

// However far a rename or a restart had come when the agent died, the next one arrives at a whole: the sandbox runs, has one name everywhere, and
// the address that it had.
func TestAnAgentDiesWhileItRenamesAndRestarts(t *testing.T) {
	t.Parallel()
	c := up(t)
	h := c.hosts[1]
	h.weft("network", "create", "-d", "overlay", "web")
	h.weft("network", "create", "-d", "overlay", "db")
	witness := c.hosts[0].box("witness", "web")
	h.box("one", "web", "--network", "db")
	addr := (&box{h: h, name: "one"}).addr("web")
	name := "one"
	for round := range 8 {
		args := []string{"rename", name, fmt.Sprintf("name%d", round)}
		if round%2 == 1 {
			args = []string{"restart", "-t", "0", name}
		}
		cmd := h.Command(within(t, patience), args...)
		must(t, cmd.Start())
		<-time.After(time.Duration(round) * 7 * time.Millisecond) // somewhere in its work
		h.kill()
		_ = cmd.Wait()
		h.up()
		h.awaitJoined()
		eventually(t, patience, func() error {
			name = h.weft("ps", "-q", "--format", "{{.Names}}")
			if name == "" {
				return errors.New("it does not run")
			}
			for _, network := range []string{"web", "db"} {
				got := h.weft("endpoint", "ls", "-f", "network="+network, "-f", "host="+h.Name, "--format", "{{.Name}} {{.State}}")
				if got != name+" running" {
					return fmt.Errorf("%s: %s has %q, the sandbox is %s", strings.Join(args, " "), network, got, name)
				}
			}
			return witness.finds(name, addr)
		})
		eventually(t, settle, func() error { return witness.pings(addr, 8, soon) })
	}
	if r := h.try("store", "check"); r.Code != 0 {
		t.Errorf("the store: %s%s", r.Stdout, r.Stderr)
	}
}
