package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"weft/e2e/lab"
)

// The demo is at one place of the machine, so its tests follow each other.
func TestDemo(t *testing.T) {
	t.Parallel()
	t.Run("as it comes", demoAsItComes)
	t.Run("kept", demoKept)
	t.Run("interrupted", demoInterrupted)
	t.Run("without root", demoWithoutRoot)
}

func demoCommand(t *testing.T, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute) // it also cleans up after the test
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, weftPath, append([]string{"demo"}, args...)...)
}

func demoAsItComes(t *testing.T) {
	began := time.Now()
	text, err := demoCommand(t).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	t.Logf("took %s\n%s", time.Since(began), text)
	for _, want := range []string{
		"host1$ weft network create -d overlay --subnet 10.1.0.0/24", "web1 on host1", "web2 on host2", "lost = 0",
		"ip netns           nothing left", "ip link            nothing left", "nft list ruleset   nothing left",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the demo does not say %q", want)
		}
	}
	if regexp.MustCompile(`\x1b`).Match(text) {
		t.Error("there are colours, though this is no terminal")
	}
	for line := range strings.Lines(string(text)) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("a line has %d columns: %s", n, line)
		}
	}
	demoIsGone(t)
}

func demoIsGone(t *testing.T) {
	t.Helper()
	now, err := lab.Look()
	must(t, err)
	for _, l := range now.Since(lab.Traces{}) {
		if strings.Contains(l, "weft-demo") {
			t.Errorf("left: %s", l)
		}
	}
	if _, err := os.Stat("/run/weft-demo"); err == nil {
		t.Error("the demo's directory is still there")
	}
}

func demoKept(t *testing.T) {
	text, err := demoCommand(t, "--keep").CombinedOutput()
	t.Cleanup(func() {
		if out, err := demoCommand(t, "--down").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		demoIsGone(t)
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	// What it says that can be tried works, as it is written.
	socket := regexp.MustCompile(`export WEFT_HOST=(\S+)`).FindSubmatch(text)
	if socket == nil {
		t.Fatalf("it does not say how to reach the first host:\n%s", text)
	}
	tries := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, weftPath+" ") {
			continue
		}
		tries++
		cmd := exec.CommandContext(within(t, patience), "sh", "-c", line)
		cmd.Env = append(os.Environ(), "WEFT_HOST="+string(socket[1]))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	if tries < 2 {
		t.Errorf("it says only %d commands to try:\n%s", tries, text)
	}
	for i := range 3 {
		if _, err := os.Stat(fmt.Sprintf("/run/netns/weft-demo-%d", i+1)); err != nil {
			t.Error(err)
		}
	}
	// The next demo begins anew.
	if out, err := demoCommand(t).CombinedOutput(); err != nil || !strings.Contains(string(out), "earlier demo") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := demoCommand(t, "--down").CombinedOutput(); err != nil || !strings.Contains(string(out), "No demo") {
		t.Errorf("%v\n%s", err, out)
	}
}

func demoInterrupted(t *testing.T) {
	cmd := demoCommand(t)
	seen := make(chan struct{})
	out := &trigger{word: "network create", seen: seen}
	cmd.Stdout, cmd.Stderr = out, out // the same, so that one goroutine writes
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-seen:
	case err := <-ended:
		t.Fatalf("it ended before: %v\n%s", err, out.String())
	}
	second, err := demoCommand(t).CombinedOutput()
	if err == nil || !strings.Contains(string(second), "another weft demo is running") {
		t.Errorf("a second demo: %v, %s", err, second)
	}
	must(t, cmd.Process.Signal(syscall.SIGINT))
	if err := <-ended; err == nil {
		t.Error("an interrupted demo exits 0")
	}
	if !strings.Contains(out.String(), "interrupted") {
		t.Errorf("it said %s", out.String())
	}
	demoIsGone(t)
}

// trigger tells when a word has been written.
type trigger struct {
	strings.Builder
	word string
	seen chan struct{}
	done bool
}

func (w *trigger) Write(p []byte) (int, error) {
	w.Builder.Write(p)
	if !w.done && strings.Contains(w.String(), w.word) {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}

func demoWithoutRoot(t *testing.T) {
	must(t, os.Chmod(filepath.Dir(weftPath), 0o755))
	cmd := demoCommand(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	text, err := cmd.CombinedOutput()
	if err == nil || strings.Count(string(text), "\n") != 1 || !strings.Contains(string(text), "root") {
		t.Errorf("%v, %q; want one line that says root", err, text)
	}
}
