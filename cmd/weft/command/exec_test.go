package command

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	weftv1 "weft/proto/weft/v1"
)

func TestExec(t *testing.T) {
	tests := []struct {
		name, args string
		exec       func(serverStream) error
		want       result
		asked      *weftv1.ExecStart
	}{
		{"code", "exec c1 false -i", func(s serverStream) error { return inTurn(ready(s), stdout(s, "o"), stderr(s, "e"), exit(s, 1, "")) },
			result{"o", "e", 1}, &weftv1.ExecStart{Ref: "c1", Command: []string{"false", "-i"}}},
		{"not found", "exec -u 1:2 -w /x -e A=1 -e HERE c1 nope", func(s serverStream) error { return exit(s, 127, "nope: not found") },
			result{"", "weft: nope: not found.\n", 127}, &weftv1.ExecStart{Ref: "c1", Command: []string{"nope"}, User: "1:2", Workdir: "/x", Env: []string{"A=1", "HERE=yes"}}},
		{"not running", "exec c1 x", func(serverStream) error { return status.Error(codes.FailedPrecondition, "sandbox c1 is not running") },
			result{"", "Error: sandbox c1 is not running\n", 1}, &weftv1.ExecStart{Ref: "c1", Command: []string{"x"}}},
		{"stdin", "exec -i c1 cat", func(s serverStream) error {
			return inTurn(ready(s), until(s, func(in *weftv1.StreamInput) bool { return string(in.GetStdin()) == "typed" }), until(s, closed), exit(s, 0, ""))
		}, result{"", "", 0}, &weftv1.ExecStart{Ref: "c1", Command: []string{"cat"}, Stdin: true}},
		{"no word on the exit", "exec c1 x", func(s serverStream) error { return ready(s) },
			result{"", "Error: lost the agent at SOCKET while the command ran in c1; its exit code is not known\n", 1}, &weftv1.ExecStart{Ref: "c1", Command: []string{"x"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			s.env["HERE"] = "yes"
			s.in = strings.NewReader("typed")
			f.exec = func(_ *weftv1.ExecStart, ss serverStream) error { return tt.exec(ss) }
			f.serve(t, s.path)
			r := s.run(strings.Fields(tt.args)...)
			r.err = strings.ReplaceAll(r.err, "unix://"+s.path, "SOCKET")
			if r != tt.want {
				t.Errorf("got %+v, want %+v", r, tt.want)
			}
			if d := cmp.Diff(tt.asked, last[*weftv1.StreamInput](t, f).GetExec(), protocmp.Transform()); d != "" {
				t.Errorf("asked (-want +got):\n%s", d)
			}
		})
	}
}

func TestExecPassesSignals(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.exec = func(_ *weftv1.ExecStart, ss serverStream) error {
		var sig int32
		return inTurn(ready(ss), stdout(ss, "up"),
			until(ss, func(in *weftv1.StreamInput) bool { sig = in.GetSignal(); return sig != 0 }), exit(ss, 128+int32(syscall.SIGINT), ""))
	}
	f.serve(t, s.path)
	var out, errs syncBuffer
	code := make(chan int, 1)
	go func() { code <- s.runTo(&out, &errs, "exec", "c1", "x").code }()
	eventually(t, "the process's output", func() bool { return out.String() == "up" })
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 130 || errs.String() != "" {
		t.Errorf("exit %d, %q", got, errs.String())
	}
}

// The agent dies under an exec.
func TestExecLosesTheAgent(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.exec = func(_ *weftv1.ExecStart, ss serverStream) error {
		err := inTurn(ready(ss), stdout(ss, "up"))
		<-ss.Context().Done()
		return err
	}
	stop := f.serve(t, s.path)
	var out, errs syncBuffer
	code := make(chan int, 1)
	go func() { code <- s.runTo(&out, &errs, "exec", "c1", "x").code }()
	eventually(t, "the process's output", func() bool { return out.String() == "up" })
	stop()
	if got := <-code; got != 1 || !strings.Contains(errs.String(), "while the command ran in c1; its exit code is not known") {
		t.Errorf("exit %d, %q", got, errs.String())
	}
}
