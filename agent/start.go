package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	lots "math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"weft/agent/journal"
	"weft/agent/registry"
	"weft/agent/sandbox"
	"weft/dnssvc"
	"weft/store/follow"
	"weft/store/open"
	"weft/store/record"
)

// findUnderlay resolves the addresses that the options name.
func (a *Agent) findUnderlay() error {
	where, port, err := advertised(a.cfg.Advertise)
	if err != nil {
		return err
	}
	addr, err := a.kernel.ResolveAdvertise(where)
	if err != nil {
		return fmt.Errorf("--cluster-advertise %s: %w", a.cfg.Advertise, err)
	}
	vtep := addr
	if a.cfg.DataAddr != "" {
		if vtep, err = a.kernel.ResolveAdvertise(a.cfg.DataAddr); err != nil {
			return fmt.Errorf("--data-addr %s: %w", a.cfg.DataAddr, err)
		}
	}
	link, _, err := a.kernel.Underlay(vtep)
	if err != nil {
		return err
	}
	a.underlay = underlay{advertise: netip.AddrPortFrom(addr, port).String(), vtep: vtep, link: link}
	return nil
}

// identify returns who this host is; after a reboot with a new incarnation, since all its namespaces are gone.
func (a *Agent) identify(ctx context.Context) (journal.Identity, error) {
	id, err := a.journal.Identity(ctx)
	if err != nil {
		return id, err
	}
	now, err := a.machine.bootID()
	if err != nil {
		return id, err
	}
	marker := filepath.Join(a.cfg.RunDir, "incarnation") // the run directory does not outlive a reboot
	_, markerErr := os.Stat(marker)
	if id.Host == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		id.Host = record.HostID(hex.EncodeToString(b[:]))
	}
	if id.Incarnation == 0 || id.BootID != now || markerErr != nil {
		a.rebooted = id.Incarnation > 0
		id.Incarnation, id.BootID = id.Incarnation+1, now
		if err := a.journal.SetIdentity(ctx, id); err != nil {
			return id, err
		}
	}
	if err := os.MkdirAll(a.cfg.RunDir, 0o755); err != nil {
		return id, fmt.Errorf("make the run directory: %w", err)
	}
	if err := os.WriteFile(marker, fmt.Appendln(nil, id.Incarnation), 0o600); err != nil {
		return id, fmt.Errorf("mark the run directory: %w", err)
	}
	return id, nil
}

// recoverSandboxes compares what the journal knows with what runs: a sandbox whose process ended while no agent was there is ended now, and
// a namespace that nobody knows goes. What the last life had begun to attach stays an intent (publisher.settle).
func (a *Agent) recoverSandboxes(ctx context.Context) error {
	a.boxes = newBoxes(a.journal)
	all, corrupt, err := a.journal.Sandboxes(ctx)
	if err != nil {
		return err
	}
	for _, err := range corrupt {
		a.log.Error("a sandbox's record cannot be read; it is left out", "error", err)
	}
	known := make([]string, 0, len(all))
	for _, s := range all {
		known = append(known, string(s.ID))
	}
	r, err := a.machine.sandboxes(sandbox.Config{RunDir: a.cfg.sandboxDir(), StateDir: filepath.Join(a.cfg.StateDir, "sandboxes"), Log: a.log})
	if err != nil {
		return err
	}
	a.runner = r
	live, err := r.Recover(ctx, known, externalIDs(all)...)
	if err != nil {
		return err
	}
	a.boxes.lastLife = slices.Clone(all)
	var kept, changed []*record.Sandbox
	for _, s := range all {
		running := live[string(s.ID)]
		if s.Status == record.SandboxCreated && s.Once && s.External == "" && !running {
			if err := a.forgetUnbegun(ctx, s); err != nil {
				return err
			}
			continue
		}
		next := a.takeUp(s, running)
		if kept = append(kept, next); !reflect.DeepEqual(next, s) { // what is as it was needs no write, which waits for the disk
			changed = append(changed, next)
		}
	}
	if err := a.journal.PutSandboxes(ctx, changed); err != nil {
		return err
	}
	a.boxes.load(kept)
	return nil
}

// forgetUnbegun removes a sandbox that was made to be started at once, and whose first start was cut short or never asked for: what made it has
// failed with the agent.
func (a *Agent) forgetUnbegun(ctx context.Context, s *record.Sandbox) error {
	var releases []journal.Release
	for _, at := range s.Attachments {
		if at.Endpoint != "" {
			releases = append(releases, journal.Release{Network: at.Network, Endpoint: at.Endpoint})
		}
	}
	a.log.Info("a sandbox that was about to start when the agent ended is forgotten", "sandbox", s.Name)
	if err := a.runner.Remove(ctx, string(s.ID), true); err != nil {
		return err
	}
	return a.journal.DeleteSandbox(ctx, s.ID, releases...)
}

// takeUp returns a sandbox as it is after the last agent's end.
func (a *Agent) takeUp(s *record.Sandbox, live bool) *record.Sandbox {
	if s.External != "" {
		return a.adopted(s)
	}
	next := edited(s)
	for i := range next.Attachments {
		at := &next.Attachments[i]
		at.Intent = at.Intent && live // the store will tell whether it was announced
	}
	switch {
	case live && s.Status != record.SandboxRunning: // its start was cut short after its process had begun to run
		next.Status, next.Up, next.Started, next.Finished, next.ExitCode, next.Error = record.SandboxRunning, true, a.clock.Now().UTC(), time.Time{}, 0, ""
		next.Again = false
	case live:
	case s.Status == record.SandboxRunning:
		e, ok := a.runner.LastExit(string(s.ID))
		if !ok {
			e = sandbox.Exit{Code: 255, Error: "it ended with its host or its supervisor"}
		}
		next.Status, next.Up, next.ExitCode, next.Error, next.Finished = record.SandboxExited, false, e.Code, e.Error, a.clock.Now().UTC()
		if yes, policy := again(s, e.Code); yes {
			next = waiting(s, e, policy, a.clock.Now().UTC())
		}
	case a.rebooted && s.Status == record.SandboxExited && s.Restart.Name == "always": // also one that a user had stopped, as docker
		next = waiting(s, sandbox.Exit{Code: s.ExitCode, Error: s.Error}, false, s.Finished)
		next.Stopped, next.Restarts = false, 0
	default:
		next.Up, next.Published = false, nil
	}
	if !live {
		next.Published = nil
	}
	if next.Status == record.SandboxRestarting {
		a.restarter.later(s.ID, 0)
	}
	return next
}

// wire makes the parts and tells each what it needs of the others.
func (a *Agent) wire(id journal.Identity) error {
	seed, errs := a.seed.of(id.Cluster)
	for _, err := range errs {
		a.log.Warn("left out of the picture of the last life", "error", err)
	}
	ttl, heartbeat, err := open.Timing(a.cfg.StoreOpts)
	if err != nil {
		return err
	}
	a.follower = follow.New(follow.Config{Store: a.store, Seed: seed, Cluster: id.Cluster, Log: a.log})
	a.pki.follower.Store(a.follower)
	a.registry = registry.New(registry.Config{Store: a.store, Picture: a.follower.Picture, Now: a.clock.Now, Beside: a.local.follower.Picture, Random: lots.IntN})
	a.sight = newSight(a.follower, a.local.follower)
	a.member = newMember(memberConfig{
		log: a.log, clock: a.clock, store: a.store, registry: a.registry, journal: a.journal, name: a.storeName, ttl: ttl, every: heartbeat,
		settings: record.Cluster{VXLANPort: a.cfg.VXLANPort, AddrPools: a.cfg.AddrPools}, facts: a.facts, picture: a.follower.Picture, doubt: a.follower.Doubt,
		rejoined: func(context.Context) { a.global.publisher.kick(); a.restarter.hurry(); a.askAuthority() }, follow: func(ctx context.Context) error { return a.mover.catchUp(ctx) },
		created: func() { a.pki.created.Store(true) },
		cleared: func(ctx context.Context) error { return a.isolateLost(ctx, "") },
	}, id)
	a.mover = newMover(a)
	a.global = &scope{
		name: globalScope, store: a.store, follower: a.follower, registry: a.registry,
		claim: a.member.claim, joined: a.member.joined, explain: a.member.explain,
	}
	a.wireLocal()
	for _, sc := range []*scope{a.global, a.local} {
		var obey func(context.Context, registry.Actor) error
		var taken func(context.Context, record.NetworkID) error
		var holds func(context.Context) error
		var read func(context.Context, record.NetworkID) (*record.Net, error)
		if sc == a.global {
			obey, taken, holds, read = a.obey, a.isolateLost, a.member.holdsCluster, a.netInStore
		}
		sc.publisher = newPublisher(publisherConfig{
			log: a.log, clock: a.clock, journal: a.journal, boxes: a.boxes, scope: sc, undo: a.undoIntent, obey: obey, taken: taken, holds: holds, read: read,
			mine: func(id record.NetworkID) bool { return a.scopeOf(id) == sc },
		})
	}
	a.firewall = a.newFirewalld()
	a.wirePeers()
	a.wireHealth()
	a.wireProbes()
	a.loop = newLoop(loopConfig{
		log: a.log, clock: a.clock, exec: a.kernel, sight: a.sight, settings: a.settings, locals: a.locals, published: a.published, answers: a.answering, ready: a.mayWrite, held: a.heldBack, applied: a.applied,
		watch: a.kernel.Watch, firewall: a.firewall,
	})
	names := dnssvc.Config{Log: a.log, Picture: a.reachable, Upstreams: dnssvc.HostUpstreams, Usable: a.usable, Ready: a.namesKnown}
	if a.sockets != nil {
		names.Keeper = a.sockets
	}
	a.dns = a.machine.names(names)
	a.uses = newUses(a.follower, a.isLocal, a.boxes)
	a.tellLastLife()
	for _, part := range seed.Partitions() {
		if a.follower.Picture().Rev(part) == 0 { // it was let go of just before the last life's end
			if err := a.journal.DropPicture(part); err != nil {
				a.log.Warn("cannot forget a partition", "error", err)
			}
		}
	}
	return nil
}

// lastPicture is what the last life has saved of its cluster, while it is being read.
type lastPicture struct {
	journal *journal.Journal
	cluster string
	done    chan struct{} // closed when it is here
	seed    *record.Snapshot
	errs    []error
}

func readPicture(j *journal.Journal, cluster string) *lastPicture {
	p := &lastPicture{journal: j, cluster: cluster, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.seed, p.errs = j.Picture(cluster)
	}()
	return p
}

func (p *lastPicture) wait() { <-p.done }

// of returns the picture of a cluster, which may be another than it was when the agent began.
func (p *lastPicture) of(cluster string) (*record.Snapshot, []error) {
	p.wait()
	if cluster != p.cluster {
		return p.journal.Picture(cluster)
	}
	return p.seed, p.errs
}
