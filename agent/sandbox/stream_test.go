package sandbox

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStreams(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name           string
		spec           Spec
		input          string
		stdout, stderr string
		code           int
	}{
		{name: "outputs apart", spec: Spec{Command: shell("echo out; echo err >&2")}, stdout: "out\n", stderr: "err\n"},
		{name: "input to its end", spec: Spec{Command: []string{"cat"}, Stdin: true}, input: "one\ntwo", stdout: "one\ntwo"},
		{name: "no output", spec: Spec{Command: shell("exit 7")}, code: 7},
		{name: "input that nobody reads", spec: Spec{Command: shell("exec <&-; echo done"), Stdin: true}, input: strings.Repeat("x", 1<<20), stdout: "done\n"},
		{name: "input without standard input", spec: Spec{Command: []string{"cat"}}, input: "dropped"},
		{name: "a terminal has one output", spec: Spec{Command: shell("test -t 0 && test -t 1 && test -t 2 && echo all; echo err >&2"), TTY: true}, stdout: "all\r\nerr\r\n"},
		{name: "a terminal that controls", spec: Spec{Command: shell("echo mine >/dev/tty"), TTY: true}, stdout: "mine\r\n"},
		{name: "another user's terminal", spec: Spec{Command: shell(`echo mine >"$(tty)"`), TTY: true, Stdin: true, User: "4321"}, stdout: "mine\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			s := w.attach(w.start(tc.spec))
			if _, err := s.Write([]byte(tc.input)); err != nil && tc.input == "" {
				t.Fatal(err)
			}
			_ = s.CloseStdin() // the process may be gone
			got := readAll(t, s)
			if got.stdout != tc.stdout || got.stderr != tc.stderr || got.exit.Code != tc.code {
				t.Errorf("it wrote %q and %q, and ended with %+v; want %q, %q, %d", got.stdout, got.stderr, got.exit, tc.stdout, tc.stderr, tc.code)
			}
		})
	}
}

// Ten megabytes go through a process and back without a byte lost or changed.
func TestLargeStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	s := w.attach(w.start(Spec{Command: []string{"cat"}, Stdin: true}))
	want := bytes.Repeat([]byte("0123456789abcdef\n"), 10<<20/17)
	var sent sync.WaitGroup
	sent.Go(func() {
		_, err := s.Write(want)
		if err == nil {
			err = s.CloseStdin()
		}
		if err != nil {
			t.Errorf("write: %v", err)
		}
	})
	got := readAll(t, s)
	sent.Wait()
	if len(got.stdout) != len(want) || sha256.Sum256([]byte(got.stdout)) != sha256.Sum256(want) {
		t.Errorf("%d bytes came back of %d, or others", len(got.stdout), len(want))
	}
}

// The first reader has everything from the beginning, also where it comes after the process is done.
func TestFirstOutputIsHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.start(Spec{Command: shell("echo early; exit 5")})
	pid := w.PID(id)
	eventually(t, "the process has ended", func() bool { return !alive(pid) })
	got := readAll(t, w.attach(id))
	if got.stdout != "early\n" || got.exit.Code != 5 {
		t.Errorf("it wrote %q and ended with %+v, want early and 5", got.stdout, got.exit)
	}
	w.awaitExit(id)
	if again := readAll(t, w.attach(id)); again.stdout != "" || again.exit.Code != 5 {
		t.Errorf("a later reader has %+v, want the exit only", again)
	}
}

// A reader that never comes holds nothing up for long: neither output nor end.
func TestHoldIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	before := time.Now()
	id := w.start(Spec{Command: shell("head -c 2000000 /dev/zero; echo; echo last")})
	if got := w.awaitExit(id); got.Code != 0 {
		t.Errorf("it ended with %+v", got)
	}
	if took := time.Since(before); took < holdTime || took > patience {
		t.Errorf("it ended after %v, want some time after %v", took, holdTime)
	}
	if log := w.logged(id); !strings.HasSuffix(log["stdout"], "last\n") {
		t.Errorf("the log has %d bytes and not the last line", len(log["stdout"]))
	}
	if got := readAll(t, w.attach(id)); got.stdout != "" {
		t.Errorf("a reader that comes too late has %q", got.stdout)
	}
}

// All readers have the same output, and one that leaves does not stop the process.
func TestSeveralReaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.start(Spec{Command: shell("read go; head -c 3000000 /dev/zero; read end"), Stdin: true})
	first, second, leaver := w.attach(id), w.attach(id), w.attach(id)
	if _, err := second.Write([]byte("go\n")); err != nil { // everyone may write
		t.Fatal(err)
	}
	if _, err := leaver.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := leaver.Close(); err != nil {
		t.Fatal(err)
	}
	var got [2]output
	var wg sync.WaitGroup
	for i, s := range []*Stream{first, second} {
		wg.Go(func() { got[i] = readAll(t, s) })
	}
	if _, err := first.Write([]byte("end\n")); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for i, o := range got {
		if len(o.stdout) != 3000000 || o.exit.Code != 0 {
			t.Errorf("reader %d has %d bytes and %+v, want 3000000", i, len(o.stdout), o.exit)
		}
	}
}

// A reader that does not read stops the process, as docker attach does; when the sandbox ends it still gets what it has missed.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.start(Spec{Command: shell(`for i in $(seq 1000); do head -c 10000 /dev/zero; echo $i >&2; done`)})
	slow := w.attach(id)
	position := func() string { return w.logged(id)["stderr"] }
	last := ""
	eventually(t, "the process waits for its reader", func() bool {
		now := position()
		same := now == last && now != ""
		last = now
		if !same {
			time.Sleep(100 * time.Millisecond) // between two looks, not for the result
		}
		return same
	})
	if strings.Contains(last, "\n1000\n") {
		t.Fatal("the process did not wait for its reader")
	}
	if err := w.Stop(w.ctx, id, unix.SIGKILL, 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Remove(w.ctx, id, true); err != nil { // and the supervisor needs none of its files for that
		t.Fatal(err)
	}
	if got := readAll(t, slow); got.exit.Code != 137 || len(got.stdout) < 100000 {
		t.Errorf("the reader has %d bytes and %+v", len(got.stdout), got.exit)
	}
}

func TestTerminalSize(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.start(Spec{Command: shell(`trap 'stty size' WINCH; echo ready; while :; do read x; done`), TTY: true, Stdin: true})
	s := w.attach(id)
	readUntil(t, s, "ready")
	if err := s.Resize(33, 111); err != nil {
		t.Fatal(err)
	}
	readUntil(t, s, "33 111")
	e, err := w.Exec(w.ctx, id, Spec{Command: shell("read x; stty size"), TTY: true, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	if err := e.Resize(22, 99); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	readUntil(t, e, "22 99")
	piped := w.start(Spec{Command: []string{"sleep", "60"}, Detached: true})
	if err := w.attach(piped).Resize(1, 1); err != nil {
		t.Errorf("resize without a terminal: %v", err)
	}
}

// What a key means to a terminal reaches the process as a signal.
func TestTerminalInterrupt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	s := w.attach(w.start(Spec{Command: shell("trap 'exit 42' INT; echo ready; while :; do sleep 0.01; done"), TTY: true, Stdin: true}))
	readUntil(t, s, "ready")
	if _, err := s.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, s); got.exit.Code != 42 {
		t.Errorf("it ended with %+v, want 42", got.exit)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.start(Spec{Command: []string{"sleep", "60"}, Hostname: "box", Hosts: "10.0.0.1 a\n", Detached: true})
	for _, tc := range []struct {
		name  string
		spec  Spec
		input string
		want  output
	}{
		{"a code", Spec{Command: shell("exit 9")}, "", output{exit: Exit{Code: 9}}},
		{"a signal", Spec{Command: shell("kill -9 $$")}, "", output{exit: Exit{Code: 137}}},
		{"the sandbox's name and files", Spec{Command: shell("uname -n; cat /etc/hosts")}, "", output{stdout: "box\n10.0.0.1 a\n"}},
		{"input and outputs", Spec{Command: shell("cat; echo err >&2"), Stdin: true}, "in", output{stdout: "in", stderr: "err\n"}},
		{"user, directory and environment", Spec{Command: shell(`echo $(id -u) $PWD $A`), User: "1", Workdir: "/usr", Env: []string{"A=b"}}, "", output{stdout: "1 /usr b\n"}},
		{"somebody else keeps its output", Spec{Command: shell("sleep 60 & echo done")}, "", output{stdout: "done\n"}},
		{"a terminal", Spec{Command: shell("test -t 1 && echo yes"), TTY: true}, "", output{stdout: "yes\r\n"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, err := w.Exec(w.ctx, id, tc.spec)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			if _, err := s.Write([]byte(tc.input)); err != nil && tc.input != "" {
				t.Fatal(err)
			}
			_ = s.CloseStdin()
			got := readAll(t, s)
			if got.stdout != tc.want.stdout || got.stderr != tc.want.stderr || got.exit.Code != tc.want.exit.Code {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
	for words, code := range map[string]int{"nope": 127, "/etc": 126} {
		_, err := w.Exec(w.ctx, id, Spec{Command: []string{words}})
		if se, ok := err.(*StartError); !ok || se.Code != code {
			t.Errorf("Exec(%q): %v, want code %d", words, err, code)
		}
	}
	for ns, path := range map[string]string{"net": "", "mnt": "", "uts": ""} {
		s, err := w.Exec(w.ctx, id, Spec{Command: []string{"readlink", "/proc/self/ns/" + ns}})
		if err != nil {
			t.Fatal(err)
		}
		path = fmt.Sprintf("/proc/%d/ns/%s", w.PID(id), ns)
		if got := readAll(t, s).stdout; !strings.Contains(got, fmt.Sprintf("[%d]", inode(t, path))) {
			t.Errorf("Exec runs in %s, and the sandbox's process in %d", got, inode(t, path))
		}
	}
}

// A signal reaches the one process that it is meant for.
func TestExecSignal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	trap := Spec{Command: shell("trap 'exit 42' USR1; echo ready; while :; do sleep 0.01; done")}
	id := w.start(trap)
	child := w.attach(id)
	readUntil(t, child, "ready")
	s, err := w.Exec(w.ctx, id, trap)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	readUntil(t, s, "ready")
	if err := s.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, s); got.exit.Code != 42 {
		t.Errorf("the exec ended with %+v, want 42", got.exit)
	}
	if err := s.Signal(unix.SIGUSR1); err != nil {
		t.Errorf("a signal to an exec that has ended: %v", err)
	}
	if err := child.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, child); got.exit.Code != 42 {
		t.Errorf("the child ended with %+v, want 42", got.exit)
	}
	w.awaitExit(id)
	if err := child.Signal(unix.SIGUSR1); err != nil {
		t.Errorf("a signal by the stream of an ended process: %v", err)
	}
	if _, err := w.Exec(w.ctx, id, trap); err == nil {
		t.Error("Exec in a sandbox that has ended")
	}
}
