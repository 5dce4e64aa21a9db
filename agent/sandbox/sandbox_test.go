package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// TestMain lets this binary be the supervisor of its own tests.
func TestMain(m *testing.M) {
	Main()
	_ = os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0") // else each supervisor takes a second to end
	if os.Getenv(holderEnv) != "" {
		holdHost()
	}
	goleak.VerifyTestMain(m)
}

// world is a Host with everything that a test needs around it.
type world struct {
	*Host
	t   *testing.T
	ctx context.Context
	ids []string
}

// kinds are the two ways in which a Host knows a sandbox's processes.
var kinds = map[string]bool{"by control group": true, "by descent": false}

// newWorld makes a Host in directories of its own, which leaves nothing behind.
func newWorld(t *testing.T, groups bool) *world {
	t.Helper()
	dir := t.TempDir()
	return worldIn(t, groups, filepath.Join(dir, "run"), filepath.Join(dir, "state"))
}

func worldIn(t *testing.T, groups bool, runDir, stateDir string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	h, err := New(Config{RunDir: runDir, StateDir: stateDir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	if groups && h.cgroups.dir == "" {
		t.Fatal("this machine has no unified control groups")
	}
	root := h.cgroups.dir
	if !groups {
		h.cgroups = cgroups{}
	}
	w := &world{Host: h, t: t, ctx: ctx}
	t.Cleanup(func() {
		for _, id := range w.ids {
			if err := h.Remove(ctx, id, true); err != nil {
				t.Errorf("Remove: %v", err)
			}
		}
		h.Close()
		cancel()
		_ = unix.Unmount(h.cfg.RunDir, unix.MNT_DETACH)
		eventually(t, "the Host's control groups are empty", func() bool { return removeTree(root) == nil })
	})
	return w
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come true in %v: %s", patience, what)
		}
	}
}

// create makes a sandbox.
func (w *world) create() string {
	w.t.Helper()
	var b [16]byte
	_, _ = rand.Read(b[:])
	id := hex.EncodeToString(b[:])
	if err := w.Create(w.ctx, id, false); err != nil {
		w.t.Fatalf("Create: %v", err)
	}
	w.ids = append(w.ids, id)
	return id
}

// start makes a sandbox and starts a process in it.
func (w *world) start(spec Spec) string {
	w.t.Helper()
	id := w.create()
	if err := w.Start(w.ctx, id, spec); err != nil {
		w.t.Fatalf("Start: %v", err)
	}
	return id
}

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

// output is all that came from a stream.
type output struct {
	stdout, stderr string
	exit           Exit
}

func (w *world) attach(id string) *Stream {
	w.t.Helper()
	s, err := w.Attach(w.ctx, id)
	if err != nil {
		w.t.Fatalf("Attach: %v", err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

// readAll reads a stream to its end.
func readAll(t *testing.T, s *Stream) output {
	t.Helper()
	var out, errs bytes.Buffer
	var exit *Exit
	for {
		f, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("Recv: %v", err)
		}
		switch {
		case f.Exit != nil:
			exit = f.Exit
		case f.Stderr:
			errs.Write(f.Data)
		default:
			out.Write(f.Data)
		}
	}
	if exit == nil {
		t.Fatal("the stream ended without an exit")
	}
	return output{stdout: out.String(), stderr: errs.String(), exit: *exit}
}

// readUntil reads a stream until its output contains a text, and returns the output.
func readUntil(t *testing.T, s *Stream, want string) string {
	t.Helper()
	var out strings.Builder
	for !strings.Contains(out.String(), want) {
		f, err := s.Recv()
		if err != nil || f.Exit != nil {
			t.Fatalf("the stream ended (%v, %+v) before %q came; it had %q", err, f.Exit, want, out.String())
		}
		out.Write(f.Data)
	}
	return out.String()
}

// run runs a process to its end, in the foreground.
func (w *world) run(spec Spec) output {
	w.t.Helper()
	return readAll(w.t, w.attach(w.start(spec)))
}

// awaitExit waits until Exited tells of a sandbox.
func (w *world) awaitExit(id string) Exit {
	w.t.Helper()
	select {
	case got := <-w.Exited():
		if got != id {
			w.t.Fatalf("Exited told of %s and not of %s", got, id)
		}
	case <-time.After(patience):
		w.t.Fatalf("Exited did not tell of %s", id)
	}
	e, err := w.Wait(w.ctx, id)
	if err != nil {
		w.t.Fatalf("Wait: %v", err)
	}
	return e
}

func alive(pid int) bool {
	raw, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(raw), ") Z ")
}
