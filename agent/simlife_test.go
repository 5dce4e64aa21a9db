//go:build !race

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"weft/agent/journal"
	"weft/agent/sandbox"
	"weft/dnssvc"
	"weft/firewalld"
	"weft/kernel"
	"weft/kernel/fake"
	"weft/overlay"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// simHost is a machine: what outlives its agents. Its disk and its kernel are in memory, its processes end on demand.
type simHost struct {
	world *simWorld
	name  string
	addr  netip.Addr

	jump     atomic.Int64 // of the wall clock, in nanoseconds
	watchLag atomic.Int64 // of what the store tells
	hang     atomic.Bool  // calls of the store neither succeed nor fail
	lives    int
	joined   bool // it has been in the cluster; the driver's alone

	mu     sync.Mutex // guards what follows
	boots  int
	kernel *fake.Kernel
	boxes  map[string]*simBox
	disks  map[string]*memory.World
	files  map[string][]byte
	life   *simLife // nil: no agent
}

// simLife is an agent from its start to its end. A killed one does nothing any more: all that it writes goes through its gate.
type simLife struct {
	host   *simHost
	number int
	agent  *Agent
	client *memory.Client
	names  *simNames
	exited chan string
	ctx    context.Context // of its calls, too
	cancel context.CancelFunc
	up     chan struct{} // closed when it answers
	done   chan struct{} // closed when nothing of it is left
	born   time.Time

	turns atomic.Uint64 // of lag

	calls sync.WaitGroup // Add only under gate, and while it lives
	gate  sync.Mutex     // guards what follows; held through each write, so that a death is between two
	dead  bool
	asked bool            // it was told to end
	fuse  int             // so many writes from now it dies; 0: it does not
	told  map[string]bool // the partitions that the store has told it of
	err   error           // why it ended by itself
}

var errDead = errors.New("the agent was killed")

// write does f unless the agent is dead.
func (l *simLife) write(f func()) error {
	l.gate.Lock()
	defer l.gate.Unlock()
	if l.dead {
		return errDead
	}
	f()
	if l.fuse > 0 {
		if l.fuse--; l.fuse == 0 {
			l.dead = true
			l.cancel()
			return errDead // it was done, and nobody heard
		}
	}
	return nil
}

// kill ends an agent between two of its writes, and waits until nothing of it is left.
func (l *simLife) kill() {
	l.gate.Lock()
	l.dead = true
	l.gate.Unlock()
	l.stop()
}

func (l *simLife) stop() {
	l.gate.Lock()
	l.asked = true
	l.gate.Unlock()
	l.cancel()
	<-l.done
}

// enter begins a call of the agent, unless it has ended.
func (l *simLife) enter() bool {
	l.gate.Lock()
	defer l.gate.Unlock()
	if l.dead || l.ctx.Err() != nil {
		return false
	}
	l.calls.Add(1)
	return true
}

// lag is how long the next step takes: pseudo-random, and the same for the same seed.
func (l *simLife) lag(most time.Duration) time.Duration {
	h := l.host.world.seed ^ uint64(l.number)<<48 ^ uint64(l.host.addr.As4()[3])<<40 ^ l.turns.Add(1)
	h *= 0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	return time.Duration(h % uint64(most))
}

// sleep waits for a while, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start begins a life. The agent is whole: newAgent and live are those of Run.
func (h *simHost) start() *simLife {
	h.lives++
	l := &simLife{
		host: h, number: h.lives, client: h.world.store.Client(), exited: make(chan string, 64), up: make(chan struct{}), done: make(chan struct{}),
		born: time.Now(), told: map[string]bool{},
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.client.Cut(h.world.isCut(h))
	cfg := Config{
		ClusterStore: "etcd://sim:2379/weft", Advertise: h.addr.String(), StateDir: filepath.Join(h.world.dir, h.name, "state"),
		RunDir: filepath.Join(h.world.dir, h.name, "run"), Socket: "sim", VXLANPort: 4789, HostName: h.name, StaleGrace: simGrace,
		StoreOpts: map[string]string{"discovery.ttl": "9", "discovery.heartbeat": "3"},
	}
	m := l.machine()
	if mutate := h.world.mutation.machine; mutate != nil {
		mutate(&m)
	}
	l.agent = newAgent(cfg, h.world.log.With("host", h.name, "life", l.number), m)
	l.agent.peers = simPeers{l}
	if mutate := h.world.mutation.life; mutate != nil {
		mutate(l.agent)
	}
	h.mu.Lock()
	h.life = l
	h.mu.Unlock()
	go func() {
		defer close(l.done)
		err := l.agent.live(l.ctx)
		h.mu.Lock()
		if h.life == l {
			h.life = nil
		}
		h.mu.Unlock()
		l.gate.Lock()
		defer l.gate.Unlock()
		if l.err = err; err != nil && !l.dead && !l.asked {
			h.world.violated("the agent of %s has ended: %v", h.name, err)
		}
		l.cancel()
		_ = l.client.Close()
	}()
	go func() {
		<-l.ctx.Done()
		l.client.Cut(true) // a session is not renewed any more
	}()
	return l
}

func (l *simLife) machine() machine {
	return machine{
		clock: simClock{l.host}, kernel: simKernel{l}, bootID: l.host.bootID,
		disk: func(path string) (store.Store, error) {
			return simDisk{l.host.disk(filepath.Base(path)).Client(), l}, nil
		},
		journal:   func(disk store.Store, dir string) *journal.Journal { return journal.Over(disk, dir, simFiles{l}) },
		sandboxes: func(sandbox.Config) (runner, error) { return simRunner{l}, nil },
		names: func(cfg dnssvc.Config) names {
			l.names = &simNames{cfg: cfg, boxes: map[string]dnssvc.Sandbox{}}
			return l.names
		},
		peers:    func(string) (net.Listener, error) { return noListener{}, nil },
		firewall: func(firewalld.Config) firewall { return noFirewall{} },
		store:    func(place, *slog.Logger) (store.Store, error) { return simStore{l.client, l}, nil },
		listen:   func(string) (net.Listener, error) { return noListener{}, nil },
		serve: func(ctx context.Context, _ net.Listener, _ *Agent) error {
			close(l.up)
			<-ctx.Done()
			l.cancel()    // no call begins any more
			l.gate.Lock() // one that began is counted
			begun := &l.calls
			l.gate.Unlock()
			begun.Wait()
			return nil
		},
	}
}

// simClock has a wall that jumps and a monotonic reading that does not, as a machine's has.
type simClock struct{ host *simHost }

var simEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Hour)

func (c simClock) Now() time.Time {
	now := time.Now()
	return withMonotonic(now.Add(time.Duration(c.host.jump.Load())), now.Sub(simEpoch))
}

func (c simClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// withMonotonic puts a time together as package time has it: times within a bubble have no monotonic reading, and no clock but the machine's can be
// set otherwise.
func withMonotonic(wall time.Time, reading time.Duration) time.Time {
	const (
		hasMonotonic = 1 << 63
		year1885     = -2682288000 // package time's minWall, in Unix seconds
	)
	parts := struct {
		wall uint64
		ext  int64
		loc  *time.Location
	}{hasMonotonic | uint64(wall.Unix()-year1885)<<30 | uint64(wall.Nanosecond()), int64(reading), time.UTC}
	return *(*time.Time)(unsafe.Pointer(&parts))
}

// noListener and noFirewall are what a simulated host does not have.
type noListener struct{}

func (noListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (noListener) Close() error              { return nil }
func (noListener) Addr() net.Addr            { return &net.UnixAddr{Name: "sim", Net: "unix"} }

type noFirewall struct{}

func (noFirewall) Keep([]string)           {}
func (noFirewall) Look()                   {}
func (noFirewall) Note() string            { return "" }
func (noFirewall) Run(ctx context.Context) { <-ctx.Done() }

func (h *simHost) bootID() (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprint("boot ", h.boots), nil
}

func (h *simHost) disk(name string) *memory.World {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.disks[name] == nil {
		h.disks[name] = memory.New()
	}
	return h.disks[name]
}

func (h *simHost) netnsDir() string { return filepath.Join(h.world.dir, h.name, "run", "netns") }

// reboot ends the agent and all that is not on the disk.
func (h *simHost) reboot() {
	if l := h.alive(); l != nil {
		l.kill()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.boots++
	h.kernel = fake.New(h.netnsDir())
	for id, b := range h.boxes {
		h.world.forgo(record.SandboxID(id))
		if b.running {
			b.end(sandbox.Exit{Code: 255, Error: "the host went down"})
		}
		b.netns = false
	}
}

// alive returns the agent that runs now, or nil.
func (h *simHost) alive() *simLife {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.life
}

func (h *simHost) now() *fake.Kernel {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kernel
}

// simKernel is a host's kernel as one life of its agent changes it.
type simKernel struct{ *simLife }

func (k simKernel) Read(ctx context.Context, spaces []string) (kernel.State, error) {
	return k.host.now().Read(ctx, spaces)
}

func (k simKernel) Namespaces(ctx context.Context) ([]string, error) {
	return k.host.now().Namespaces(ctx)
}

func (k simKernel) Apply(ctx context.Context, ops []kernel.Op) []error {
	errs := make([]error, len(ops))
	if len(ops) > 0 {
		if err := sleep(ctx, k.lag(2*time.Millisecond)); err != nil {
			for i := range errs {
				errs[i] = err
			}
			return errs
		}
	}
	for i, o := range ops {
		if err := k.write(func() {
			k.tooEarly(o)
			k.takesAway(o)
			errs[i] = k.host.now().Apply(ctx, ops[i:i+1])[0]
		}); err != nil {
			errs[i] = err
		}
	}
	return errs
}

// tooEarly looks whether an agent changes what belongs to the cluster's networks before it can know what they are. The gate is held.
func (k simKernel) tooEarly(o kernel.Op) {
	if k.told[store.Meta] || time.Since(k.born) >= seedPatience || o.Obj.NS == kernel.HostNS {
		return
	}
	for _, id := range k.agent.follower.Following() {
		if o.Obj.NS == overlay.NetnsPath(k.agent.settings(), id) {
			k.host.world.violated("%s: %s before the store has spoken", k.host.name, o)
		}
	}
}

// takesAway looks whether an agent deletes the pair of a sandbox that runs and is attached; the pair of its last run may still go while it is being
// started, and the next one waits for that. The gate is held.
func (k simKernel) takesAway(o kernel.Op) {
	v, pair := o.Obj.Spec.(kernel.Veth)
	if o.Verb != kernel.Del || !pair {
		return
	}
	for id, s := range k.agent.boxes.snapshot() {
		if !s.Up || s.Status != record.SandboxRunning || v.Peer.NS != simRunner(k).NetnsPath(string(id)) {
			continue
		}
		for _, at := range s.Attachments {
			if at.IfName == v.Peer.Name && len(at.Addrs) > 0 && !at.Intent {
				k.host.world.violated("%s: takes away %s of sandbox %s, which is up and in network %.6s", k.host.name, o.Obj.Key, s.Name, at.Network)
			}
		}
	}
}

func (k simKernel) Close() error { return nil }

func (k simKernel) Watch(ctx context.Context, _ chan<- []kernel.Change) error {
	<-ctx.Done()
	return nil
}

func (k simKernel) Underlay(netip.Addr) (string, int, error)          { return "eth0", 1500, nil }
func (k simKernel) ResolveAdvertise(where string) (netip.Addr, error) { return netip.ParseAddr(where) }
func (k simKernel) Routes() ([]kernel.HostRoute, error)               { return nil, nil }
func (k simKernel) HostLink(string) (kernel.HostLink, bool, error) {
	return kernel.HostLink{}, false, nil
}
func (k simKernel) HasTable(context.Context, string) (bool, error)               { return false, nil }
func (k simKernel) FlushUDP([]kernel.UDPForward) error                           { return nil }
func (k simKernel) Obstacles(context.Context, uint32, bool) ([]string, error)    { return nil, nil }
func (k simKernel) ForeignVXLANs(context.Context) ([]kernel.ForeignVXLAN, error) { return nil, nil }
