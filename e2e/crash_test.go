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

// operation is a command that is cut short after each of its writes. Given what before has made, it is begun again after the agent's return, and
// undo brings back what was before.
type operation struct {
	before, do, undo []string // lines of the weft command
	again            string   // what the command says where it had been done already; "" if it succeeds
}

// operations by what is cut short. All share networks web (overlay), two (overlay) and own (bridge), and begin without a sandbox.
var operations = map[string]operation{
	"network create, overlay": {do: lines("network create -d overlay new"), undo: lines("network rm new"), again: "already exists"},
	"network create, bridge":  {do: lines("network create new"), undo: lines("network rm new"), again: "already exists"},
	"network rm, overlay":     {before: lines("network create -d overlay --subnet 10.77.0.0/24 new"), do: lines("network rm new"), again: "not found"},
	"network rm, bridge":      {before: lines("network create --subnet 10.78.0.0/24 new"), do: lines("network rm new"), again: "not found"},
	"run":                     {do: lines("run -d --name a --network web sleep 1000"), undo: lines("rm -f a"), again: "already in use"},
	"run in two networks": {
		do:   lines("run -d --name a --network web --network two --network own -p 8088:80 --ip 10.1.0.40 --network-alias v,mode=vip sleep 1000"),
		undo: lines("rm -f a"), again: "already in use",
	},
	"connect":    {before: lines("run -d --name a --network own sleep 1000"), do: lines("network connect --alias v,mode=vip web a"), undo: lines("rm -f a"), again: "already exists"},
	"disconnect": {before: lines("run -d --name a --network web --network own sleep 1000"), do: lines("network disconnect web a"), undo: lines("rm -f a"), again: "not connected"},
	"stop":       {before: lines("run -d --name a --network web --network own -p 8088:80 sleep 1000"), do: lines("stop -t 0 a"), undo: lines("rm -f a")},
	"start":      {before: lines("run -d --name a --network web --ip 10.1.0.40 sleep 1000", "stop -t 0 a"), do: lines("start a"), undo: lines("rm -f a")},
	"restart":    {before: lines("run -d --name a --network web --network own sleep 1000"), do: lines("restart -t 0 a"), undo: lines("rm -f a")},
	"rm -f":      {before: lines("run -d --name a --network web --network own -p 8088:80 --network-alias v,mode=vip sleep 1000"), do: lines("rm -f a"), again: "No such"},
	"rename":     {before: lines("run -d --name a --network web --network own sleep 1000"), do: lines("rename a b"), undo: lines("rm -f b"), again: "No such"},
}

// lateWrites is how long an operation goes on after its reply: links are deleted behind it.
const lateWrites = 200 * time.Millisecond

func lines(ls ...string) []string { return ls }

// state is all that users see: what there is by its names, without what every life gives anew.
func (h *host) state() string {
	h.c.t.Helper()
	var out []string
	for _, line := range []string{
		"network ls --format {{.Name}}/{{.Driver}}",
		"ps -a --format {{.Names}}/{{.State}}/{{.Ports}}",
		"endpoint ls --format {{.Name}}/{{.Network}}/{{.State}}",
	} {
		ls := strings.Split(strings.TrimSpace(h.weft(strings.Fields(line)...)), "\n")
		slices.Sort(ls)
		out = append(out, strings.Join(ls, " "))
	}
	return strings.Join(out, "\n")
}

func (h *host) all(ls []string) {
	h.c.t.Helper()
	for _, l := range ls {
		h.weft(strings.Fields(l)...)
	}
}

// sound requires that doctor finds records, kernel and names in agreement.
func (h *host) sound() error {
	checks, _ := h.examined()
	for _, c := range checks {
		if slices.Contains([]string{"records", "kernel", "names", "store"}, c.Name) && c.Status != "ok" {
			return fmt.Errorf("%s: %s: %s", c.Name, c.Status, c.Finding)
		}
	}
	return nil
}

// An agent is killed after each write of each operation. When it is back, all is as if the operation had never begun, or had finished; and to ask
// for it again succeeds.
func TestAnOperationIsCutShortAfterEachOfItsWrites(t *testing.T) {
	if kind != server.Etcd {
		return // what is below the store's interface has a suite of its own
	}
	t.Parallel()
	agent, err := failingAgent()
	must(t, err)
	for name, op := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cutShort(t, agent, op)
		})
	}
}

func cutShort(t *testing.T, agent string, op operation) {
	c, b := newClusterWithStoreOf(t, agent, 1)
	b.start()
	c.start()
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	h.weft("network", "create", "-d", "overlay", "--subnet", "10.2.0.0/24", "two")
	h.weft("network", "create", "--subnet", "10.3.0.0/24", "own")
	h.all(op.before)
	before := h.state()
	h.all(op.do)
	after := h.state()
	back := func() {
		h.all(op.undo)
		h.all(op.before)
		eventually(t, patience, func() error { return is(h.state(), before) })
	}
	back()
	point := filepath.Join(h.RunDir(), "failpoint")
	for n := 1; ; n++ {
		must(t, os.WriteFile(point, []byte(strconv.Itoa(n)), 0o600))
		for _, l := range op.do {
			h.try(strings.Fields(l)...)
		}
		time.Sleep(lateWrites)
		must(t, os.Remove(point))
		at, err := os.ReadFile(point + ".at")
		if err != nil {
			eventually(t, patience, func() error { return is(h.state(), after) })
			t.Logf("%d writes", n-1)
			return
		}
		must(t, os.Remove(point+".at"))
		where := fmt.Sprintf("killed after write %d, %s", n, at)
		began := time.Now()
		eventually(t, patience, func() error {
			if h.Running() {
				return errors.New("the agent runs")
			}
			return nil
		})
		h.up()
		h.awaitJoined()
		h.settles(where, before, after)
		for _, l := range op.do {
			r := h.try(strings.Fields(l)...)
			if r.Code != 0 && (op.again == "" || !strings.Contains(r.Stderr, op.again)) {
				t.Errorf("%s: asked again: %s", where, r.Stderr)
			}
		}
		h.settles(where+", and asked again", after)
		back()
		t.Logf("%s: %v", where, time.Since(began).Round(time.Millisecond))
	}
}

// settles waits until what users see is one of some states, and all agrees with it.
func (h *host) settles(when string, states ...string) {
	h.c.t.Helper()
	end := time.Now().Add(10 * time.Second)
	for {
		now, err := h.state(), error(nil)
		if !slices.Contains(states, now) {
			err = fmt.Errorf("there is\n%s\nand should be\n%s", now, strings.Join(states, "\nor\n"))
		} else if err = h.sound(); err == nil {
			return
		}
		if time.Now().After(end) {
			h.c.t.Fatalf("%s: %v", when, err)
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
