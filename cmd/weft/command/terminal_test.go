package command

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	weftv1 "weft/proto/weft/v1"
)

// terminalPair makes a terminal of 80 columns and 24 rows: the side of a terminal program, and the side of a shell.
func terminalPair(t *testing.T) (outer, inner *os.File) {
	t.Helper()
	outer, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outer.Close() })
	if err := unix.IoctlSetPointerInt(int(outer.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(outer.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	inner, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inner.Close() })
	resize(t, outer, 24, 80)
	return outer, inner
}

func resize(t *testing.T, f *os.File, rows, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

func mode(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

func size(rows, columns uint32) func(*weftv1.WindowSize) bool {
	return func(w *weftv1.WindowSize) bool { return w.GetRows() == rows && w.GetColumns() == columns }
}

// The process has the terminal for its own: raw keys, its size and each new one; and the shell gets it back as it was.
func TestTerminal(t *testing.T) {
	outer, inner := terminalPair(t)
	before := mode(t, inner)
	f, s := newFake(), newShell(t)
	s.in = inner
	var first *weftv1.WindowSize
	f.attach = func(a *weftv1.AttachStart, ss serverStream) error {
		first = a.Size
		return inTurn(ready(ss), stdout(ss, "up"),
			until(ss, func(in *weftv1.StreamInput) bool { return string(in.GetStdin()) == "\x03" }),
			stdout(ss, " key"),
			until(ss, func(in *weftv1.StreamInput) bool { return size(50, 132)(in.GetResize()) }), exit(ss, 4, ""))
	}
	f.serve(t, s.path)
	var out, errs syncBuffer
	code := make(chan int, 1)
	go func() { code <- s.runTo(&out, &errs, "run", "-it", "x").code }()
	eventually(t, "the process's output", func() bool { return out.String() == "up" })
	if during := mode(t, inner); during.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Error("the terminal is not raw while the process has it")
	}
	if _, err := outer.WriteString("\x03"); err != nil { // Ctrl-C is a key
		t.Fatal(err)
	}
	eventually(t, "the key's arrival", func() bool { return out.String() == "up key" })
	resize(t, outer, 50, 132)
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 4 || errs.String() != "" {
		t.Errorf("exit %d, %q", got, errs.String())
	}
	if !size(24, 80)(first) {
		t.Errorf("size at the start: %v", first)
	}
	if mode(t, inner) != before {
		t.Error("the terminal is not what it was")
	}
	if !last[*weftv1.CreateSandboxRequest](t, f).Tty {
		t.Error("the agent was not asked for a terminal")
	}
}

// A terminal is given back also when the agent refuses.
func TestTerminalAfterARefusal(t *testing.T) {
	_, inner := terminalPair(t)
	before := mode(t, inner)
	f, s := newFake(), newShell(t)
	s.in = inner
	f.exec = func(_ *weftv1.ExecStart, ss serverStream) error {
		if mode(t, inner) == before {
			t.Error("the terminal is not raw")
		}
		return exit(ss, 126, "not today")
	}
	f.serve(t, s.path)
	if r := s.run("exec", "-it", "c1", "x"); r.code != 126 || r.err != "weft: not today.\n" {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
	if mode(t, inner) != before {
		t.Error("the terminal is not what it was")
	}
}

// On a terminal, and only there, an operation that takes long says so, and wipes that away.
func TestProgress(t *testing.T) {
	outer, inner := terminalPair(t)
	if !term.IsTerminal(int(inner.Fd())) {
		t.Fatal("no terminal")
	}
	seen := make(chan string, 1)
	c := &cli{env: Environment{Err: inner}}
	stop := c.progress()
	go func() {
		var all strings.Builder
		b := make([]byte, 256)
		for !strings.Contains(all.String(), "waiting for the agent") {
			n, err := outer.Read(b)
			if err != nil {
				break
			}
			all.Write(b[:n])
		}
		seen <- all.String()
	}()
	if got := <-seen; !strings.HasPrefix(got, "\r| waiting for the agent ") {
		t.Errorf("%q", got)
	}
	stop()
	b := make([]byte, 256)
	n, err := outer.Read(b)
	if err != nil || !strings.HasSuffix(string(b[:n]), "\r\x1b[K") {
		t.Errorf("%q, %v", b[:n], err)
	}
	stop = c.progress()
	stop()
	(&cli{env: Environment{Err: &syncBuffer{}}}).progress()()
}
