package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/agent/probe"
	"weft/agent/sandbox"
	"weft/dnssvc"
	"weft/firewalld"
	"weft/identity"
	"weft/kernel"
	"weft/store"
	"weft/store/local"
	"weft/store/open"
)

// machine is what an agent finds around it, and all that a simulation exchanges beside the peers. Run brings this host's own.
type machine struct {
	clock     Clock
	kernel    host
	bootID    func() (string, error) // another one after each boot
	disk      func(path string) (store.Store, error)
	journal   func(disk store.Store, dir string) *journal.Journal
	sandboxes func(sandbox.Config) (runner, error)
	names     func(dnssvc.Config) names
	sockets   func(*slog.Logger) *fdStore // what keeps the sockets of names beyond this process; nil, and a nil one: nothing does
	firewall  func(firewalld.Config) firewall
	keeper    func(Config, *slog.Logger) (*identity.Keeper, error) // nil: the host has no certificate and gets none
	store     func(place, *slog.Logger) (store.Store, error)       // a client; it does not wait for an answer
	listen    func(socket string) (net.Listener, error)
	peers     func(address string) (net.Listener, error)        // for other agents
	serve     func(context.Context, net.Listener, *Agent) error // until the context ends
	probes    func(probe.Config) prober                         // nil: no tunnel can be probed
}

// thisMachine is the real one.
func thisMachine(k *kernel.Kernel) machine {
	return machine{
		clock: machineClock{}, kernel: k, bootID: bootID,
		disk:      func(path string) (store.Store, error) { return local.Open(path) },
		journal:   journal.New,
		sandboxes: func(cfg sandbox.Config) (runner, error) { return sandbox.New(cfg) },
		names:     func(cfg dnssvc.Config) names { return dnssvc.New(cfg) },
		sockets:   openFDStore,
		firewall:  func(cfg firewalld.Config) firewall { return firewalld.New(cfg) },
		keeper:    openKeeper,
		store: func(p place, log *slog.Logger) (store.Store, error) {
			return open.Open(p.url, p.opts, open.Options{Log: log, Certificate: p.cert})
		},
		listen: api.Listen,
		peers:  func(address string) (net.Listener, error) { return net.Listen("tcp", address) },
		probes: func(cfg probe.Config) prober { return probe.New(cfg) },
		serve:  func(ctx context.Context, l net.Listener, a *Agent) error { return api.Serve(ctx, l, a, a.log) },
	}
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// host is a kernel with what an agent asks it of this host's own.
type host interface {
	kernel.Executor
	Watch(ctx context.Context, changes chan<- []kernel.Change) error
	Underlay(addr netip.Addr) (link string, mtu int, err error)
	ResolveAdvertise(where string) (netip.Addr, error)
	Routes() ([]kernel.HostRoute, error)
	HostLink(name string) (l kernel.HostLink, taken bool, err error)
	HasTable(ctx context.Context, link string) (bool, error)
	ForeignVXLANs(ctx context.Context) ([]kernel.ForeignVXLAN, error)
	Obstacles(ctx context.Context, mark uint32, six bool) ([]string, error)
	FlushUDP(fs []kernel.UDPForward) error
}

// runner has the namespaces and processes of this host's sandboxes: package sandbox.
type runner interface {
	Recover(ctx context.Context, known []string, adopted ...string) (map[string]bool, error)
	Create(ctx context.Context, id string, hostNetwork bool) error
	Adopt(ctx context.Context, id, from string) error
	Start(ctx context.Context, id string, spec sandbox.Spec) error
	Publish(ctx context.Context, id string, want []sandbox.Forward) error
	Stop(ctx context.Context, id string, sig syscall.Signal, timeout time.Duration) error
	Signal(ctx context.Context, id string, sig syscall.Signal) error
	Wait(ctx context.Context, id string) (sandbox.Exit, error)
	LastExit(id string) (sandbox.Exit, bool)
	Exited() <-chan string
	Remove(ctx context.Context, id string, state bool) error
	Attach(ctx context.Context, id string) (*sandbox.Stream, error)
	Exec(ctx context.Context, id string, spec sandbox.Spec) (*sandbox.Stream, error)
	ReadLog(ctx context.Context, id string, o sandbox.LogOptions, emit func(sandbox.LogLine) error) error
	SetHosts(id, content string) error
	SetResolv(id, content string) error
	NetnsPath(id string) string
	LogPath(id string) string
	PID(id string) int
	Close()
}

// names answers names in sandboxes: package dnssvc.
type names interface {
	Set(ctx context.Context, sb dnssvc.Sandbox) error
	Remove(id string)
	Close()
}

// firewall keeps links open in the host's own firewall: package firewalld.
type firewall interface {
	Keep(links []string)
	Look()
	Note() string
	Run(ctx context.Context)
}

// prober probes the tunnels to other hosts: package probe.
type prober interface {
	Run(ctx context.Context)
	Look()
	Path(host string) probe.Path
	Ask(ctx context.Context, host string, size int, full bool, wait time.Duration) (time.Duration, error)
	Sizes(ctx context.Context, host string) (probe.Sizes, error)
	Checksums(ctx context.Context, host string) (probe.Checksums, error)
	Reaches(ctx context.Context, t probe.Through, wait time.Duration) error
}

// Clock is the time that the agent decides by: a simulation brings its own. Only spans are compared, never two hosts' times.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// machineClock is the real one. Its times carry the monotonic reading: a jump of the wall clock changes no span.
type machineClock struct{}

func (machineClock) Now() time.Time                         { return time.Now() }
func (machineClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
