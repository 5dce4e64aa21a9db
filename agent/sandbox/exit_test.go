package sandbox

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/kernel"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		command []string
		want    int
	}{
		{"success", []string{"true"}, 0},
		{"a code of its own", shell("exit 3"), 3},
		{"the largest code", shell("exit 255"), 255},
		{"killed", shell("kill -9 $$"), 137},
		{"terminated", shell("kill -15 $$"), 143},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for kind, groups := range kinds {
				w := newWorld(t, groups)
				id := w.start(Spec{Command: tc.command})
				if got := readAll(t, w.attach(id)).exit; got.Code != tc.want || got.At.IsZero() {
					t.Errorf("%s: the stream ended with %+v, want code %d", kind, got, tc.want)
				}
				if got := w.awaitExit(id); got.Code != tc.want {
					t.Errorf("%s: Wait: %+v, want code %d", kind, got, tc.want)
				}
				if got, ok := w.LastExit(id); !ok || got.Code != tc.want {
					t.Errorf("%s: LastExit: %+v, %v, want code %d", kind, got, ok, tc.want)
				}
				if got, ok := readExit(w.stateDir(id)); !ok || got.Code != tc.want {
					t.Errorf("%s: on the disk: %+v, %v, want code %d", kind, got, ok, tc.want)
				}
			}
		})
	}
}

// What cannot be run is refused with docker's codes and words, and leaves the sandbox as it was.
func TestRefusedStarts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		spec  Spec
		code  int
		words string
	}{
		{"no such command", Spec{Command: []string{"nope"}}, 127, `exec: "nope": executable file not found in $PATH`},
		{"no such file", Spec{Command: []string{"/nope/nope"}}, 127, `exec: "/nope/nope": stat /nope/nope: no such file or directory`},
		{"not in the child's own PATH", Spec{Command: []string{"sh"}, Env: []string{"PATH=/nope"}}, 127, "not found in $PATH"},
		{"not executable", Spec{Command: []string{"/etc/passwd"}}, 126, `exec: "/etc/passwd": permission denied`},
		{"a directory", Spec{Command: []string{"/etc"}}, 126, `exec: "/etc": is a directory`},
		{"no such directory", Spec{Command: []string{"true"}, Workdir: "/nope"}, 125, `chdir to cwd ("/nope"): no such file or directory`},
		{"a relative directory", Spec{Command: []string{"true"}, Workdir: "tmp"}, 125, "must be an absolute path"},
		{"no such user", Spec{Command: []string{"true"}, User: "nobody-has-this"}, 125, "unable to find user nobody-has-this"},
		{"no such group", Spec{Command: []string{"true"}, User: "0:nobody-has-this"}, 125, "unable to find group nobody-has-this"},
		{"no command", Spec{}, 125, "no command was given"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			id := w.create()
			err := w.Start(w.ctx, id, tc.spec)
			var refused *StartError
			if !errors.As(err, &refused) || refused.Code != tc.code || !strings.Contains(err.Error(), tc.words) {
				t.Fatalf("Start: %v (%+v), want code %d and %q", err, refused, tc.code, tc.words)
			}
			if pid := w.PID(id); pid != 0 {
				t.Errorf("PID after a refused start: %d", pid)
			}
			if err := w.Start(w.ctx, id, Spec{Command: []string{"true"}, Detached: true}); err != nil {
				t.Fatalf("the next Start: %v", err)
			}
			if got := w.awaitExit(id); got.Code != 0 {
				t.Errorf("the next process ended with %+v", got)
			}
		})
	}
}

// Where the sandbox is not whole, Start says so at once.
func TestStartOfBrokenSandbox(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		spoil func(w *world, id string) error
		words string
	}{
		{"without its namespace", func(w *world, id string) error { return kernel.RemoveNetns(w.NetnsPath(id)) }, "network namespace"},
		{"with a file for a namespace", func(w *world, id string) error {
			return errors.Join(kernel.RemoveNetns(w.NetnsPath(id)), os.WriteFile(w.NetnsPath(id), nil, 0o600))
		}, "network namespace"},
		{"without its directory", func(w *world, id string) error {
			return errors.Join(kernel.RemoveNetns(w.NetnsPath(id)), os.RemoveAll(w.runDir(id)))
		}, "no such file or directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			id := w.create()
			if err := tc.spoil(w, id); err != nil {
				t.Fatal(err)
			}
			before := time.Now()
			err := w.Start(w.ctx, id, Spec{Command: []string{"true"}, Detached: true})
			if err == nil || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("Start: %v, want %q", err, tc.words)
			}
			if took := time.Since(before); took > callTimeout {
				t.Errorf("Start took %v", took)
			}
			if w.PID(id) != 0 || lockHolder(w.runDir(id)) != 0 {
				t.Error("something runs")
			}
		})
	}
}
