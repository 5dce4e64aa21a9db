package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStop(t *testing.T) {
	t.Parallel()
	const ignoring = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
	for _, tc := range []struct {
		name    string
		script  string
		sig     unix.Signal
		timeout time.Duration
		code    int
		least   time.Duration
	}{
		{"it obeys", "trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done", unix.SIGTERM, time.Minute, 4, 0},
		{"it has no handler", "echo ready; exec sleep 60", unix.SIGTERM, time.Minute, 143, 0},
		{"another signal", "trap 'exit 6' INT; echo ready; while :; do sleep 0.01; done", unix.SIGINT, -1, 6, 0},
		{"it ignores", ignoring, unix.SIGTERM, 300 * time.Millisecond, 137, 300 * time.Millisecond},
		{"no time to obey", ignoring, unix.SIGTERM, 0, 137, 0},
		{"killed", ignoring, unix.SIGKILL, 0, 137, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			id := w.start(Spec{Command: shell(tc.script)})
			s := w.attach(id)
			readUntil(t, s, "ready")
			before := time.Now()
			if err := w.Stop(w.ctx, id, tc.sig, tc.timeout); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(before); took < tc.least {
				t.Errorf("it ended after %v, want at least %v", took, tc.least)
			}
			if got := readAll(t, s); got.exit.Code != tc.code {
				t.Errorf("it ended with %+v, want %d", got.exit, tc.code)
			}
			if err := w.Stop(w.ctx, id, tc.sig, tc.timeout); err != nil {
				t.Errorf("Stop of what has ended: %v", err)
			}
			if err := w.Signal(w.ctx, id, tc.sig); !errors.Is(err, ErrNotRunning) {
				t.Errorf("Signal to what has ended: %v", err)
			}
		})
	}
}

// Whatever the child had started ends with it, however far it went: into the background, a session of its own, a namespace of its own.
func TestNothingOutlivesTheChild(t *testing.T) {
	t.Parallel()
	for kind, groups := range kinds {
		for _, tc := range []struct{ name, command string }{
			{"in the background", `sleep 60 & echo $!; exit 0`},
			{"in a session of its own", `setsid -f sh -c 'echo $$; trap "" TERM HUP; while :; do sleep 1; done'; sleep 0.2`},
			{"whose parent ended", `sh -c 'sleep 60 & echo $!' & wait`},
			{"in other namespaces", `unshare -m -u -n sh -c 'echo $$; exec sleep 60' & sleep 0.2`},
			{"many of them", `for i in 1 2 3 4 5 6 7 8 9; do sh -c 'sh -c "sleep 60 & sleep 60" & sleep 60' & done; sleep 60 & echo $!; sleep 0.1`},
		} {
			t.Run(kind+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, groups)
				id := w.start(Spec{Command: shell(tc.command)})
				got := readAll(t, w.attach(id))
				pid, err := strconv.Atoi(strings.TrimSpace(got.stdout))
				if err != nil {
					t.Fatalf("it wrote %q and %q", got.stdout, got.stderr)
				}
				w.awaitExit(id)
				if alive(pid) {
					t.Errorf("process %d lives", pid)
				}
			})
		}
	}
}

// An exec ends with its sandbox, and its client is told.
func TestExecEndsWithTheSandbox(t *testing.T) {
	t.Parallel()
	for kind, groups := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, groups)
			id := w.start(Spec{Command: []string{"sleep", "60"}, Detached: true})
			s, err := w.Exec(w.ctx, id, Spec{Command: shell("trap '' TERM; echo ready; while :; do sleep 1; done")})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			readUntil(t, s, "ready")
			if err := w.Stop(w.ctx, id, unix.SIGTERM, time.Minute); err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, s); got.exit.Code != 137 {
				t.Errorf("the exec ended with %+v, want 137", got.exit)
			}
		})
	}
}

// After Remove nothing is left: no process, no mount, no control group, no directory.
func TestRemove(t *testing.T) {
	t.Parallel()
	for kind, groups := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, groups)
			id := w.start(Spec{Command: shell("sleep 60 & sleep 60"), Hosts: "x", Resolv: "y", Hostname: "box", Detached: true})
			pid, supervisor := w.PID(id), lockHolder(w.runDir(id))
			if pid == 0 || supervisor == 0 {
				t.Fatalf("process %d, supervisor %d", pid, supervisor)
			}
			if err := w.Remove(w.ctx, id, false); err != nil {
				t.Fatal(err)
			}
			if alive(pid) {
				t.Errorf("process %d lives", pid)
			}
			eventually(t, "the supervisor is gone", func() bool { _, err := os.Stat(fmt.Sprintf("/proc/%d", supervisor)); return err != nil })
			if e, ok := w.LastExit(id); !ok || e.Code != 137 {
				t.Errorf("LastExit is %+v, %v; it is to be kept", e, ok)
			}
			w.gone(id)
			if err := w.Remove(w.ctx, id, true); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(w.stateDir(id)); !os.IsNotExist(err) {
				t.Errorf("the state directory is there: %v", err)
			}
			if _, err := w.Wait(w.ctx, id); !errors.Is(err, ErrNotRunning) {
				t.Errorf("Wait for what is gone: %v", err)
			}
			if _, err := w.Attach(w.ctx, id); !errors.Is(err, ErrNotRunning) {
				t.Errorf("Attach to what is gone: %v", err)
			}
		})
	}
}

// gone checks that nothing of a sandbox is left, but its state.
func (w *world) gone(id string) {
	w.t.Helper()
	if _, err := os.Stat(w.runDir(id)); !os.IsNotExist(err) {
		w.t.Errorf("the run directory is there: %v", err)
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	if strings.Contains(string(mounts), id) {
		w.t.Error("a mount is left")
	}
	if dir := w.cgroups.path(id); dir != "" {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			w.t.Errorf("the control group is there: %v", err)
		}
	}
}

// The same sandbox runs again and again, and its log goes on.
func TestRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.create()
	for i := range 3 {
		if err := w.Create(w.ctx, id, false); err != nil {
			t.Fatal(err)
		}
		if err := w.Start(w.ctx, id, Spec{Command: shell(fmt.Sprintf("echo %d; exit %d", i, i)), Detached: true}); err != nil {
			t.Fatal(err)
		}
		if e := w.awaitExit(id); e.Code != i {
			t.Errorf("life %d ended with %+v", i, e)
		}
		if err := w.Remove(w.ctx, id, false); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.logged(id)["stdout"]; got != "0\n1\n2\n" {
		t.Errorf("the log has %q", got)
	}
}

// One sandbox has one process.
func TestStartTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.start(Spec{Command: []string{"sleep", "60"}, Detached: true})
	if err := w.Start(w.ctx, id, Spec{Command: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second Start: %v", err)
	}
	if w.PID(id) == 0 {
		t.Error("the second Start ended the first process")
	}
	for _, bad := range []string{"", "../x", strings.Repeat("a", 65), "ABC"} {
		if err := w.Start(w.ctx, bad, Spec{Command: []string{"true"}}); err == nil {
			t.Errorf("Start of sandbox %q", bad)
		}
	}
}
