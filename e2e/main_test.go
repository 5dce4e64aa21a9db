// Package e2e holds what is true of whole hosts: several agents, each in a network namespace that stands for its host, with real stores,
// real sandboxes and the programs as users run them. The labs are in e2e/lab; here are only the stories.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weft/e2e/lab"
)

// The programs under test, built once.
var weftPath, weftdPath string

// labRoot is what the directories of all labs begin with; short, since sockets are in them.
var labRoot = filepath.Join(os.TempDir(), "weft-e2e-")

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of a story is waiting for processes and deadlines.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("4"); err != nil {
			panic(err)
		}
	}
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func prepareAndRun(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("these tests make hosts of network namespaces: run them as root")
	}
	if err := chooseKind(); err != nil {
		return 1, err
	}
	if err := sweepOld(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "weft-bin-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := build(dir); err != nil {
		return 1, err
	}
	weftPath, weftdPath = filepath.Join(dir, "weft"), filepath.Join(dir, "weftd")
	before, err := lab.Look()
	if err != nil {
		return 1, err
	}
	code := m.Run()
	after, err := lab.Look()
	if err != nil {
		return code, err
	}
	for _, left := range after.Since(before) {
		if strings.Contains(left, "weft") { // other tests may run beside these
			err = errors.Join(err, fmt.Errorf("left on the machine: %s", left))
		}
	}
	return code, err
}

// build makes the programs, the agent with the race detector where the tests have it.
func build(dir string) error {
	for _, program := range []string{"weft", "weftd"} {
		args, cgo := []string{"build", "-trimpath", "-o", dir + "/"}, "CGO_ENABLED=0" // as `make build` does, whose cache it shares
		if raceEnabled && program == "weftd" {
			args, cgo = append(args, "-race"), "CGO_ENABLED=1"
		}
		cmd := exec.Command("go", append(args, "weft/cmd/"+program)...)
		cmd.Env = append(os.Environ(), cgo)
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", program, err, text)
		}
	}
	return nil
}

// sweepOld removes labs of test runs that were killed.
func sweepOld() error {
	found, err := filepath.Glob(labRoot + "*")
	if err != nil {
		return err
	}
	for _, f := range found {
		f = strings.TrimSuffix(f, ".lock")
		if _, err := lab.Sweep(context.Background(), lab.Config{Dir: f}); err != nil && !errors.Is(err, lab.ErrBusy) {
			return err
		}
	}
	return nil
}
