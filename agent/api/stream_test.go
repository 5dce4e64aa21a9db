package api_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/agent/api"
	weftv1 "weft/proto/weft/v1"
)

type caller = grpc.BidiStreamingClient[weftv1.StreamInput, weftv1.StreamOutput]

func attachTo(ref string) *weftv1.StreamInput {
	return &weftv1.StreamInput{Kind: &weftv1.StreamInput_Attach{Attach: &weftv1.AttachStart{
		Ref: ref, Stdin: true, Start: true, Size: &weftv1.WindowSize{Rows: 24, Columns: 80},
	}}}
}

// attach opens a stream to p, up to the word that it is ready.
func attach(ctx context.Context, t *testing.T, p *process) caller {
	t.Helper()
	st, err := sandboxes(t, &fake{stream: p}).AttachSandbox(ctx)
	if err == nil {
		err = st.Send(attachTo("c1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if m, err := st.Recv(); err != nil || !m.GetReady() {
		t.Fatalf("%v, %v: the first word is that all is ready", m, err)
	}
	return st
}

func within(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatal(what)
	}
}

func TestAStreamsFirstMessageSaysWhatItIsFor(t *testing.T) {
	f := &fake{err: api.Refuse(api.NotFound, "No such sandbox: c1")}
	s := sandboxes(t, f)
	for name, tc := range map[string]struct {
		open  func(context.Context, ...grpc.CallOption) (caller, error)
		first *weftv1.StreamInput // nil: the caller ends at once
		asked any
		code  codes.Code
		want  string
	}{
		"attach": {s.AttachSandbox, attachTo("c1"), api.AttachRequest{Ref: "c1", Stdin: true, Start: true, Size: api.Size{Rows: 24, Columns: 80}}, codes.NotFound, "No such sandbox"},
		"exec": {s.Exec, &weftv1.StreamInput{Kind: &weftv1.StreamInput_Exec{Exec: &weftv1.ExecStart{
			Ref: "c1", Command: []string{"sh"}, Env: []string{"A=b"}, User: "u", Workdir: "/w", Tty: true, Stdin: true,
		}}}, api.ExecRequest{Ref: "c1", Command: []string{"sh"}, Env: []string{"A=b"}, User: "u", Workdir: "/w", TTY: true, Stdin: true}, codes.NotFound, "No such sandbox"},
		"attach to nothing": {s.AttachSandbox, &weftv1.StreamInput{Kind: &weftv1.StreamInput_Stdin{Stdin: []byte("x")}}, nil, codes.InvalidArgument, "must say which sandbox"},
		"exec of nothing":   {s.Exec, attachTo("c1"), nil, codes.InvalidArgument, "must say what to run"},
		"no word":           {s.Exec, nil, nil, codes.InvalidArgument, "before it said what it is for"},
	} {
		t.Run(name, func(t *testing.T) {
			f.asked = nil
			st, err := tc.open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if tc.first == nil {
				err = st.CloseSend()
			} else {
				err = st.Send(tc.first)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = st.Recv()
			if s := status.Convert(err); s.Code() != tc.code || !strings.Contains(s.Message(), tc.want) {
				t.Errorf("got %v, want %s %q", err, tc.code, tc.want)
			}
			if d := cmp.Diff(tc.asked, f.asked); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestInputReachesTheProcessInOrder(t *testing.T) {
	p := newProcess()
	st := attach(t.Context(), t, p)
	for _, in := range []*weftv1.StreamInput{
		{Kind: &weftv1.StreamInput_Stdin{Stdin: []byte("hello")}},
		{Kind: &weftv1.StreamInput_Resize{Resize: &weftv1.WindowSize{Rows: 5, Columns: 7}}},
		{Kind: &weftv1.StreamInput_Signal{Signal: int32(syscall.SIGHUP)}},
		{}, // of a later version
		{Kind: &weftv1.StreamInput_CloseStdin{CloseStdin: true}},
	} {
		if err := st.Send(in); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		within(t, p.changed, "not all input came")
	}
	p.mu.Lock()
	got := p.input
	p.mu.Unlock()
	if d := cmp.Diff([]any{[]byte("hello"), api.Size{Rows: 5, Columns: 7}, syscall.SIGHUP, "eof"}, got); d != "" {
		t.Error(d)
	}
	close(p.output)
	if _, err := st.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestOutputAndExitReachTheCaller(t *testing.T) {
	p := newProcess()
	st := attach(t.Context(), t, p)
	p.output <- api.Output{Data: []byte("out")}
	p.output <- api.Output{Data: []byte("err"), Stderr: true}
	p.output <- api.Output{Exit: &api.Exit{Code: 127, Error: "not found"}}
	close(p.output)
	var got []string
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch k := m.Kind.(type) {
		case *weftv1.StreamOutput_Stdout:
			got = append(got, "1:"+string(k.Stdout))
		case *weftv1.StreamOutput_Stderr:
			got = append(got, "2:"+string(k.Stderr))
		case *weftv1.StreamOutput_Exit:
			if k.Exit.Code == 127 {
				got = append(got, k.Exit.Error)
			}
		}
	}
	if d := cmp.Diff([]string{"1:out", "2:err", "not found"}, got); d != "" {
		t.Error(d)
	}
	within(t, p.closed, "the process's stream was not closed")
}

// A silent process must not keep the stream of a caller who is gone.
func TestACallerWhoIsGoneEndsTheStreamAndNotTheProcess(t *testing.T) {
	p := newProcess()
	ctx, cancel := context.WithCancel(t.Context())
	st := attach(ctx, t, p)
	cancel()
	within(t, p.closed, "the stream stays open for nobody")
	if _, err := st.Recv(); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.input) > 0 {
		t.Errorf("the process was told %v", p.input)
	}
}

// A caller that has no more to say still hears all.
func TestTheEndOfInputIsNotTheEndOfOutput(t *testing.T) {
	p := newProcess()
	st := attach(t.Context(), t, p)
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	p.output <- api.Output{Data: []byte("late")}
	if m, err := st.Recv(); err != nil || string(m.GetStdout()) != "late" {
		t.Errorf("%v, %v", m, err)
	}
	close(p.output)
	if _, err := st.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestAProcessThatTakesNoInputIsStillHeard(t *testing.T) {
	p := newProcess()
	p.deaf = true
	st := attach(t.Context(), t, p)
	if err := st.Send(&weftv1.StreamInput{Kind: &weftv1.StreamInput_Stdin{Stdin: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	p.output <- api.Output{Exit: &api.Exit{Code: 3}}
	if m, err := st.Recv(); err != nil || m.GetExit().GetCode() != 3 {
		t.Errorf("%v, %v", m, err)
	}
	close(p.output)
}

func TestAPanicOnInputIsInternal(t *testing.T) {
	p := newProcess()
	p.panics = true
	st := attach(t.Context(), t, p)
	if err := st.Send(&weftv1.StreamInput{Kind: &weftv1.StreamInput_Stdin{Stdin: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("got %v", err)
	}
}

func TestAStreamEndsWithTheAgent(t *testing.T) {
	p := newProcess()
	c, stop := serve(t, &fake{stream: p})
	st, err := weftv1.NewSandboxesClient(c).AttachSandbox(t.Context())
	if err == nil {
		err = st.Send(attachTo("c1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	stop()
	within(t, p.closed, "the agent has ended, and the process's stream is open")
	if _, err := st.Recv(); err == nil {
		t.Error("the stream goes on without an agent")
	}
}
