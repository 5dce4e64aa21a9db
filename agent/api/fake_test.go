package api_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weft/agent/api"
	weftv1 "weft/proto/weft/v1"
	"weft/store"
	"weft/store/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a backend that remembers what it was asked and answers what the test has put into it. What it does not have panics.
type fake struct {
	api.Backend
	err       error
	asked     any
	networks  []api.NetworkView
	sandboxes []api.SandboxView
	endpoints []api.EndpointView
	unknown   []string
	hosts     []api.HostView
	about     api.About
	store     api.StoreStatus
	stream    api.Stream
	lines     []api.LogLine
	route     func(ref string) (api.Way, error) // nil: everything is here
	block     bool                              // WaitSandbox waits for its context
}

type (
	connected    struct{ target, network string }
	disconnected struct {
		network, target string
		how             api.Disconnection
	}
	stopped struct {
		ref     string
		signal  syscall.Signal
		timeout *time.Duration
	}
	renamed struct{ ref, name string }
	removed struct {
		ref   string
		force bool
	}
	created struct {
		sandbox record.Sandbox
		as      []api.AttachmentRequest
	}
	awaited struct {
		partition string
		rev       store.Rev
	}
)

func (f *fake) CreateNetwork(_ context.Context, r api.NetworkRequest) (record.NetworkID, []string, error) {
	f.asked = r
	return "n1", []string{"careful"}, f.err
}
func (f *fake) Route(_ context.Context, ref string) (api.Way, error) {
	if f.route != nil {
		return f.route(ref)
	}
	return api.Way{Ref: ref}, nil
}
func (f *fake) Networks(context.Context, bool) ([]api.NetworkView, error) { return f.networks, f.err }
func (f *fake) Network(_ context.Context, ref string) (api.NetworkView, error) {
	f.asked = ref
	if f.err != nil {
		return api.NetworkView{}, f.err
	}
	return f.networks[0], nil
}
func (f *fake) RemoveNetwork(_ context.Context, ref string) (*record.Network, error) {
	f.asked = ref
	return &record.Network{ID: "n1", Name: "front"}, f.err
}
func (f *fake) Connect(_ context.Context, target string, a api.AttachmentRequest) (record.EndpointID, error) {
	f.asked = connected{target, a.Network}
	return "e1", f.err
}
func (f *fake) Disconnect(_ context.Context, network, target string, how api.Disconnection) error {
	f.asked = disconnected{network, target, how}
	return f.err
}
func (f *fake) CreateSandbox(_ context.Context, s *record.Sandbox, as []api.AttachmentRequest) (*record.Sandbox, error) {
	f.asked = created{*s, as}
	return &record.Sandbox{ID: "s1", Name: "made-up"}, f.err
}
func (f *fake) StopSandbox(_ context.Context, ref string, how api.Stopping) (*record.Sandbox, error) {
	f.asked = stopped{ref, how.Signal, how.Timeout}
	return &record.Sandbox{ID: "s1", Name: "c1"}, f.err
}
func (f *fake) RestartSandbox(_ context.Context, ref string, how api.Stopping) (*record.Sandbox, error) {
	f.asked = stopped{ref, how.Signal, how.Timeout}
	return &record.Sandbox{ID: "s1", Name: "c1"}, f.err
}
func (f *fake) RenameSandbox(_ context.Context, ref, name string) (*record.Sandbox, error) {
	f.asked = renamed{ref, name}
	return &record.Sandbox{ID: "s1", Name: "c2"}, f.err
}
func (f *fake) Logs(_ context.Context, r api.LogsRequest, emit func(api.LogLine) error) error {
	f.asked = r
	for _, l := range f.lines {
		if err := emit(l); err != nil {
			return err
		}
	}
	return f.err
}
func (f *fake) StartSandbox(_ context.Context, ref string) (*record.Sandbox, error) {
	f.asked = ref
	return &record.Sandbox{ID: "s1", Name: "c1"}, f.err
}
func (f *fake) SignalSandbox(_ context.Context, ref string, sig syscall.Signal) error {
	f.asked = stopped{ref: ref, signal: sig}
	return f.err
}
func (f *fake) WaitSandbox(ctx context.Context, ref string) (api.Exit, error) {
	f.asked = ref
	if f.block {
		<-ctx.Done()
		return api.Exit{}, ctx.Err()
	}
	return api.Exit{Code: 137, Error: "killed"}, f.err
}
func (f *fake) RemoveSandbox(_ context.Context, ref string, force bool) (*record.Sandbox, error) {
	f.asked = removed{ref, force}
	return &record.Sandbox{ID: "s1", Name: "c1"}, f.err
}
func (f *fake) Sandboxes(context.Context) ([]api.SandboxView, error) { return f.sandboxes, f.err }
func (f *fake) Sandbox(_ context.Context, ref string) (api.SandboxView, error) {
	f.asked = ref
	return f.sandboxes[0], f.err
}
func (f *fake) Endpoints(_ context.Context, stale bool) ([]api.EndpointView, []string, error) {
	return f.endpoints, f.unknown, f.err
}
func (f *fake) Hosts(context.Context) ([]api.HostView, error) { return f.hosts, f.err }
func (f *fake) About(context.Context) api.About               { return f.about }
func (f *fake) WaitApplied(_ context.Context, partition string, rev store.Rev) error {
	f.asked = awaited{partition, rev}
	return f.err
}
func (f *fake) AttachSandbox(_ context.Context, r api.AttachRequest) (api.Stream, error) {
	f.asked = r
	return f.stream, f.err
}
func (f *fake) Exec(_ context.Context, r api.ExecRequest) (api.Stream, error) {
	f.asked = r
	return f.stream, f.err
}

// process is a process's streams: it writes what the test puts into output, and ends with exit.
type process struct {
	output chan api.Output
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	input   []any // []byte, "eof", api.Size, syscall.Signal
	deaf    bool  // takes no input any more
	panics  bool
	changed chan struct{}
}

func newProcess() *process {
	return &process{output: make(chan api.Output, 16), closed: make(chan struct{}), changed: make(chan struct{}, 64)}
}

// Recv ends with io.EOF after the exit, and with an error when the stream is closed, as a connection's does.
func (p *process) Recv() (api.Output, error) {
	select {
	case o, ok := <-p.output:
		if !ok {
			return api.Output{}, io.EOF
		}
		return o, nil
	case <-p.closed:
		return api.Output{}, net.ErrClosed
	}
}

func (p *process) note(what any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.panics {
		panic("no such thing")
	}
	if p.deaf {
		return io.ErrClosedPipe
	}
	p.input = append(p.input, what)
	p.changed <- struct{}{}
	return nil
}

func (p *process) Write(b []byte) (int, error)   { return len(b), p.note(append([]byte(nil), b...)) }
func (p *process) CloseStdin() error             { return p.note("eof") }
func (p *process) Resize(s api.Size) error       { return p.note(s) }
func (p *process) Signal(s syscall.Signal) error { return p.note(s) }
func (p *process) Close() error {
	err := errors.New("closed twice")
	p.once.Do(func() { close(p.closed); err = nil })
	return err
}

// client serves the backend on a socket, until the test ends, and returns a connection.
func client(t *testing.T, b api.Backend) *grpc.ClientConn {
	t.Helper()
	c, _ := serve(t, b)
	return c
}

func serve(t *testing.T, b api.Backend) (c *grpc.ClientConn, stop func()) {
	t.Helper()
	path := socket(t)
	l, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := api.Serve(ctx, l, b, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	c, err = grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, stop
}

// socket is a path short enough for a socket, whatever the test's name.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-api-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func networks(t *testing.T, b api.Backend) weftv1.NetworksClient {
	t.Helper()
	return weftv1.NewNetworksClient(client(t, b))
}

func sandboxes(t *testing.T, b api.Backend) weftv1.SandboxesClient {
	t.Helper()
	return weftv1.NewSandboxesClient(client(t, b))
}
