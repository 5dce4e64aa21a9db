package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/e2e/lab"
)

func TestMain(m *testing.M) {
	if spec, ok := os.LookupEnv(childVar); ok {
		exit(runChild(context.Background(), spec, os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

// labDir is short, since sockets are in it, and on whatever disk the other temporary files are on.
func labDir(t *testing.T) string {
	t.Helper()
	dir := fmt.Sprintf("/var/tmp/weft-bench-test-%d", os.Getpid())
	t.Cleanup(func() {
		left, err := lab.Left(lab.Config{Dir: dir})
		if err != nil || len(left) > 0 {
			t.Errorf("left on the machine: %q, %v", left, err)
		}
	})
	return dir
}

func buildAgent(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir+"/", "weft/cmd/weftd", "weft/cmd/weft")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, text)
	}
	return filepath.Join(dir, "weftd")
}

// Given few samples, when all parts run, each has its rows with numbers in them. What the numbers are says nothing here.
func TestEveryPartHasItsRows(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	var out, progress bytes.Buffer
	if err := run(ctx, []string{"--quick", "--dir", labDir(t), "--weftd", buildAgent(t), "--json", file}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var r Report
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	each := []string{
		"two-key transaction", "the same by 64 callers", "put → event, 10 keys", "put → event, 100 keys", "requests of an idle agent, 5 networks",
		"attach, whole (later ones)", "attach, whole (first of its network)", "detach, answer to the caller", "detach, the last of its network here",
		"an agent's start to its first answer", "run -d, whole", "attach on a → name resolves on b", "attach on a → name and TCP on b", "address in the first answer takes TCP",
	}
	for store, rows := range map[string][]string{
		"consul": each, "zk": each,
		"etcd": append([]string{
			"attach, kernel part", "1,000 remote endpoints programmed", "DNS in a sandbox", "TCP, one stream", "TCP request and response, 1 byte",
			"start: admin socket answers", "start: says that it is ready", "start: an attach", "start: kernel compared and mended", "start: all of it",
			"publish a port beside 999 others", "TCP through a published port, one stream", "TCP out of a sandbox, masqueraded, one stream",
			"attach to a bridge network, whole", "attach to a bridge, a port published", "detach from a bridge network",
			"TCP on one host's bridge, one stream", "the same, request and response",
			"attach while 50 others are detached", "first attach, 1,000 remote endpoints", "agent's memory, 10 sandboxes", "a sandbox's supervisor",
			"network ls, 1,000 networks", "network inspect, 5,000 endpoints", "network inspect, asking the store",
		}, each...),
	} {
		for _, want := range rows {
			i := slices.IndexFunc(r.Rows, func(row Row) bool { return row.Store == store && row.Name == want })
			if i < 0 || r.Rows[i].Weft.Median <= 0 || r.Rows[i].Floor != nil && r.Rows[i].Floor.Median <= 0 {
				t.Errorf("%q on %s has no numbers in\n%s", want, store, out.String())
			}
		}
	}
}

func TestAnInterruptLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	progress := &trigger{word: "measuring the kernel part", hit: cancel}
	var out bytes.Buffer
	err := run(ctx, []string{"--quick", "--dir", labDir(t), "--weftd", "/nonexistent", "--only", "store,kernel"}, &out, progress)
	if err == nil || !strings.Contains(err.Error(), "interrupted") || out.Len() > 0 {
		t.Errorf("got %v and %q, want an error that says so and no table", err, out.String())
	}
}

// trigger calls hit when a word is written.
type trigger struct {
	word string
	hit  func()
}

func (w *trigger) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.word) {
		w.hit()
	}
	return len(p), nil
}

func TestADiskThatDoesNotSyncIsRefused(t *testing.T) {
	_, err := look("/dev/shm")
	if err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("got %v, want a hint at --dir", err)
	}
}

func TestWhatIsNoPartIsRefused(t *testing.T) {
	err := run(t.Context(), []string{"--only", "speed"}, &bytes.Buffer{}, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "speed") || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
