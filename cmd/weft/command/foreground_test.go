package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	weftv1 "weft/proto/weft/v1"
)

func ready(s serverStream) error {
	return s.Send(&weftv1.StreamOutput{Kind: &weftv1.StreamOutput_Ready{Ready: true}})
}
func stdout(s serverStream, text string) error {
	return s.Send(&weftv1.StreamOutput{Kind: &weftv1.StreamOutput_Stdout{Stdout: []byte(text)}})
}
func stderr(s serverStream, text string) error {
	return s.Send(&weftv1.StreamOutput{Kind: &weftv1.StreamOutput_Stderr{Stderr: []byte(text)}})
}
func exit(s serverStream, code int32, reason string) error {
	return s.Send(&weftv1.StreamOutput{Kind: &weftv1.StreamOutput_Exit{Exit: &weftv1.Exit{Code: code, Error: reason}}})
}

// inTurn does one step after the other until one fails.
func inTurn(steps ...error) error {
	for _, err := range steps {
		if err != nil {
			return err
		}
	}
	return nil
}

// until reads what comes until wanted says that it has come.
func until(s serverStream, wanted func(*weftv1.StreamInput) bool) error {
	for {
		in, err := s.Recv()
		if err != nil {
			return err
		}
		if wanted(in) {
			return nil
		}
	}
}

func closed(in *weftv1.StreamInput) bool { return in.GetCloseStdin() }

func removals(f *fake) int {
	return f.count(func(m proto.Message) bool { _, ok := m.(*weftv1.RemoveSandboxRequest); return ok })
}

func TestForegroundPassesOutputAndExitCode(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB, more than the windows of a stream
	tests := []struct {
		name   string
		args   []string
		attach func(serverStream) error
		want   result
		remove int
	}{
		{"success", nil, func(s serverStream) error {
			return inTurn(ready(s), stdout(s, "one\n"), stderr(s, "two\n"), exit(s, 0, ""))
		}, result{"one\n", "two\n", 0}, 0},
		{"code", nil, func(s serverStream) error { return inTurn(ready(s), exit(s, 42, "")) }, result{"", "", 42}, 0},
		{"signal", nil, func(s serverStream) error { return inTurn(ready(s), exit(s, 137, "")) }, result{"", "", 137}, 0},
		{"not found", nil, func(s serverStream) error {
			return inTurn(ready(s), exit(s, 127, `exec: "x": executable file not found in $PATH`))
		}, result{"", "weft: exec: \"x\": executable file not found in $PATH.\n", 127}, 0},
		{"not executable, before it is ready", nil, func(s serverStream) error { return exit(s, 126, "exec x: permission denied") },
			result{"", "weft: exec x: permission denied.\n", 126}, 0},
		{"refused", nil, func(serverStream) error {
			return status.Error(codes.FailedPrecondition, "the sandbox is being removed")
		},
			result{"", "weft: the sandbox is being removed.\nSee 'weft run --help'.\n", 125}, 0},
		{"refused with --rm", []string{"--rm"}, func(serverStream) error { return status.Error(codes.FailedPrecondition, "no") },
			result{"", "weft: no.\nSee 'weft run --help'.\n", 125}, 1},
		{"--rm", []string{"--rm"}, func(s serverStream) error { return inTurn(ready(s), exit(s, 3, "")) }, result{"", "", 3}, 1},
		{"much output right before the end", nil, func(s serverStream) error {
			return inTurn(ready(s), stdout(s, big), stdout(s, big), exit(s, 0, ""))
		}, result{big + big, "", 0}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			f.attach = func(a *weftv1.AttachStart, ss serverStream) error {
				if !a.Start || a.Ref != boxID || !a.Stdin {
					t.Errorf("attach: %v", a)
				}
				return tt.attach(ss)
			}
			f.serve(t, s.path)
			if r := s.run(append(append([]string{"run"}, tt.args...), "x")...); r != tt.want {
				t.Errorf("got exit %d, %.200q, %.200q, want exit %d, %.200q, %.200q", r.code, r.out, r.err, tt.want.code, tt.want.out, tt.want.err)
			}
			if got := removals(f); got != tt.remove {
				t.Errorf("removed %d times, want %d", got, tt.remove)
			}
		})
	}
}

// What is piped in arrives whole, in pieces that the contract allows, and then its end.
func TestForegroundPassesStdin(t *testing.T) {
	sent := bytes.Repeat([]byte("stdin "), 100_000)
	for _, kind := range []string{"reader", "pipe", "file"} {
		t.Run(kind, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			var got []byte
			f.attach = func(_ *weftv1.AttachStart, ss serverStream) error {
				return inTurn(ready(ss), until(ss, func(in *weftv1.StreamInput) bool {
					if len(in.GetStdin()) > 64<<10 {
						t.Errorf("a piece of %d bytes", len(in.GetStdin()))
					}
					got = append(got, in.GetStdin()...)
					return closed(in)
				}), exit(ss, 0, ""))
			}
			f.serve(t, s.path)
			s.in = source(t, kind, sent)
			if r := s.run("run", "cat"); r.code != 0 || r.err != "" || !bytes.Equal(got, sent) {
				t.Errorf("exit %d, %q; %d bytes came of %d", r.code, r.err, len(got), len(sent))
			}
		})
	}
}

func source(t *testing.T, kind string, data []byte) io.Reader {
	switch kind {
	case "file":
		file, err := os.Open(tempFile(t, string(data)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		return file
	case "pipe":
		r, w := pipe(t)
		done := make(chan struct{})
		t.Cleanup(func() { <-done })
		go func() {
			defer close(done)
			defer w.Close()
			if _, err := w.Write(data); err != nil {
				t.Error(err)
			}
		}()
		return r
	}
	return bytes.NewReader(data)
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// The command ends with its process also while stdin stays open, and leaves what comes there later to the next reader.
func TestForegroundEndsWithStdinOpen(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.attach = func(_ *weftv1.AttachStart, ss serverStream) error { return inTurn(ready(ss), exit(ss, 5, "")) }
	f.serve(t, s.path)
	r, w := pipe(t)
	s.in = r
	if got := s.run("run", "x"); got.code != 5 {
		t.Fatalf("exit %d, %q", got.code, got.err)
	}
	if _, err := w.WriteString("later"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if left, err := io.ReadAll(r); err != nil || string(left) != "later" {
		t.Errorf("left for the next reader: %q, %v", left, err)
	}
}

func TestForegroundWithoutStdin(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.attach = func(a *weftv1.AttachStart, ss serverStream) error {
		if a.Stdin {
			t.Error("stdin although -i=false")
		}
		return inTurn(ready(ss), exit(ss, 0, ""))
	}
	f.serve(t, s.path)
	if got := s.run("run", "-i=false", "x"); got.code != 0 || last[*weftv1.CreateSandboxRequest](t, f).Stdin {
		t.Errorf("exit %d, %q", got.code, got.err)
	}
}

// Signals reach the process also while its stdin is full.
func TestForegroundPassesSignals(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.attach = func(_ *weftv1.AttachStart, ss serverStream) error {
		if err := inTurn(ready(ss), stdout(ss, "up")); err != nil {
			return err
		}
		for ss.Context().Err() == nil { // reads nothing of stdin, as a process that sleeps
			f.mu.Lock()
			for _, m := range f.asked {
				if sig, ok := m.(*weftv1.SignalSandboxRequest); ok {
					f.mu.Unlock()
					if sig.Ref != boxID {
						t.Errorf("signal to %s", sig.Ref)
					}
					return exit(ss, 128+sig.Signal, "")
				}
			}
			f.mu.Unlock()
		}
		return ss.Context().Err()
	}
	f.serve(t, s.path)
	s.in = bytes.NewReader(make([]byte, 8<<20))
	unignored := make(chan os.Signal, 8) // whoever started the tests may have them ignored: nohup, a shell's background job
	signal.Notify(unignored, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(unignored)
	for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		var out, errs syncBuffer
		code := make(chan int, 1)
		go func() { code <- s.runTo(&out, &errs, "run", "x").code }()
		eventually(t, "the process's output", func() bool { return out.String() == "up" })
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		if got := <-code; got != 128+int(sig) || errs.String() != "" {
			t.Errorf("%v: exit %d, %q", sig, got, errs.String())
		}
		f.mu.Lock()
		f.asked = nil
		f.mu.Unlock()
	}
}

// Before there is a process, a signal ends the command.
func TestSignalBeforeTheProcess(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.hang = func(ctx context.Context) { <-ctx.Done() }
	f.serve(t, s.path)
	code := make(chan int, 1)
	go func() { code <- s.run("run", "--rm", "x").code }()
	eventually(t, "the request", func() bool { return f.count(func(proto.Message) bool { return true }) > 0 })
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 130 {
		t.Errorf("exit %d, want 130", got)
	}
}

// notReadyAtOnce answers for an agent that starts: first not at all, then that the sandbox has been created.
func notReadyAtOnce() func(*weftv1.InspectSandboxRequest) (*weftv1.Sandbox, error) {
	var asked atomic.Int32
	return func(*weftv1.InspectSandboxRequest) (*weftv1.Sandbox, error) {
		if asked.Add(1) < 3 {
			return nil, status.Error(codes.Unavailable, "the agent is starting")
		}
		return &weftv1.Sandbox{Id: boxID, Status: "created"}, nil
	}
}

// An agent that is killed and started again while a process runs in the foreground: what the command says and ends with.
func TestForegroundOutlivesTheAgent(t *testing.T) {
	lost := "weft: lost the agent; sandbox bbbbbbbbbbbb goes on, waiting up to %s for the agent to come back\n"
	running := func(*weftv1.InspectSandboxRequest) (*weftv1.Sandbox, error) {
		return &weftv1.Sandbox{Id: boxID, Status: "running"}, nil
	}
	tests := []struct {
		name  string
		give  time.Duration
		after *fake // nil: the agent does not come back
		want  result
	}{
		{"goes on", 10 * time.Second, &fake{inspect: running, attach: func(a *weftv1.AttachStart, ss serverStream) error {
			return inTurn(ready(ss), stdout(ss, fmt.Sprintf("start=%v stdin=%v", a.Start, a.Stdin)), until(ss, closed), exit(ss, 7, ""))
		}}, result{"before start=false stdin=true", lost, 7}},
		{"ended meanwhile", 10 * time.Second, &fake{inspect: func(*weftv1.InspectSandboxRequest) (*weftv1.Sandbox, error) {
			return &weftv1.Sandbox{Id: boxID, Status: "exited", Exit: &weftv1.Exit{Code: 9}}, nil
		}}, result{"before ", lost, 9}},
		{"is not ready at once, and had not started it", 10 * time.Second, &fake{inspect: notReadyAtOnce(), attach: func(a *weftv1.AttachStart, ss serverStream) error {
			return inTurn(ready(ss), stdout(ss, fmt.Sprintf("start=%v", a.Start)), exit(ss, 0, ""))
		}}, result{"before start=true", lost, 0}},
		{"was removed meanwhile", 10 * time.Second, &fake{inspect: func(*weftv1.InspectSandboxRequest) (*weftv1.Sandbox, error) {
			return nil, status.Error(codes.NotFound, "no such sandbox")
		}}, result{"before ", lost + "weft: sandbox bbbbbbbbbbbb ended and was removed while the agent was away; its exit code is not known.\nSee 'weft run --help'.\n", 125}},
		{"does not come back", 300 * time.Millisecond, nil,
			result{"before ", lost + "weft: the agent did not come back within 300ms; sandbox bbbbbbbbbbbb may go on, its exit code is not known here.\nSee 'weft run --help'.\n", 125}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			f.attach = func(_ *weftv1.AttachStart, ss serverStream) error {
				err := inTurn(ready(ss), stdout(ss, "before "))
				<-ss.Context().Done()
				return err
			}
			stop := f.serve(t, s.path)
			s.give = tt.give
			var out, errs syncBuffer
			code := make(chan int, 1)
			go func() { code <- s.runTo(&out, &errs, "run", "x").code }()
			eventually(t, "the process's output", func() bool { return out.String() == "before " })
			stop()
			if tt.after != nil {
				eventually(t, "the command's word on the loss", func() bool { return errs.String() != "" })
				tt.after.serve(t, s.path)
			}
			if strings.Contains(tt.want.err, "%s") {
				tt.want.err = fmt.Sprintf(tt.want.err, tt.give)
			}
			if got := (result{code: <-code, out: out.String(), err: errs.String()}); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// While the agent is away, the user can leave.
func TestSignalWhileTheAgentIsAway(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.attach = func(_ *weftv1.AttachStart, ss serverStream) error {
		err := inTurn(ready(ss), stdout(ss, "up"))
		<-ss.Context().Done()
		return err
	}
	stop := f.serve(t, s.path)
	var out, errs syncBuffer
	code := make(chan int, 1)
	go func() { code <- s.runTo(&out, &errs, "run", "--rm", "x").code }()
	eventually(t, "the process's output", func() bool { return out.String() == "up" })
	stop()
	eventually(t, "the command's word on the loss", func() bool { return errs.String() != "" })
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 130 || !strings.HasSuffix(errs.String(), "weft: sandbox bbbbbbbbbbbb goes on without this command.\n") {
		t.Errorf("exit %d, %q", got, errs.String())
	}
}
