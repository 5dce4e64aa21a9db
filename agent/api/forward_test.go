package api_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"

	"weft/agent/api"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// away serves a backend as another host's agent does, and returns the way to it.
func away(t *testing.T, b api.Backend, refuse string) (way api.Way, stop func()) {
	t.Helper()
	path := socket(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f := api.NewForwarded(b, slog.New(slog.DiscardHandler), refuse)
	s := grpc.NewServer(grpc.UnaryInterceptor(f.Unary), grpc.StreamInterceptor(f.Stream), grpc.WaitForHandlers(true))
	f.Register(s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	stop = func() { s.Stop(); wg.Wait(); f.Wait() }
	t.Cleanup(stop)
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return api.Way{Conn: c, Host: "beta", Self: "a"}, stop
}

// through makes two hosts: one that is asked, which has nothing itself, and one that has every sandbox.
func through(t *testing.T, there *fake) *grpc.ClientConn {
	t.Helper()
	way, _ := away(t, there, "")
	return client(t, leads(way))
}

// leads is the backend of a host that has nothing, and knows a way. HOST/NAME becomes NAME.
func leads(way api.Way) *fake {
	return &fake{route: func(ref string) (api.Way, error) {
		w := way
		w.Ref = ref
		if _, name, insisted := strings.Cut(ref, "/"); insisted {
			w.Ref = name
		}
		return w, nil
	}}
}

func TestACallIsPassedOnWhole(t *testing.T) {
	there := &fake{sandboxes: []api.SandboxView{{Sandbox: &record.Sandbox{ID: "5b1", Name: "c1"}}}}
	c := through(t, there)
	s, n := weftv1.NewSandboxesClient(c), weftv1.NewNetworksClient(c)
	limit := 3 * time.Second
	for name, tc := range map[string]struct {
		call  func(context.Context) error
		asked any
	}{
		"start": {func(ctx context.Context) error {
			_, err := s.StartSandbox(ctx, &weftv1.StartSandboxRequest{Ref: "c1"})
			return err
		}, "c1"},
		"inspect": {func(ctx context.Context) error {
			_, err := s.InspectSandbox(ctx, &weftv1.InspectSandboxRequest{Ref: "c1"})
			return err
		}, "c1"},
		"stop": {func(ctx context.Context) error {
			_, err := s.StopSandbox(ctx, &weftv1.StopSandboxRequest{Ref: "beta/c1", Signal: 1, Timeout: durationpb.New(limit)})
			return err
		}, stopped{"c1", syscall.SIGHUP, &limit}},
		"restart": {func(ctx context.Context) error {
			_, err := s.RestartSandbox(ctx, &weftv1.RestartSandboxRequest{Ref: "c1"})
			return err
		}, stopped{ref: "c1"}},
		"kill": {func(ctx context.Context) error {
			_, err := s.SignalSandbox(ctx, &weftv1.SignalSandboxRequest{Ref: "c1", Signal: 9})
			return err
		}, stopped{ref: "c1", signal: 9}},
		"rm": {func(ctx context.Context) error {
			_, err := s.RemoveSandbox(ctx, &weftv1.RemoveSandboxRequest{Ref: "beta/c1", Force: true})
			return err
		}, removed{"c1", true}},
		"rename": {func(ctx context.Context) error {
			_, err := s.RenameSandbox(ctx, &weftv1.RenameSandboxRequest{Ref: "c1", Name: "c2"})
			return err
		}, renamed{"c1", "c2"}},
		"wait": {func(ctx context.Context) error {
			r, err := s.WaitSandbox(ctx, &weftv1.WaitSandboxRequest{Ref: "c1"})
			if r.GetExit().GetCode() != 137 || r.GetExit().GetError() != "killed" {
				t.Errorf("exit %v", r)
			}
			return err
		}, "c1"},
		"connect": {func(ctx context.Context) error {
			r, err := n.Connect(ctx, &weftv1.ConnectRequest{Target: "beta/c1", Attachment: &weftv1.Attachment{Network: "web"}})
			if r.GetEndpointId() != "e1" {
				t.Errorf("endpoint %v", r)
			}
			return err
		}, connected{"c1", "web"}},
		"disconnect": {func(ctx context.Context) error {
			_, err := n.Disconnect(ctx, &weftv1.DisconnectRequest{Network: "web", Target: "c1"})
			return err
		}, disconnected{"web", "c1", api.Disconnection{}}},
	} {
		t.Run(name, func(t *testing.T) {
			there.asked = nil
			if err := tc.call(t.Context()); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.asked, there.asked, cmp.AllowUnexported(stopped{}, removed{}, renamed{}, connected{}, disconnected{})); d != "" {
				t.Error(d)
			}
		})
	}
}

// What the other agent says is passed on with its code and details, and names the host.
func TestARefusalThereIsARefusalHere(t *testing.T) {
	there := &fake{err: &notRun{code: 127, text: "no such file"}}
	c := through(t, there)
	_, err := weftv1.NewSandboxesClient(c).StartSandbox(t.Context(), &weftv1.StartSandboxRequest{Ref: "c1"})
	if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "no such file (on host beta)" || len(s.Details()) != 1 {
		t.Errorf("%v with %v", err, s.Details())
	}
	there.err = api.Refuse(api.Exists, "taken")
	_, err = weftv1.NewSandboxesClient(c).RenameSandbox(t.Context(), &weftv1.RenameSandboxRequest{Ref: "c1", Name: "c2"})
	if s := status.Convert(err); s.Code() != codes.AlreadyExists || s.Message() != "taken (on host beta)" {
		t.Error(err)
	}
}

// notRun is a process that could not be run.
type notRun struct {
	code int
	text string
}

func (n *notRun) Error() string { return n.text }
func (n *notRun) ExitCode() int { return n.code }

func TestAStreamIsPassedOnBothWays(t *testing.T) {
	// Given a process on another host
	p := newProcess()
	there := &fake{stream: p}
	st, err := weftv1.NewSandboxesClient(through(t, there)).Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// When its caller says what to run, and then sends input, a size, a signal, something of a later version, and the end of input
	start := &weftv1.ExecStart{Ref: "beta/c1", Command: []string{"sh"}, Tty: true, Stdin: true, Size: &weftv1.WindowSize{Rows: 24, Columns: 80}}
	unknown := &weftv1.StreamInput{}
	unknown.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	for _, in := range []*weftv1.StreamInput{
		{Kind: &weftv1.StreamInput_Exec{Exec: start}},
		{Kind: &weftv1.StreamInput_Stdin{Stdin: []byte("hello")}},
		{Kind: &weftv1.StreamInput_Resize{Resize: &weftv1.WindowSize{Rows: 5, Columns: 7}}},
		{Kind: &weftv1.StreamInput_Signal{Signal: int32(syscall.SIGHUP)}},
		unknown,
		{Kind: &weftv1.StreamInput_CloseStdin{CloseStdin: true}},
	} {
		if err := st.Send(in); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := st.Recv(); err != nil || !m.GetReady() {
		t.Fatalf("%v, %v: the first word is that all is ready", m, err)
	}
	// Then all of it comes to the process
	for range 4 {
		within(t, p.changed, "not all input came")
	}
	p.mu.Lock()
	got := p.input
	p.mu.Unlock()
	if d := cmp.Diff([]any{[]byte("hello"), api.Size{Rows: 5, Columns: 7}, syscall.SIGHUP, "eof"}, got); d != "" {
		t.Error(d)
	}
	want := api.ExecRequest{Ref: "c1", Command: []string{"sh"}, TTY: true, Stdin: true, Size: api.Size{Rows: 24, Columns: 80}}
	if d := cmp.Diff(want, there.asked); d != "" {
		t.Error(d)
	}
	// And what it writes, and its exit, come back
	p.output <- api.Output{Data: []byte("out")}
	p.output <- api.Output{Data: []byte("err"), Stderr: true}
	p.output <- api.Output{Exit: &api.Exit{Code: 42}}
	close(p.output)
	var said []string
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, string(m.GetStdout())+string(m.GetStderr()))
		if x := m.GetExit(); x != nil && x.Code != 42 {
			t.Errorf("exit %v", x)
		}
	}
	if d := cmp.Diff([]string{"out", "err", ""}, said); d != "" {
		t.Error(d)
	}
}

func TestALogIsPassedOn(t *testing.T) {
	there := &fake{lines: []api.LogLine{{Data: []byte("one\n")}, {Data: []byte("two\n"), Stderr: true}}}
	st, err := weftv1.NewSandboxesClient(through(t, there)).Logs(t.Context(), &weftv1.LogsRequest{Ref: "c1", Follow: true, Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := st.Header(); err != nil || h == nil {
		t.Errorf("header %v, %v: it tells a follower that it has an agent", h, err)
	}
	var got string
	for {
		l, err := st.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got += string(l.Data)
	}
	if got != "one\ntwo\n" {
		t.Errorf("got %q", got)
	}
	if d := cmp.Diff(api.LogsRequest{Ref: "c1", Follow: true, Tail: -1}, there.asked); d != "" {
		t.Error(d)
	}
}

// Who goes away, or has no more time, ends the call on the other host too.
func TestACallEndsThereWhenItsCallerGoes(t *testing.T) {
	there := &fake{block: true}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := weftv1.NewSandboxesClient(through(t, there)).WaitSandbox(ctx, &weftv1.WaitSandboxRequest{Ref: "c1"})
	if status.Code(err) != codes.DeadlineExceeded || time.Since(began) > 5*time.Second {
		t.Error(err)
	}

	p := newProcess()
	ctx, cancel = context.WithCancel(t.Context())
	st, err := weftv1.NewSandboxesClient(through(t, &fake{stream: p})).AttachSandbox(ctx)
	if err == nil {
		err = st.Send(attachTo("c1"))
	}
	if err == nil {
		_, err = st.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	within(t, p.closed, "the stream on the other host goes on")
}

func TestWhatIsNotPassedOn(t *testing.T) {
	way, _ := away(t, &fake{err: errors.New("the other host was asked")}, "")
	here := leads(way)
	s, n := sandboxes(t, here), networks(t, here)
	forwarded := metadata.AppendToOutgoingContext(t.Context(), "weft-forwarded", "c")
	for name, call := range map[string]func() error{
		"what was passed on already": func() error { _, err := s.StartSandbox(forwarded, &weftv1.StartSandboxRequest{Ref: "c1"}); return err },
		"a list":                     func() error { _, err := s.ListSandboxes(t.Context(), &weftv1.ListSandboxesRequest{}); return err },
		"a creation":                 func() error { _, err := s.CreateSandbox(t.Context(), &weftv1.CreateSandboxRequest{}); return err },
		"a disconnect by force": func() error {
			_, err := n.Disconnect(t.Context(), &weftv1.DisconnectRequest{Network: "web", Target: "c1", Force: true})
			return err
		},
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// And a disconnect of what nobody has is this host's to answer, which may have a record of it
	here.route = func(string) (api.Way, error) { return api.Way{}, api.Refuse(api.NotFound, "No such sandbox: c1") }
	if _, err := n.Disconnect(t.Context(), &weftv1.DisconnectRequest{Network: "web", Target: "c1"}); err != nil {
		t.Error(err)
	}
	if _, err := s.StartSandbox(t.Context(), &weftv1.StartSandboxRequest{Ref: "c1"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

func TestWhatAnotherHostMayNotAsk(t *testing.T) {
	way, _ := away(t, &fake{}, "")
	for name, call := range map[string]func(context.Context) error{
		"a list of sandboxes": func(ctx context.Context) error {
			_, err := weftv1.NewSandboxesClient(way.Conn).ListSandboxes(ctx, &weftv1.ListSandboxesRequest{})
			return err
		},
		"a new sandbox": func(ctx context.Context) error {
			_, err := weftv1.NewSandboxesClient(way.Conn).CreateSandbox(ctx, &weftv1.CreateSandboxRequest{})
			return err
		},
		"a network's end": func(ctx context.Context) error {
			_, err := weftv1.NewNetworksClient(way.Conn).RemoveNetwork(ctx, &weftv1.RemoveNetworkRequest{Ref: "web"})
			return err
		},
		"a host's end": func(ctx context.Context) error {
			_, err := weftv1.NewClusterClient(way.Conn).RemoveHost(ctx, &weftv1.RemoveHostRequest{Ref: "b"})
			return err
		},
		"a token": func(ctx context.Context) error {
			_, err := weftv1.NewClusterClient(way.Conn).CreateToken(ctx, &weftv1.CreateTokenRequest{})
			return err
		},
	} {
		if err := call(t.Context()); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAHostThatTakesNoCommands(t *testing.T) {
	way, _ := away(t, &fake{}, "beta")
	s := sandboxes(t, leads(way))
	const want = "host beta takes no commands from other hosts (weftd --refuse-forwarded): run it there"
	if _, err := s.StartSandbox(t.Context(), &weftv1.StartSandboxRequest{Ref: "c1"}); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
	st, err := s.Exec(t.Context())
	if err == nil {
		err = st.Send(&weftv1.StreamInput{Kind: &weftv1.StreamInput_Exec{Exec: &weftv1.ExecStart{Ref: "c1"}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
}

// An agent that is lost on the way is told from one that says that its store is out.
func TestAHostThatIsLostMeanwhile(t *testing.T) {
	p := newProcess()
	way, stop := away(t, &fake{stream: p}, "")
	s := sandboxes(t, leads(way))
	st, err := s.AttachSandbox(t.Context())
	if err == nil {
		err = st.Send(attachTo("c1"))
	}
	if err == nil {
		_, err = st.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	stop()
	for _, err := range []error{
		func() error { _, err := st.Recv(); return err }(),
		func() error {
			_, err := s.StartSandbox(t.Context(), &weftv1.StartSandboxRequest{Ref: "c1"})
			return err
		}(),
	} {
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "lost the agent of host beta") {
			t.Error(err)
		}
	}
}

func TestAHostOfAnOlderVersion(t *testing.T) {
	path := socket(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer() // which knows nothing
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	defer wg.Wait()
	defer s.Stop()
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = sandboxes(t, leads(api.Way{Conn: c, Host: "beta"})).StartSandbox(t.Context(), &weftv1.StartSandboxRequest{Ref: "c1"})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "the agent of host beta is of another version") {
		t.Error(err)
	}
}
