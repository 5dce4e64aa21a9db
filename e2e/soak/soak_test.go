package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/e2e/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func buildPrograms(t *testing.T) (weftd string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir+"/", "weft/cmd/weftd", "weft/cmd/weft")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, text)
	}
	return filepath.Join(dir, "weftd")
}

// Given three hosts that live for a while with all that can happen to them, then nothing is lost that must not be, nothing is left over, and what was asked
// for, the records and the kernel agree. What is done is another thing each time; the seed is in the output of a failure.
func TestShortSoak(t *testing.T) {
	dir := fmt.Sprintf("/var/tmp/weft-soak-test-%d", os.Getpid()) // short, since sockets are in it
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var out, progress bytes.Buffer
	err := run(ctx, []string{"--time", "45s", "--dir", dir, "--weftd", buildPrograms(t)}, &out, &progress)
	if err != nil {
		t.Errorf("%v\n%s%s", err, progress.String(), out.String())
	}
	if !strings.Contains(out.String(), "packets stays0") || !strings.Contains(out.String(), "goroutines") {
		t.Errorf("the table lacks what was measured:\n%s", out.String())
	}
	left, err := lab.Left(lab.Config{Dir: dir})
	if err != nil || len(left) > 0 {
		t.Errorf("left on the machine: %q, %v", left, err)
	}
	t.Log(out.String())
}

func TestOptionsThatAreWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--store", "redis"}, {"--hosts", "2"}, {"--hosts", "10"}, {"--seed", "x"}, {"--time", "long"}, {"more"}} {
		if err := run(t.Context(), args, new(bytes.Buffer), new(bytes.Buffer)); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
