package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is an agent that answers from fixtures, keeps what it was asked, and refuses what it is told to.
type fake struct {
	weftv1.UnimplementedNetworksServer
	weftv1.UnimplementedSandboxesServer
	weftv1.UnimplementedClusterServer
	fakeStores
	fakeImport
	fakeDoctor

	networks  []*weftv1.Network
	endpoints []*weftv1.Endpoint
	sandboxes []*weftv1.Sandbox
	hosts     []*weftv1.Host
	events    []*weftv1.Event
	lines     []*weftv1.LogsResponse
	unknown   bool                                                         // what others have is not known: the store is away
	refuse    map[string]error                                             // by the reference or name in a request
	attach    func(*weftv1.AttachStart, serverStream) error                // after the first message
	exec      func(*weftv1.ExecStart, serverStream) error                  // after the first message
	inspect   func(*weftv1.InspectSandboxRequest) (*weftv1.Sandbox, error) // nil: from sandboxes
	hang      func(context.Context)                                        // before CreateSandbox answers
	mu        sync.Mutex                                                   // guards asked
	asked     []proto.Message
}

type serverStream = grpc.BidiStreamingServer[weftv1.StreamInput, weftv1.StreamOutput]

const (
	webID  = "aaaaaaaaaaaa1111111111111111111111111111111111111111111111111111"
	boxID  = "bbbbbbbbbbbb2222222222222222222222222222222222222222222222222222"
	hostID = "cccccccccccc3333333333333333333333333333333333333333333333333333"
	endID  = "dddddddddddd4444444444444444444444444444444444444444444444444444"
	oldID  = "eeeeeeeeeeee5555555555555555555555555555555555555555555555555555"
)

var created = timestamppb.New(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC))

func newFake() *fake {
	web := &weftv1.Network{
		Id: webID, Name: "web", Driver: "overlay", Scope: "global", Created: created, EnableIpv4: true, Attachable: true, IpamDriver: "default",
		Labels: map[string]string{"com.example.owner": "ann", "tier": "1"}, Vni: 4100, Mtu: 1450, State: "active",
		Pools: []*weftv1.Pool{{Subnet: "10.5.0.0/24", Gateway: "10.5.0.1", IpRange: "10.5.0.128/25", AuxAddresses: map[string]string{"r": "10.5.0.2"}}},
	}
	bridge := &weftv1.Network{Id: oldID, Name: "bridge", Driver: "bridge", Scope: "local", Created: created, Builtin: true, IpamDriver: "default"}
	e := &weftv1.Endpoint{
		Id: endID, NetworkId: webID, NetworkName: "web", HostId: hostID, Host: "h1", SandboxId: boxID, Name: "c1", Aliases: []string{"db"},
		Addresses: []string{"10.5.0.129/24", "fd00::9/64"}, MacAddress: "02:00:00:00:00:09", Running: true, State: "running", Gateway: "10.5.0.1",
	}
	stopped := &weftv1.Endpoint{Id: oldID, NetworkId: webID, HostId: hostID, SandboxId: oldID, Name: "c2", Addresses: []string{"10.5.0.130/24"}, State: "stopped"}
	return &fake{
		networks: []*weftv1.Network{bridge, web}, endpoints: []*weftv1.Endpoint{e, stopped},
		hosts: []*weftv1.Host{
			{Id: hostID, Name: "h1", Advertise: "192.0.2.1:2377", Vtep: "192.0.2.1", State: "alive", Version: "1.2", Self: true, Mtu: 1500, Started: created},
			{Id: oldID, Name: "h2", Advertise: "192.0.2.2:2377", Vtep: "192.0.2.2", State: "lost", Version: "1.1", Notes: []string{"the cluster store is not reachable"}},
		},
		sandboxes: []*weftv1.Sandbox{{
			Id: boxID, Name: "c1", Created: created, Started: created, Status: "running", Pid: 42, Command: []string{"sleep", "1000000000000"},
			Hostname: "c1host", Env: []string{"A=1"}, User: "nobody", Workdir: "/srv", NetnsPath: "/run/weft/netns/b", Host: "h1", Dns: []string{"9.9.9.9"},
			Labels: map[string]string{"tier": "1"}, LogPath: "/var/log/x",
			Endpoints: []*weftv1.EndpointSettings{{
				Requested: &weftv1.Attachment{Network: webID, Ip: "10.5.0.129", Aliases: []string{"db"}, Links: []*weftv1.Link{{Target: "x", Alias: "y"}}},
				Endpoint:  e, Gateway: "10.5.0.1", PrefixLen: 24,
			}},
		}},
		refuse: map[string]error{},
		events: []*weftv1.Event{
			{Time: created, Type: "network", Action: "connect", Id: webID, Attributes: map[string]string{"name": "web", "container": boxID, "host": hostID}},
			{Time: timestamppb.New(created.AsTime().Add(time.Millisecond)), Type: "container", Action: "die", Id: boxID, Attributes: map[string]string{"name": "c1", "note": "a\nb"}},
			{Time: created, Type: "events", Action: "missed"},
		},
		lines: []*weftv1.LogsResponse{
			{Data: []byte("one\n"), Time: created}, {Data: []byte("bad\n"), Stderr: true, Time: created}, {Data: []byte("no "), Time: created}, {Data: []byte("end"), Time: created},
		},
	}
}

func (f *fake) note(m proto.Message, ref string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, proto.Clone(m))
	return f.refuse[ref]
}

// last finds the last request of m's type.
func last[M proto.Message](t *testing.T, f *fake) M {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.asked) - 1; i >= 0; i-- {
		if m, ok := f.asked[i].(M); ok {
			return m
		}
	}
	var zero M
	t.Fatalf("the agent was not asked for a %T; it was asked %v", zero, f.asked)
	return zero
}

func (f *fake) count(is func(proto.Message) bool) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.asked {
		if is(m) {
			n++
		}
	}
	return n
}

func (f *fake) CreateNetwork(_ context.Context, r *weftv1.CreateNetworkRequest) (*weftv1.CreateNetworkResponse, error) {
	return &weftv1.CreateNetworkResponse{Id: webID, Warnings: strings.Fields(r.Labels["warn"])}, f.note(r, r.Name)
}
func (f *fake) ListNetworks(_ context.Context, r *weftv1.ListNetworksRequest) (*weftv1.ListNetworksResponse, error) {
	return &weftv1.ListNetworksResponse{Networks: f.networks}, f.note(r, "list")
}
func (f *fake) InspectNetwork(_ context.Context, r *weftv1.InspectNetworkRequest) (*weftv1.InspectNetworkResponse, error) {
	if err := f.note(r, r.Ref); err != nil {
		return nil, err
	}
	for _, n := range f.networks {
		if n.Name == r.Ref {
			out := &weftv1.InspectNetworkResponse{Network: n, EndpointsUnknown: f.unknown}
			if n.Name == "web" {
				out.Endpoints, out.Peers = f.endpoints, f.hosts[:1]
			}
			return out, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "network %s not found", r.Ref)
}
func (f *fake) RemoveNetwork(_ context.Context, r *weftv1.RemoveNetworkRequest) (*weftv1.RemoveNetworkResponse, error) {
	return &weftv1.RemoveNetworkResponse{}, f.note(r, r.Ref)
}
func (f *fake) Connect(_ context.Context, r *weftv1.ConnectRequest) (*weftv1.ConnectResponse, error) {
	return &weftv1.ConnectResponse{EndpointId: endID}, f.note(r, r.Target)
}
func (f *fake) Disconnect(_ context.Context, r *weftv1.DisconnectRequest) (*weftv1.DisconnectResponse, error) {
	return &weftv1.DisconnectResponse{}, f.note(r, r.Target)
}

func (f *fake) CreateSandbox(ctx context.Context, r *weftv1.CreateSandboxRequest) (*weftv1.CreateSandboxResponse, error) {
	err := f.note(r, r.Name)
	if f.hang != nil {
		f.hang(ctx)
	}
	return &weftv1.CreateSandboxResponse{Id: boxID, Name: r.Name}, err
}
func (f *fake) StartSandbox(_ context.Context, r *weftv1.StartSandboxRequest) (*weftv1.StartSandboxResponse, error) {
	return &weftv1.StartSandboxResponse{}, f.note(r, r.Ref)
}
func (f *fake) StopSandbox(_ context.Context, r *weftv1.StopSandboxRequest) (*weftv1.StopSandboxResponse, error) {
	return &weftv1.StopSandboxResponse{}, f.note(r, r.Ref)
}
func (f *fake) SignalSandbox(_ context.Context, r *weftv1.SignalSandboxRequest) (*weftv1.SignalSandboxResponse, error) {
	return &weftv1.SignalSandboxResponse{}, f.note(r, r.Ref)
}
func (f *fake) WaitSandbox(_ context.Context, r *weftv1.WaitSandboxRequest) (*weftv1.WaitSandboxResponse, error) {
	return &weftv1.WaitSandboxResponse{Exit: &weftv1.Exit{Code: 3}}, f.note(r, r.Ref)
}
func (f *fake) RemoveSandbox(_ context.Context, r *weftv1.RemoveSandboxRequest) (*weftv1.RemoveSandboxResponse, error) {
	return &weftv1.RemoveSandboxResponse{}, f.note(r, "rm "+r.Ref)
}
func (f *fake) ListSandboxes(_ context.Context, r *weftv1.ListSandboxesRequest) (*weftv1.ListSandboxesResponse, error) {
	return &weftv1.ListSandboxesResponse{Sandboxes: f.sandboxes}, f.note(r, "list")
}
func (f *fake) InspectSandbox(_ context.Context, r *weftv1.InspectSandboxRequest) (*weftv1.InspectSandboxResponse, error) {
	if err := f.note(r, r.Ref); err != nil {
		return nil, err
	}
	if f.inspect != nil {
		s, err := f.inspect(r)
		return &weftv1.InspectSandboxResponse{Sandbox: s}, err
	}
	for _, s := range f.sandboxes {
		if s.Name == r.Ref || s.Id == r.Ref {
			return &weftv1.InspectSandboxResponse{Sandbox: s}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no such sandbox: %s", r.Ref)
}
func (f *fake) RestartSandbox(_ context.Context, r *weftv1.RestartSandboxRequest) (*weftv1.RestartSandboxResponse, error) {
	return &weftv1.RestartSandboxResponse{}, f.note(r, r.Ref)
}
func (f *fake) RenameSandbox(_ context.Context, r *weftv1.RenameSandboxRequest) (*weftv1.RenameSandboxResponse, error) {
	return &weftv1.RenameSandboxResponse{}, f.note(r, r.Ref)
}
func (f *fake) Logs(r *weftv1.LogsRequest, s grpc.ServerStreamingServer[weftv1.LogsResponse]) error {
	if err := f.note(r, r.Ref); err != nil {
		return err
	}
	for _, l := range f.lines {
		if err := s.Send(l); err != nil {
			return err
		}
	}
	return nil
}
func (f *fake) AttachSandbox(s serverStream) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	if err := f.note(first, "attach"); err != nil {
		return err
	}
	return f.attach(first.GetAttach(), s)
}
func (f *fake) Exec(s serverStream) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	if err := f.note(first, first.GetExec().GetRef()); err != nil {
		return err
	}
	return f.exec(first.GetExec(), s)
}

func (f *fake) ListEndpoints(_ context.Context, r *weftv1.ListEndpointsRequest) (*weftv1.ListEndpointsResponse, error) {
	out := &weftv1.ListEndpointsResponse{Endpoints: f.endpoints}
	if r.Stale {
		gone := proto.CloneOf(f.endpoints[1])
		gone.Stale = "host lost for 3m0s"
		out.Endpoints = []*weftv1.Endpoint{gone}
	}
	if f.unknown {
		out.UnknownNetworks = []string{"web", "db"}
	}
	return out, f.note(r, "list")
}
func (f *fake) ListHosts(_ context.Context, r *weftv1.ListHostsRequest) (*weftv1.ListHostsResponse, error) {
	return &weftv1.ListHostsResponse{Hosts: f.hosts}, f.note(r, "list")
}
func (f *fake) InspectHost(_ context.Context, r *weftv1.InspectHostRequest) (*weftv1.InspectHostResponse, error) {
	if err := f.note(r, r.Ref); err != nil {
		return nil, err
	}
	for _, h := range f.hosts {
		if h.Name != r.Ref && (r.Ref != "" || !h.Self) {
			continue
		}
		out := &weftv1.InspectHostResponse{Host: h, Routes: []string{"192.0.2.0/24 via eth0"}, Certificate: "good until 2027-03-04"}
		if h.Self {
			out.Paths = []*weftv1.Path{{
				HostId: oldID, Host: "h2", State: "ok", Rtt: durationpb.New(1500 * time.Microsecond), Mtu: 1450, Age: durationpb.New(3200 * time.Millisecond),
			}}
			out.Endpoints = f.endpoints[:1]
		} else {
			out.UnknownNetworks = []string{"web"}
		}
		return out, nil
	}
	return nil, status.Errorf(codes.NotFound, "no such host: %s", r.Ref)
}
func (f *fake) CreateToken(_ context.Context, r *weftv1.CreateTokenRequest) (*weftv1.CreateTokenResponse, error) {
	token := "weft1.for-" + r.Ttl.AsDuration().String()
	join := "192.0.2.11:2376"
	if r.Ttl.AsDuration() < time.Hour {
		join = "192.0.2.11:2377"
	}
	return &weftv1.CreateTokenResponse{Token: token, Join: join, Expires: timestamppb.New(time.Unix(1767225600, 0).Add(r.Ttl.AsDuration()))}, f.note(r, "token")
}
func (f *fake) RemoveHost(_ context.Context, r *weftv1.RemoveHostRequest) (*weftv1.RemoveHostResponse, error) {
	return &weftv1.RemoveHostResponse{Id: oldID, Name: r.Ref, Endpoints: 2}, f.note(r, r.Ref)
}
func (f *fake) Events(r *weftv1.EventsRequest, s grpc.ServerStreamingServer[weftv1.Event]) error {
	for _, q := range r.Filters {
		if q.Key == "bad" {
			return status.Error(codes.InvalidArgument, "invalid filter 'bad'")
		}
	}
	if err := errors.Join(f.note(r, "events"), s.SendHeader(nil)); err != nil {
		return err
	}
	for _, e := range f.events {
		if err := s.Send(e); err != nil {
			return err
		}
	}
	if r.Until == nil {
		<-s.Context().Done()
	}
	return nil
}
func (f *fake) Version(_ context.Context, r *weftv1.VersionRequest) (*weftv1.VersionResponse, error) {
	return &weftv1.VersionResponse{
		Version: "9.9", ApiVersion: "1.0", GoVersion: "go1", OsArch: "linux/x", HostId: hostID, ClusterId: "k", Store: "etcd://e:2379", StoreError: "refused",
	}, f.note(r, "version")
}

// serve puts f on the socket until stop is called, or the test ends. stop cuts calls off as a SIGKILL would.
func (f *fake) serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	weftv1.RegisterNetworksServer(s, f)
	weftv1.RegisterSandboxesServer(s, f)
	weftv1.RegisterClusterServer(s, f)
	weftv1.RegisterStoresServer(s, f)
	weftv1.RegisterImportServer(s, f)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stop = sync.OnceFunc(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// shell runs command lines against one socket.
type shell struct {
	t    *testing.T
	path string
	env  map[string]string
	in   io.Reader
	give time.Duration
}

func newShell(t *testing.T) *shell {
	return &shell{t: t, path: filepath.Join(t.TempDir(), "weftd.sock"), env: map[string]string{}, in: strings.NewReader(""), give: 10 * time.Second}
}

type result struct {
	out, err string
	code     int
}

func (s *shell) run(args ...string) result {
	s.t.Helper()
	var out, errs syncBuffer
	return s.runTo(&out, &errs, args...)
}

func (s *shell) runTo(out, errs *syncBuffer, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	s.env["WEFT_HOST"] = "unix://" + s.path
	c := &cli{give: s.give, env: Environment{In: s.in, Out: out, Err: errs, Lookup: func(k string) (string, bool) { v, ok := s.env[k]; return v, ok }}}
	code := c.run(ctx, args)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.t.Errorf("weft %s did not end", strings.Join(args, " "))
	}
	return result{out.String(), errs.String(), code}
}

// syncBuffer may be read while it is written to.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually polls until what holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("in vain waited for: %s", what)
		case <-tick.C:
		}
	}
}

func tempFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
