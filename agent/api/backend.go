// Package api serves the admin gRPC contract: it converts between proto messages and records, turns errors into status codes, and
// does nothing else. What the calls mean is the Backend's.
package api

import (
	"context"
	"net/netip"
	"syscall"
	"time"

	"weft/agent/doctor"
	"weft/agent/event"
	"weft/agent/registry"
	"weft/store"
	"weft/store/record"
)

// Backend is the agent as this package needs it.
type Backend interface {
	NetworkBackend
	SandboxBackend
	ClusterBackend
	StoreBackend
	ImportBackend
	Router
}

// NetworkBackend is what the Networks service calls.
type NetworkBackend interface {
	CreateNetwork(ctx context.Context, r NetworkRequest) (record.NetworkID, []string, error)
	// Networks lists all networks. With used, the endpoints of those that this host does not follow are read from the store.
	Networks(ctx context.Context, used bool) ([]NetworkView, error)
	Network(ctx context.Context, ref string) (NetworkView, error)
	RemoveNetwork(ctx context.Context, ref string) (*record.Network, error)
	Connect(ctx context.Context, target string, a AttachmentRequest) (record.EndpointID, error)
	Disconnect(ctx context.Context, network, target string, how Disconnection) error
}

// SandboxBackend is what the Sandboxes service calls.
type SandboxBackend interface {
	CreateSandbox(ctx context.Context, s *record.Sandbox, as []AttachmentRequest) (*record.Sandbox, error)
	StartSandbox(ctx context.Context, ref string) (*record.Sandbox, error)
	AttachSandbox(ctx context.Context, r AttachRequest) (Stream, error)
	Exec(ctx context.Context, r ExecRequest) (Stream, error)
	StopSandbox(ctx context.Context, ref string, how Stopping) (*record.Sandbox, error)
	RestartSandbox(ctx context.Context, ref string, how Stopping) (*record.Sandbox, error)
	RenameSandbox(ctx context.Context, ref, name string) (*record.Sandbox, error)
	// Logs gives what a sandbox has written to emit, until it returns an error. With r.Follow it lasts until the process ends.
	Logs(ctx context.Context, r LogsRequest, emit func(LogLine) error) error
	SignalSandbox(ctx context.Context, ref string, sig syscall.Signal) error
	WaitSandbox(ctx context.Context, ref string) (Exit, error)
	RemoveSandbox(ctx context.Context, ref string, force bool) (*record.Sandbox, error)
	Sandboxes(ctx context.Context) ([]SandboxView, error)
	Sandbox(ctx context.Context, ref string) (SandboxView, error)
}

// ClusterBackend is what the Cluster service calls.
type ClusterBackend interface {
	// Endpoints lists the endpoints of all networks, and in unknown the names of those that cannot be read now. With stale only those whose
	// sandbox or host is gone: their hosts are asked.
	Endpoints(ctx context.Context, stale bool) (views []EndpointView, unknown []string, err error)
	Hosts(ctx context.Context) ([]HostView, error)
	// Host shows one host, by a name, an ID or the only ID that begins so; "" is this one.
	Host(ctx context.Context, ref string) (HostDetail, error)
	// RemoveHost takes a host that is gone out of the cluster with all its records; with live also one that is alive.
	RemoveHost(ctx context.Context, ref string, live bool) (RemovedHost, error)
	// Events gives what has happened, and then what happens, to emit, until r.Until, the end of ctx or an error of emit, which it returns. Missed is the
	// number of events before e that the caller was too slow for.
	Events(ctx context.Context, r EventsRequest, emit func(e event.Event, missed uint64) error) error
	About(ctx context.Context) About
	// Doctor examines this host: tell hears what is being looked at, emit each check.
	Doctor(ctx context.Context, quick bool, tell func(what string), emit func(doctor.Check) error) error
	WaitApplied(ctx context.Context, partition string, rev store.Rev) error
	CreateToken(ctx context.Context, ttl time.Duration) (TokenView, error)
}

// NetworkRequest is a network create as the user put it.
type NetworkRequest struct {
	Spec       registry.NetworkSpec
	Ingress    bool
	ConfigOnly bool
	ConfigFrom string
	IPAMDriver string
	Scope      string
	Attachable bool // every network is
}

// AttachmentRequest is what a sandbox asks of one network.
type AttachmentRequest struct {
	Network    string // reference
	IP, IP6    string
	MAC        string
	Aliases    []string
	VIPAliases []string // of Aliases, those with a virtual address
	Links      []record.Link
	DriverOpts map[string]string
	GwPriority int
}

// NetworkView is a network with what is known of its endpoints.
type NetworkView struct {
	*record.Network
	Builtin   bool // pre-defined: bridge, host or none
	Known     bool // false: this host does not follow the network, and the store is away
	Used      bool // by a sandbox of this host that may have no endpoint in it yet
	Endpoints []EndpointView
	Peers     []HostView
	VIPs      []VIPView
}

// VIPView is the virtual address of an alias, with the names of those members that answer.
type VIPView struct {
	*record.VIP
	Members []string
}

// EndpointView is an endpoint with the names around it.
type EndpointView struct {
	*record.Endpoint
	Network  *record.Network
	HostName string
	State    string // running, stopped, lost, detached, unknown
	Stale    string // why its record is stale; "": it is not, or nobody has looked
}

// Pool returns the pool that holds a, or the zero Pool.
func (v EndpointView) Pool(a netip.Addr) record.Pool {
	if v.Network != nil {
		for _, p := range v.Network.Pools {
			if p.Subnet.Contains(a) {
				return p
			}
		}
	}
	return record.Pool{}
}

// Bits is the prefix length that goes with a: its pool's, or where that is not known its own.
func (v EndpointView) Bits(a netip.Addr) int {
	if p := v.Pool(a); p.Subnet.IsValid() {
		return p.Subnet.Bits()
	}
	return a.BitLen()
}

// HostView is a host with its state as this host sees it.
type HostView struct {
	*record.Host
	State string // alive, detached, lost, unknown
	Self  bool
	Notes []string
}

// HostDetail is a host with all that can be found out about it.
type HostDetail struct {
	HostView
	Paths       []PathView
	Endpoints   []EndpointView
	Unknown     []string // names of networks whose endpoints cannot be known now
	Certificate string   // whose it is and until when it is good, in words; or why it is not known
}

// PathView is how a host reaches another, as far as it knows.
type PathView struct {
	Host  record.HostID
	Name  string
	State string        // ok, no-agent, no-tunnel, black-hole, unknown
	RTT   time.Duration // through the tunnel; 0: not known
	MTU   int           // that passes the tunnel, inner; 0: not known
	Why   string
	Age   time.Duration // of this knowledge
}

// RemovedHost is a host that was taken out of the cluster.
type RemovedHost struct {
	ID        record.HostID
	Name      string
	Endpoints int // that were cleared
}

// EventsRequest says which events are wanted.
type EventsRequest struct {
	Since time.Time // zero: from now on
	Until time.Time // zero: without end
}

// SandboxView is a sandbox with its endpoints, in the order of its attachments. An attachment of a stopped sandbox may have none.
type SandboxView struct {
	*record.Sandbox
	Host      *record.Host
	NetnsPath string
	LogPath   string
	Endpoints []*EndpointView
	Networks  []*record.Network // of the attachments, nil where it is gone
}

// About is what the agent tells of itself.
type About struct {
	Version      string
	HostID       record.HostID
	ClusterID    string
	Store        string // scheme and endpoints, without secrets
	StoreErr     error  // nil: it answers
	StoreBackend string
}

// Stopping says how a process is to be stopped.
type Stopping struct {
	Signal  syscall.Signal // 0: the sandbox's own
	Timeout *time.Duration // before SIGKILL; nil: the sandbox's own; negative: without end
}

// LogsRequest asks for a sandbox's log.
type LogsRequest struct {
	Ref          string
	Follow       bool
	Tail         int64     // the last so many lines; negative: all
	Since, Until time.Time // zero: without bound
}

// LogLine is one line that a sandbox wrote, with its end; a part of one where it is very long, or the process ended before the line did.
type LogLine struct {
	Data   []byte
	Stderr bool
	Time   time.Time
}

// AttachRequest asks for a sandbox's streams.
type AttachRequest struct {
	Ref   string
	Stdin bool
	Start bool // start it once the streams are there, so that no output is missed
	Size  Size
}

// ExecRequest asks for one more process in a sandbox.
type ExecRequest struct {
	Ref     string
	Command []string
	Env     []string
	User    string
	Workdir string
	TTY     bool
	Stdin   bool
	Size    Size
}

// Size is a terminal's, in characters; zero where there is none.
type Size struct{ Rows, Columns uint16 }

// Exit is how a process ended.
type Exit struct {
	Code  int
	Error string
}

// Output is one piece of what a process wrote, or, last, its exit.
type Output struct {
	Data   []byte
	Stderr bool
	Exit   *Exit
}

// Stream is a process's standard streams. Recv ends with io.EOF after the exit. Close leaves the process alone, and ends the Recv and the
// Write that are under way.
type Stream interface {
	Recv() (Output, error)
	Write(p []byte) (int, error)
	CloseStdin() error
	Resize(Size) error
	Signal(syscall.Signal) error
	Close() error
}

// Disconnection says what a disconnect may do beside taking a sandbox of this host out of a network.
type Disconnection struct {
	Force bool // also clear what a host that is gone has in the network
	Live  bool // with Force: also what a host that is alive has
}

// TokenView is a word that lets a host join, and where it does.
type TokenView struct {
	Token   string
	Expires time.Time
	Join    string // HOST:PORT
}
