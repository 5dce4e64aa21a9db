package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// told is what an agent tells of what has happened since a moment: type, action, whose, and with whom. What the hosts' own comings are stays out.
func (h *host) told(filters ...string) []string {
	h.c.t.Helper()
	args := []string{"events", "--since", "1h", "--until", "0s", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.container_name}}"}
	for _, f := range filters {
		args = append(args, "-f", f)
	}
	var out []string
	for line := range strings.Lines(h.weft(args...)) {
		if line = strings.Join(strings.Fields(line), " "); !strings.HasPrefix(line, "host ") {
			out = append(out, line)
		}
	}
	return out
}

// tells waits until an agent has told just that, in this order, and then gives it time to tell more.
func (h *host) tells(want ...string) {
	h.c.t.Helper()
	eventually(h.c.t, settle, func() error {
		if d := cmp.Diff(want, h.told("network=web", "network=db", "type=network")); d != "" {
			return fmt.Errorf("%s tells otherwise (-want +got):\n%s", h.Name, d)
		}
		return nil
	})
}

// Given three hosts, when networks and sandboxes come and go on them, then one stream of any host that takes part tells the whole story, each fact once and
// in order, whoever has made it.
func TestOneStreamTellsTheWholeStory(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	story := []string{"network create web"}
	h1.tells(story...)
	h1.box("a", "web")
	h2.box("b", "web")
	story = append(story, "network connect web a")
	h1.tells(append(story, "network connect web b")...)
	h2.tells("network create web", "network connect web b") // a was there before h2 took part
	h2.weft("stop", "-t", "0", "b")
	h3.weft("network", "create", "-d", "overlay", "--subnet", "10.2.0.0/24", "db")
	story = append(story, "network connect web b", "network disconnect web b", "network create db")
	h1.tells(story...)
	h2.weft("start", "b")
	h1.tells(append(story, "network connect web b")...)
	h2.weft("rm", "-f", "b")
	h3.weft("network", "rm", "db")
	h1.tells(append(story, "network connect web b", "network disconnect web b", "network remove db")...)
	h3.tells("network create web", "network create db", "network remove db") // it has nothing in web

	// The life of a sandbox is its own host's to tell.
	want := []string{"container create b", "network connect web b", "container start b", "container die b", "network disconnect web b",
		"network connect web b", "container start b", "container die b", "network disconnect web b", "container destroy b"}
	if d := cmp.Diff(want, h2.told("container=b")); d != "" {
		t.Errorf("%s tells otherwise of b (-want +got):\n%s", h2.Name, d)
	}
	if got := h1.told("type=container"); slices.ContainsFunc(got, func(s string) bool { return strings.HasSuffix(s, " b") }) {
		t.Errorf("%s tells of another host's sandbox: %q", h1.Name, got)
	}
}

// Given a command that follows the events, when the agent is killed and started again, then it goes on, and hears what happened to a process meanwhile.
func TestEventsAreFollowedOverARestart(t *testing.T) {
	t.Parallel()
	c := up(t)
	h := c.hosts[1]
	h.weft("network", "create", "-d", "overlay", "web")
	h.weft("run", "-d", "--name", "short", "--network", "web", "--", "sleep", "5")
	cmd := h.Command(within(t, patience), "events", "-f", "event=die", "--format", "{{.Actor.Attributes.name}}")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	h.weft("run", "--rm", "--name", "first", "--network", "web", "--", "true")
	if !lines.Scan() || lines.Text() != "first" {
		t.Fatalf("heard %q, %v", lines.Text(), lines.Err())
	}
	pid := h.weft("inspect", "-f", "{{.State.Pid}}", "short")
	h.kill()
	eventually(t, patience, func() error {
		if _, err := os.Stat("/proc/" + pid); err == nil {
			return errors.New("short still runs")
		}
		return nil
	})
	h.up()
	if !lines.Scan() || lines.Text() != "short" {
		t.Fatalf("heard %q, %v", lines.Text(), lines.Err())
	}
}
