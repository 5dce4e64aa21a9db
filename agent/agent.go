package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"weft/agent/about"
	"weft/agent/dockerd"
	"weft/agent/event"
	"weft/agent/health"
	"weft/agent/journal"
	"weft/agent/peer"
	"weft/agent/registry"
	"weft/bridge"
	"weft/kernel"
	"weft/overlay"
	weftv1 "weft/proto/weft/v1"
	"weft/store"
	"weft/store/follow"
	"weft/store/record"
	"weft/store/relay"
)

// Agent is one host's agent.
type Agent struct {
	cfg       Config
	log       *slog.Logger
	machine   machine
	clock     Clock
	peers     peer.Peers // asks the agents of other hosts
	clients   *peer.Clients
	identity  peer.Identity          // of this host among the others
	enrolment weftv1.EnrolmentServer // nil: hosts join elsewhere
	pki       *pki
	refusals  *refusals
	health    *health.Watcher
	twins     map[record.HostID]string // hosts whose name another has, that were told of; watchStale's own
	journal   *journal.Journal
	seed      *lastPicture
	store     store.Store // the relay
	relay     *relay.Relay
	placed    atomic.Pointer[place]
	learnt    bool // no option names the store: it is where this host was told, or has followed the records to
	mover     *mover
	migrating chan struct{} // size 1: held by the call that moves the records
	firewall  firewall      // beside the loop
	kernel    host
	nextPort  nextPort
	runner    runner
	dns       names
	sockets   *fdStore           // of dns, beyond this process; nil: no service manager keeps them
	follower  *follow.Follower   // the cluster's
	registry  *registry.Registry // the cluster's
	global    *scope
	local     *scope
	sight     sight
	member    *member
	boxes     *boxes
	present   presentNow
	restarter *restarter
	externals *externals
	docker    *dockerd.Client
	addresses *addresses
	uses      *uses
	leases    *leases
	loop      *loop
	events    *event.Log
	probes    prober

	underlay   underlay
	started    time.Time
	namesKnown chan struct{} // closed when sandboxes' questions may be answered
	rebooted   bool          // since the last agent's end: what ran is gone
	ends       broadcast     // a sandbox's end has been dealt with, or its next beginning

	appliedPicture atomic.Pointer[record.Snapshot]
	appliedSignal  broadcast
	troubleMu      sync.Mutex // guards troubles
	troubles       map[string]error
}

// underlay is where this host stands.
type underlay struct {
	advertise string // host:port
	vtep      netip.Addr
	link      string
}

// seedPatience is how long a starting agent waits for the store before it restores its host's networking from the journal.
const seedPatience = 2 * time.Second

// Run is an agent's life: it checks everything, takes the state directory, finds what the last life left, answers on the admin socket,
// and keeps store, picture and kernel in line until ctx ends. Sandboxes and their networking outlive it.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	log, err := cfg.logger()
	if err != nil {
		return err
	}
	if err := kernel.Check(); err != nil {
		return err
	}
	k, err := kernel.Open(kernel.Config{Log: log, NetnsDir: cfg.netnsDir()})
	if err != nil {
		return err
	}
	err = newAgent(cfg, log, withFailpoints(thisMachine(k), cfg)).live(ctx)
	return errors.Join(err, k.Close())
}

// newAgent makes an agent that has touched nothing yet.
func newAgent(cfg Config, log *slog.Logger, m machine) *Agent {
	a := &Agent{
		cfg: cfg, log: log, machine: m, clock: m.clock, kernel: m.kernel, peers: peer.Nobody{}, identity: noIdentity{},
		addresses: newAddresses(m.clock), restarter: newRestarter(m.clock), externals: newExternals(), events: event.New(log, m.clock.Now),
		docker: dockerd.New(dockerHost()), started: m.clock.Now(), troubles: map[string]error{}, migrating: make(chan struct{}, 1),
		namesKnown: make(chan struct{}), pki: newPKI(),
	}
	a.refusals = &refusals{clock: a.clock, emit: a.events.Emit, name: a.hostName}
	return a
}

// live holds what must be let go in reverse order.
func (a *Agent) live(ctx context.Context) error {
	if a.machine.sockets != nil {
		a.sockets = a.machine.sockets(a.log)
	}
	if err := a.findUnderlay(); err != nil {
		return err
	}
	closeJournal, err := a.openJournal()
	if err != nil {
		return err
	}
	defer closeJournal()
	id, err := a.identify(ctx)
	if err != nil {
		return err
	}
	listener, err := a.machine.listen(a.cfg.Socket)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	defer a.closeRunner()
	a.seed = readPicture(a.journal, id.Cluster) // beside what follows: both take their time where there is much
	defer a.seed.wait()
	if err := a.recoverSandboxes(ctx); err != nil {
		return err
	}
	if id, err = a.openIdentity(ctx, id); err != nil {
		return err
	}
	if id, err = a.forgetMove(ctx, id); err != nil {
		return err
	}
	closeStore, err := a.openStore(ctx, id)
	if err != nil {
		return err
	}
	defer closeStore()
	closeLocal, err := a.openLocal(ctx)
	if err != nil {
		return err
	}
	defer closeLocal()
	if err := a.wire(id); err != nil {
		return err
	}
	if err := a.openLeases(ctx); err != nil {
		return err
	}
	a.reopenNames(ctx) // before anyone is told that the agent is there
	a.log.Info("weftd is up", "version", about.Version, "host", id.Host, "store", a.storeName(), "vtep", a.underlay.vtep.String())
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // no systemd is no error
	return a.tend(ctx, func(ctx context.Context) error {
		if err := a.ensureDefault(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("cannot make the default network yet; it is tried again when a sandbox needs it", "error", err)
		}
		return a.machine.serve(ctx, listener, a)
	})
}

// openJournal takes the state directory, which no other agent may have, and opens what is in it.
func (a *Agent) openJournal() (closeAll func(), err error) {
	unlock, err := journal.Lock(a.cfg.StateDir)
	if err != nil {
		return nil, err
	}
	disk, err := a.machine.disk(a.cfg.journalDB())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the journal: %w", err), unlock())
	}
	a.journal = a.machine.journal(disk, a.cfg.StateDir)
	return func() {
		_ = disk.Close()
		_ = unlock()
	}, nil
}

// tend runs all goroutines of the agent until ctx ends or one of them cannot go on, and waits for them.
func (a *Agent) tend(ctx context.Context, serve func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.member.fatal = cancel
	var wg sync.WaitGroup
	run := func(f func(context.Context)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			f(ctx)
		}()
	}
	global, local := a.follower.Picture(), a.local.follower.Picture()
	run(func(ctx context.Context) { a.tellChanges(ctx, global, local) })
	run(a.follower.Run)
	run(a.learnNames)
	run(a.local.follower.Run)
	run(a.member.run)
	run(a.global.publisher.run)
	run(a.local.publisher.run)
	a.local.publisher.kick() // what the last life left half done; the cluster's is kicked by each joining
	run(a.leases.run)
	run(a.loop.run)
	run(a.keepLinks)
	run(a.firewall.Run)
	run(a.mover.run)
	run(a.retell)
	run(a.keepPicture)
	run(a.health.Run)
	run(a.probes.Run)
	run(a.servePeers)
	run(a.keepPeers)
	run(a.keepIdentity)
	run(a.watchStale)
	run(a.clearLost)
	run(a.watchEnds)
	run(a.removeEnded)
	run(a.republish)
	run(a.finishRestarts)
	run(a.watchExternals)
	run(func(ctx context.Context) { a.restarter.run(ctx, a.startAgain) })
	run(func(ctx context.Context) {
		if err := serve(ctx); err != nil {
			cancel(err)
		}
	})
	<-ctx.Done()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	wg.Wait()
	a.dns.Close()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// closeRunner ends what this agent itself does for its sandboxes; they go on.
func (a *Agent) closeRunner() {
	if a.runner != nil {
		a.runner.Close()
	}
}

// watchEnds deals with the ends of sandboxes' processes, each in a goroutine of its own: one may have to wait for its turn.
func (a *Agent) watchEnds(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-a.runner.Exited():
			wg.Go(func() { a.ended(ctx, record.SandboxID(id)) })
		}
	}
}

// pictureEvery is how old the picture on the disk may be.
const pictureEvery = 2 * time.Second

// keepPicture writes the partitions that changed to the disk, for the next life.
func (a *Agent) keepPicture(ctx context.Context) {
	saved, history := map[string]savedPart{}, ""
	if c := a.follower.Picture().Cluster(); c != nil {
		history = c.History
	}
	for {
		select {
		case <-ctx.Done():
			a.savePicture(saved) // the next life, which may begin without the store, begins with the newest
			return
		case <-a.clock.After(pictureEvery):
		}
		if c := a.follower.Picture().Cluster(); c != nil && c.History != history { // the records were put where they are
			history = c.History
			a.member.lookAgain()
			a.global.publisher.kick()
		}
		a.savePicture(saved)
	}
}

// savedPart is what of a partition is on the disk.
type savedPart struct {
	history string
	rev     store.Rev
}

// savePicture writes what is not on the disk yet. A partition that was not read since the cluster's records were put elsewhere stays one of
// the history before: its revisions mean nothing where they are now.
func (a *Agent) savePicture(saved map[string]savedPart) {
	p, histories := a.follower.PictureToKeep()
	for part := range saved {
		if p.Rev(part) == 0 {
			delete(saved, part)
			if err := a.journal.DropPicture(part); err != nil {
				a.log.Warn("cannot forget a partition", "error", err)
			}
		}
	}
	cluster := a.member.identity().Cluster
	for _, part := range p.Partitions() {
		now := savedPart{histories[part], p.Rev(part)}
		if part == store.Alive || saved[part] == now || cluster == "" {
			continue
		}
		d, err := p.Dump(part)
		if err == nil {
			err = a.journal.SavePicture(cluster, now.history, part, d)
		}
		if err != nil {
			a.log.Warn("cannot save the picture", "error", err)
			continue
		}
		saved[part] = now
	}
}

// facts is what this host publishes of itself.
func (a *Agent) facts(context.Context) (record.Host, error) {
	_, mtu, err := a.kernel.Underlay(a.underlay.vtep)
	if err != nil {
		return record.Host{}, err
	}
	routes, err := a.hostRoutes()
	if err != nil {
		return record.Host{}, err
	}
	return record.Host{
		Name: a.cfg.HostName, Advertise: a.underlay.advertise, VTEP: a.underlay.vtep, MTU: mtu, Routes: append(routes, a.localRoutes()...),
		PublicKey: a.publicKey(),
	}, nil
}

// settings is what rendering needs beside the records.
func (a *Agent) settings() overlay.Settings {
	s := overlay.Settings{Self: a.member.identity().Host, VTEP: a.underlay.vtep, VXLANPort: a.cfg.VXLANPort, NetnsDir: a.cfg.netnsDir()}
	if c := a.follower.Picture().Cluster(); c != nil && c.VXLANPort != 0 {
		s.VXLANPort = c.VXLANPort
	}
	return s
}

func (a *Agent) published(p *record.Snapshot) []bridge.Published {
	return published(a.boxes.snapshot(), p.Network)
}

func (a *Agent) locals() map[record.NetworkID]presence {
	id := a.member.identity()
	return a.present.of(id.Host, id.Incarnation, a.boxes, func(s record.SandboxID) string { return a.runner.NetnsPath(string(s)) })
}

// mayWrite: nothing is written to the kernel before the store has told of the networks that this host uses, or has had its time to and the
// last life's picture must do. A host that uses none of the cluster's networks waits for nothing.
func (a *Agent) mayWrite() bool {
	following := a.follower.Following()
	if a.heldBack(a.follower.Picture()) { // it looks first what it has lost
		return false
	}
	if len(following) == 0 {
		return true
	}
	synced := a.follower.Synced(store.Meta)
	for _, id := range following {
		synced = synced && a.follower.Synced(record.NetPartition(id))
	}
	return synced || a.clock.Now().Sub(a.started) > seedPatience && a.follower.Picture().Rev(store.Meta) > 0
}

func (a *Agent) applied(p *record.Snapshot, failed map[string]error) {
	a.troubleMu.Lock()
	a.troubles = failed
	a.troubleMu.Unlock()
	a.appliedPicture.Store(p)
	a.appliedSignal.signal()
	a.probes.Look()
}

// trouble is what the kernel refused, in words.
func (a *Agent) trouble() []string {
	a.troubleMu.Lock()
	defer a.troubleMu.Unlock()
	var out []string
	for id, err := range a.troubles {
		name := record.ShortID(id)
		if n, ok := a.picture().Network(record.NetworkID(id)); ok {
			name = n.Name
		}
		out = append(out, "network "+name+": "+err.Error())
	}
	return out
}

// awaitPicture lets a question that comes in the first moments of an agent wait for the picture, unless it is known that the store is away.
func (a *Agent) awaitPicture(ctx context.Context) {
	if a.follower.Picture().Rev(store.Meta) > 0 || a.member.away() || a.clock.Now().Sub(a.started) > 2*seedPatience {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, seedPatience)
	defer cancel()
	_ = a.follower.WaitSynced(ctx, store.Meta)
}
