package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// The test's own program is the command where this is set.
const asCommand = "WEFT_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

func weft(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1", "WEFT_HOST=unix:///nowhere/weftd.sock")
	return cmd
}

func TestExitCodes(t *testing.T) {
	for args, want := range map[string]int{"--help": 0, "network ls": 1, "run x": 125, "run --nope x": 125, "nope": 1} {
		var errs bytes.Buffer
		cmd := weft(strings.Fields(args)...)
		cmd.Stderr = &errs
		err := cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("weft %s: exit %d (%v), want %d; it said %q", args, got, err, want, errs.String())
		}
		if want == 0 != (errs.Len() == 0) {
			t.Errorf("weft %s: exit %d, but it said %q", args, want, errs.String())
		}
	}
}

// A reader that goes away ends the command as it ends every program of a pipe, without a word.
func TestBrokenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	var errs bytes.Buffer
	cmd := weft("--help")
	cmd.Stdout, cmd.Stderr = w, &errs
	var ended *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &ended) || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGPIPE || errs.Len() > 0 {
		t.Errorf("ended with %v, and said %q; want SIGPIPE and silence", err, errs.String())
	}
}
