package command

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	weftv1 "weft/proto/weft/v1"
)

// Typed on a terminal, the keys to detach leave the process alone, and give the terminal back; what was typed before them has arrived.
func TestDetach(t *testing.T) {
	for name, tc := range map[string]struct {
		args, typed, arrives, says string
		code                       int
	}{
		"run":                    {"run -it --rm x", "ls\x10\x11", "ls", "", 0},
		"run, half the keys":     {"run -it x", "\x10a\x10\x11", "\x10a", "", 0},
		"run, other keys":        {"run -it --detach-keys ctrl-a,d x", "\x10\x11\x01d", "\x10\x11", "", 0},
		"attach":                 {"attach c1", "q\x10\x11", "q", "Error: read escape sequence\n", 1},
		"attach, keys of one":    {"attach --detach-keys z c1", "zz", "", "Error: read escape sequence\n", 1},
		"exec":                   {"exec -it c1 sh", "ls\x10\x11", "ls", "Error: read escape sequence\n", 1},
		"start":                  {"start -ai c1", "ls\x10\x11", "ls", "Error: read escape sequence\n", 1},
		"attach, at the newline": {"attach --detach-keys ctrl-m c1", "ls\r", "ls", "Error: read escape sequence\n", 1},
	} {
		t.Run(name, func(t *testing.T) {
			outer, inner := terminalPair(t)
			before := mode(t, inner)
			f, s := newFake(), newShell(t)
			s.in = inner
			f.sandboxes[0].Tty, f.sandboxes[0].Stdin = true, true
			arrived := make(chan string, 1)
			serve := func(ss serverStream) error {
				err := inTurn(ready(ss), stdout(ss, "up"))
				var all strings.Builder
				for err == nil {
					var in *weftv1.StreamInput
					if in, err = ss.Recv(); err == nil {
						all.Write(in.GetStdin())
					}
				}
				arrived <- all.String()
				return err
			}
			f.attach = func(_ *weftv1.AttachStart, ss serverStream) error { return serve(ss) }
			f.exec = func(_ *weftv1.ExecStart, ss serverStream) error { return serve(ss) }
			f.serve(t, s.path)
			var out, errs syncBuffer
			code := make(chan int, 1)
			go func() { code <- s.runTo(&out, &errs, strings.Fields(tc.args)...).code }()
			eventually(t, "the process's output", func() bool { return out.String() == "up" })
			if _, err := outer.WriteString(tc.typed); err != nil {
				t.Fatal(err)
			}
			if got := <-code; got != tc.code || errs.String() != tc.says {
				t.Errorf("exit %d, %q, want %d, %q", got, errs.String(), tc.code, tc.says)
			}
			if got := <-arrived; got != tc.arrives {
				t.Errorf("%q arrived, want %q", got, tc.arrives)
			}
			if mode(t, inner) != before {
				t.Error("the terminal is not what it was")
			}
			if n := f.count(func(m proto.Message) bool { _, is := m.(*weftv1.RemoveSandboxRequest); return is }); n > 0 {
				t.Error("the sandbox was removed")
			}
		})
	}
}

// attach shows what comes, passes stdin on where the process has one, and exits with the process's code.
func TestAttach(t *testing.T) {
	for name, tc := range map[string]struct {
		args  string
		stdin bool // the process has one
		want  string
	}{
		"with stdin":    {"attach c1", true, "hello"},
		"without stdin": {"attach c1", false, ""},
		"--no-stdin":    {"attach --no-stdin c1", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			s.in = strings.NewReader("hello")
			f.sandboxes[0].Stdin = tc.stdin
			var first *weftv1.AttachStart
			f.attach = func(a *weftv1.AttachStart, ss serverStream) error {
				first = a
				steps := []error{ready(ss), stdout(ss, "now")}
				if a.Stdin {
					steps = append(steps, until(ss, func(in *weftv1.StreamInput) bool { return string(in.GetStdin()) == tc.want }))
				}
				return inTurn(append(steps, exit(ss, 7, ""))...)
			}
			f.serve(t, s.path)
			r := s.run(strings.Fields(tc.args)...)
			if r.code != 7 || r.out != "now" || r.err != "" {
				t.Errorf("exit %d, %q, %q", r.code, r.out, r.err)
			}
			if first.Ref != boxID || first.Start || first.Stdin != (tc.want != "") {
				t.Errorf("asked for %v", first)
			}
		})
	}
	f, s := newFake(), newShell(t)
	f.sandboxes[0].Tty, f.sandboxes[0].Stdin = true, true
	f.serve(t, s.path)
	if r := s.run("attach", "c1"); r.code != 1 || r.err != "Error: the input device is not a TTY\n" {
		t.Errorf("without a terminal: exit %d, %q", r.code, r.err)
	}
}

// exec -d returns when the command runs, and says why where it cannot.
func TestExecDetached(t *testing.T) {
	f, s := newFake(), newShell(t)
	gone := make(chan struct{})
	f.exec = func(e *weftv1.ExecStart, ss serverStream) error {
		if e.Command[0] == "nothing" {
			return exit(ss, 127, "not found")
		}
		defer close(gone)
		if e.Stdin {
			t.Error("stdin was asked for")
		}
		err := ready(ss)
		<-ss.Context().Done()
		return err
	}
	f.serve(t, s.path)
	if r := s.run("exec", "-d", "-i", "c1", "sleep"); r.code != 0 || r.out+r.err != "" {
		t.Errorf("exit %d, %q, %q", r.code, r.out, r.err)
	}
	<-gone
	if r := s.run("exec", "-d", "c1", "nothing"); r.code != 127 || r.err != "weft: not found.\n" {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
	if r := s.run("start", "-a", "c1", "c2"); r.code != 1 || !strings.Contains(r.err, "you cannot start and attach multiple sandboxes at once") {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
}
