package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/e2e/lab"
	"weft/store/storetest/server"
)

// failingAgent is the agent that ends itself after any of its writes, built once.
var failingAgent = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(weftdPath), "weftd-failpoint")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "failpoint", "-o", path, "weft/cmd/weftd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build weftd with failpoints: %w: %s", err, text)
	}
	return path, nil
})

// lateWrites is how long an operation goes on after its reply: links are deleted behind it.
const lateWrites = 200 * time.Millisecond

// cutting is an operation in its cluster, cut short once and again.
type cutting struct {
	*cluster
	operation
	killed        *host
	records       *records
	point         string // the file that says when the agent is to die
	before, after string // what users see
}

// An agent is killed before and after each write of each operation. When it is back, all is as if the operation had never begun, or had finished; and
// to ask for it again succeeds.
func TestAnOperationIsCutShortAtEachOfItsWrites(t *testing.T) {
	if kind != server.Etcd {
		return // what is below the store's interface has a suite of its own
	}
	t.Parallel()
	agent, err := failingAgent()
	must(t, err)
	for name, op := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := beginCutting(t, agent, op)
			for n := 1; x.once(n) && (x.slow || x.once(-n)); n++ {
			}
		})
	}
}

// beginCutting makes a cluster that is as it is before an operation, and finds out what it is after it.
func beginCutting(t *testing.T, agent string, op operation) *cutting {
	t.Helper()
	c, b := newClusterWithStoreOf(t, agent, max(1, op.count))
	b.start()
	for _, h := range c.hosts {
		h.Args = append(h.Args, op.args...)
	}
	c.start()
	x := &cutting{cluster: c, operation: op, killed: c.hosts[op.victim], records: c.records()}
	x.point = filepath.Join(x.killed.RunDir(), "failpoint")
	x.all(lines("network create -d overlay --subnet 10.1.0.0/24 web", "network create -d overlay --subnet 10.2.0.0/24 two", "network create --subnet 10.3.0.0/24 own"))
	x.all(op.before)
	x.before = x.state()
	if x.after = x.before; !op.midway && op.happen == nil {
		x.begin()
		x.all(op.do)
		x.end()
		x.after = x.state()
		x.back()
	}
	return x
}

// begin and end are around what is cut short.
func (x *cutting) begin() {
	if x.lose != nil {
		x.lose(x)
	}
}

func (x *cutting) end() {
	if x.heal != nil {
		x.heal(x)
	}
	if !x.midway {
		x.allJoined()
	}
}

// back undoes the operation.
func (x *cutting) back() {
	x.t.Helper()
	x.all(x.undo)
	x.all(x.operation.before)
	eventually(x.t, patience, func() error { return is(x.state(), x.before) })
}

// once does the operation and has the agent killed after its nth write, or right before it, if n is negative. It returns false where there are not so many.
func (x *cutting) once(n int) bool {
	x.t.Helper()
	began := time.Now()
	x.begin()
	must(x.t, os.WriteFile(x.point, []byte(strconv.Itoa(n)), 0o600))
	if x.happen != nil {
		x.happen(x)
	}
	for _, l := range x.do {
		x.line(l)
	}
	for end := time.Now().Add(lateWrites); !x.cut() && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	must(x.t, os.Remove(x.point))
	at, err := os.ReadFile(x.point + ".at")
	if err != nil {
		x.end()
		x.settles("uncut", x.after)
		x.t.Logf("fewer than %d writes", n)
		return false
	}
	must(x.t, os.Remove(x.point+".at"))
	where := fmt.Sprintf("killed at write %d, %s", n, at)
	eventually(x.t, patience, func() error {
		if x.killed.Running() {
			return errors.New("the agent runs")
		}
		return nil
	})
	x.killed.up()
	if x.end(); !x.midway {
		x.settles(where, x.before, x.after)
	}
	x.askAgain(where)
	x.back()
	x.t.Logf("%s: %v", where, time.Since(began).Round(time.Millisecond))
	return true
}

// askAgain requires that the operation, which was cut short, is done when it is asked for again.
func (x *cutting) askAgain(where string) {
	x.t.Helper()
	for _, l := range x.do {
		if r := x.line(l); r.Code != 0 && (x.again == "" || !strings.Contains(r.Stderr, x.again)) {
			x.t.Errorf("%s: asked again: %s", where, r.Stderr)
		}
	}
	if x.midway {
		x.allJoined()
	}
	x.settles(where+", and asked again", x.after)
}

// cut tells that the agent was killed.
func (x *cutting) cut() bool {
	_, err := os.Stat(x.point + ".at")
	return err == nil
}

// line runs a command on the host that it names, or on the first.
func (x *cutting) line(l string) lab.Result {
	x.t.Helper()
	h := x.hosts[0]
	if rest, other := strings.CutPrefix(l, "host2: "); other {
		h, l = x.hosts[1], rest
	}
	return h.try(strings.Fields(l)...)
}

func (x *cutting) all(ls []string) {
	x.t.Helper()
	for _, l := range ls {
		if r := x.line(l); r.Code != 0 {
			x.t.Fatalf("weft %s: exit %d: %s", l, r.Code, r.Stderr)
		}
	}
}

// state is all that users see: what there is by its names, without what every life gives anew.
func (x *cutting) state() string {
	x.t.Helper()
	var out []string
	for _, h := range x.hosts {
		for _, line := range []string{
			"network ls --format {{.Name}}/{{.Driver}}",
			"ps -a --format {{.Names}}/{{.State}}/{{.Ports}}",
			"endpoint ls --format {{.Name}}/{{.Network}}/{{.State}}",
		} {
			ls := strings.Split(strings.TrimSpace(h.weft(strings.Fields(line)...)), "\n")
			slices.Sort(ls)
			out = append(out, strings.Join(ls, " "))
		}
	}
	return strings.Join(out, "\n")
}

// sound requires that doctor finds records, kernel and names in agreement.
func (h *host) sound() error {
	checks, _ := h.examined()
	for _, c := range checks {
		if slices.Contains([]string{"records", "kernel", "names", "store"}, c.Name) && c.Status != "ok" {
			return fmt.Errorf("%s: %s: %s: %s", h.Name, c.Name, c.Status, c.Finding)
		}
	}
	return nil
}

// settles waits until what users see is one of some states, and all agrees with it.
func (x *cutting) settles(when string, states ...string) {
	x.t.Helper()
	end := time.Now().Add(patience)
	for {
		now, err := x.state(), error(nil)
		if !slices.Contains(states, now) {
			err = fmt.Errorf("there is\n%s\nand should be\n%s", now, strings.Join(states, "\nor\n"))
		}
		for _, h := range x.hosts {
			if err == nil {
				err = h.sound()
			}
		}
		if err == nil {
			return
		}
		if time.Now().After(end) {
			x.t.Fatalf("%s: %v", when, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func is(got, want string) error {
	if got != want {
		return fmt.Errorf("there is\n%s\nand should be\n%s", got, want)
	}
	return nil
}
