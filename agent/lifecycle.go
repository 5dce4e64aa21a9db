package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/agent/registry"
	"weft/agent/sandbox"
	"weft/store"
	"weft/store/record"
)

// CreateSandbox notes a sandbox with its attachments; it claims nothing in the cluster yet. The networks are looked up, so that a wrong
// name fails here.
func (a *Agent) CreateSandbox(ctx context.Context, s *record.Sandbox, as []api.AttachmentRequest) (*record.Sandbox, error) {
	s = edited(s)
	s.ID, s.Created, s.Status = record.SandboxID(registry.NewID()), a.clock.Now().UTC(), record.SandboxCreated
	if len(s.Command) == 0 {
		return nil, api.Refuse(api.Invalid, "no command was given: say what is to run in the sandbox")
	}
	if s.Name == "" {
		s.Name = record.ShortID(s.ID)
	}
	if err := registry.CheckName("sandbox", s.Name); err != nil {
		return nil, kindOf(err)
	}
	if s.Hostname == "" {
		s.Hostname = record.ShortID(s.ID)
	}
	if err := errors.Join(checkMode(s, as), checkRestart(s)); err != nil {
		return nil, err
	}
	as, err := a.orDefault(ctx, s, as)
	if err != nil {
		return nil, err
	}
	for _, r := range as {
		n, at, err := a.attachment(ctx, s.Name, r)
		if err != nil {
			return nil, err
		}
		if _, twice := s.Attachment(n.ID); twice {
			return nil, api.Refuse(api.Exists, "network %s is given twice", n.Name)
		}
		if err := nameInterface(s, n, &at); err != nil {
			return nil, err
		}
		setAttachment(s, at)
	}
	if err := a.boxes.reserve(s.Name, s.ID); err != nil {
		return nil, err
	}
	if err := a.boxes.put(ctx, s); err != nil {
		a.boxes.unreserve(s.Name, s.ID)
		return nil, err
	}
	return s, nil
}

func checkMode(s *record.Sandbox, as []api.AttachmentRequest) error {
	switch {
	case s.NetworkMode != "" && s.NetworkMode != "host" && s.NetworkMode != "none":
		return api.Refuse(api.Invalid, "unknown network mode %q: it is host or none", s.NetworkMode)
	case s.NetworkMode != "" && len(as) > 0:
		return api.Refuse(api.Invalid, "conflicting options: network %s cannot go with other networks", s.NetworkMode)
	}
	return nil
}

// attachment checks what a sandbox asks of one network.
func (a *Agent) attachment(ctx context.Context, name string, r api.AttachmentRequest) (*record.Network, record.Attachment, error) {
	at := record.Attachment{
		DriverOpts: r.DriverOpts, GwPriority: r.GwPriority,
	}
	n, err := a.joinable(ctx, r)
	if err != nil {
		return nil, at, err
	}
	at.Network = n.ID
	if err := setAliases(&at, n, r); err != nil {
		return nil, at, err
	}
	if err := askFor(n, r, &at); err != nil {
		return nil, at, err
	}
	at.Links, err = a.checkLinks(name, n, r.Links)
	return n, at, err
}

// StartSandbox starts a sandbox that does not run.
func (a *Agent) StartSandbox(ctx context.Context, ref string) (*record.Sandbox, error) {
	s, err := a.boxes.find(ref)
	if err != nil {
		return nil, err
	}
	done, err := a.boxes.lock(ctx, s.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	return a.start(ctx, s.ID, true)
}

// start brings a sandbox up: its namespace, its endpoints in the order of its networks, names, and last its process. A process that is not
// detached keeps its first output for the one who attaches. After an error nothing runs and nothing is claimed; a sandbox that was made for this start
// alone is gone. The caller has the sandbox's turn.
func (a *Agent) start(ctx context.Context, id record.SandboxID, detached bool) (*record.Sandbox, error) {
	s, ok := a.boxes.get(id)
	if !ok {
		return nil, api.Refuse(api.NotFound, "No such sandbox: %s", record.ShortID(id))
	}
	if err := ours(s, "started"); err != nil || s.Status == record.SandboxRunning {
		return s, err
	}
	a.restarter.forget(id)
	if s.Restarts > 0 || s.Stopped || s.Again || s.Removing {
		s = edited(s)
		s.Restarts, s.Stopped, s.Again, s.Removing = 0, false, false, false
	}
	before := s
	err := a.linksRun(s)
	if err == nil {
		s, err = a.bringUp(ctx, s, detached)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*callTimeout)
		defer cancel()
		return nil, errors.Join(err, a.undoStart(undo, before))
	}
	return s, nil
}

func (a *Agent) bringUp(ctx context.Context, s *record.Sandbox, detached bool) (*record.Sandbox, error) {
	if err := a.runner.Create(ctx, string(s.ID), s.NetworkMode == "host"); err != nil {
		return nil, fmt.Errorf("make sandbox %s: %w", s.Name, err)
	}
	if err := a.attachAll(ctx, s); err != nil {
		return nil, err
	}
	if err := a.publishPorts(ctx, s.ID); err != nil {
		return nil, err
	}
	now, _ := a.boxes.get(s.ID)
	if err := a.serveNames(ctx, now); err != nil {
		return nil, err
	}
	if err := a.runner.Start(ctx, string(s.ID), a.spec(now, detached)); err != nil {
		return nil, err
	}
	now, _ = a.boxes.get(s.ID)
	next := edited(now)
	next.Status, next.Up, next.Started, next.Finished, next.ExitCode, next.Error = record.SandboxRunning, true, a.clock.Now().UTC(), time.Time{}, 0, ""
	next.Again = false
	defer a.ends.signal()
	return next, a.boxes.put(ctx, next)
}

// attachAll attaches a sandbox whose namespace is there to its networks, in their order.
func (a *Agent) attachAll(ctx context.Context, s *record.Sandbox) error {
	up := edited(s)
	up.Up = true
	wanted := up.Attachments
	up.Attachments = nil
	for _, at := range wanted { // those that are not up yet must not be rendered
		at.Intent = true
		setAttachment(up, at)
	}
	a.boxes.show(withoutAddrs(up))
	for _, at := range s.Attachments {
		n, err := a.networkOf(ctx, s, at)
		if err != nil {
			return err
		}
		if err := a.attachAgain(ctx, s, n, at); err != nil {
			return err
		}
	}
	return nil
}

// networkOf returns an attachment's network. One that the picture does not have is gone for sure only when the store has said what there is: an
// agent that has just started may have an older picture.
func (a *Agent) networkOf(ctx context.Context, s *record.Sandbox, at record.Attachment) (*record.Network, error) {
	if n, ok := a.picture().Network(at.Network); ok {
		return n, nil
	}
	if _, err := a.member.claim(ctx); err != nil {
		return nil, err
	}
	known, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	if err := a.follower.WaitSynced(known, store.Meta); err != nil {
		return nil, a.member.explain(fmt.Errorf("read the networks: %w", err))
	}
	if n, ok := a.follower.Picture().Network(at.Network); ok {
		return n, nil
	}
	return nil, api.Refuse(api.NotFound, "network %s not found: it was removed; disconnect sandbox %s from it", record.ShortID(at.Network), s.Name)
}

// withoutAddrs hides the addresses that a stopped sandbox remembers, until each is its own again.
func withoutAddrs(s *record.Sandbox) *record.Sandbox {
	c := edited(s)
	for i := range c.Attachments {
		c.Attachments[i].Addrs = nil
	}
	return c
}

// remembering gives a sandbox whose start has failed those addresses back that it had before, where it has none now: what the user asked for
// stays its own while it is down, and a start takes the others again where nobody has them.
func remembering(now, before *record.Sandbox) *record.Sandbox {
	c := edited(now)
	for i, at := range c.Attachments {
		if had, ok := before.Attachment(at.Network); ok && had.Endpoint == at.Endpoint && len(at.Addrs) == 0 {
			c.Attachments[i].Addrs = had.Addrs
		}
	}
	return c
}

// undoStart takes down what a failed start had made. before is the sandbox as it was.
func (a *Agent) undoStart(ctx context.Context, before *record.Sandbox) error {
	s, ok := a.boxes.get(before.ID)
	if !ok {
		return nil
	}
	a.dns.Remove(string(s.ID))
	switch s = remembering(s, before); {
	case before.Status == record.SandboxCreated && before.Once:
		return a.forget(ctx, s)
	case before.Status == record.SandboxCreated: // it never ran, and says so
		next := edited(s)
		next.Status, next.Up = record.SandboxCreated, false
		return a.takeDown(ctx, s, next)
	}
	return a.bringDown(ctx, s, s.ExitCode, s.Error)
}

// bringDown takes a sandbox's ports off the air, and then its namespace. Names and asked-for addresses stay its own; the others are free.
func (a *Agent) bringDown(ctx context.Context, s *record.Sandbox, code int, why string) error {
	next := edited(s)
	next.Status, next.Up, next.ExitCode, next.Error, next.Finished = record.SandboxExited, false, code, why, a.clock.Now().UTC()
	return a.takeDown(ctx, s, next)
}

// takeDown makes of a sandbox one that is down. One that comes again keeps all its addresses, and no other host needs to wait for the news.
func (a *Agent) takeDown(ctx context.Context, s, next *record.Sandbox) error {
	a.dns.Remove(string(s.ID))
	next.Published = nil
	for i := range next.Attachments {
		next.Attachments[i].Intent = false
	}
	var errs []error
	if err := a.boxes.put(ctx, next); err != nil { // the next life finds out by itself that nothing runs
		a.boxes.show(next)
		errs = append(errs, err)
	}
	comesAgain := next.Status == record.SandboxRestarting
	for _, at := range s.Attachments {
		if !comesAgain {
			a.addresses.rest(at.Network, dynamic(at)...)
		}
		errs = append(errs, a.letGo(ctx, at.Network))
	}
	a.closePorts(ctx, s)
	if comesAgain {
		a.kick(s)
	} else {
		a.flush(ctx, s)
	}
	return errors.Join(append(errs, a.runner.Remove(ctx, string(s.ID), false))...)
}

// giveUp makes of a sandbox that waited to be started again, and is given with what else changes, one that is down for good.
func (a *Agent) giveUp(ctx context.Context, next *record.Sandbox) error {
	next.Status = record.SandboxExited
	a.restarter.forget(next.ID)
	defer a.ends.signal()
	if err := a.boxes.put(ctx, next); err != nil {
		return err
	}
	for _, at := range next.Attachments {
		a.addresses.rest(at.Network, dynamic(at)...)
	}
	a.flush(ctx, next)
	return nil
}

// forget removes a sandbox with everything of it.
func (a *Agent) forget(ctx context.Context, s *record.Sandbox) error {
	a.dns.Remove(string(s.ID))
	var releases []journal.Release
	for _, at := range s.Attachments {
		if at.Endpoint != "" {
			releases = append(releases, journal.Release{Network: at.Network, Endpoint: at.Endpoint})
		}
	}
	if err := a.boxes.remove(ctx, s, releases...); err != nil {
		return err
	}
	var errs []error
	for _, at := range s.Attachments {
		a.addresses.rest(at.Network, at.Addrs...)
		defer a.uses.hold(at.Network)()
		errs = append(errs, a.letGo(ctx, at.Network))
	}
	a.closePorts(ctx, s)
	a.flush(ctx, s)
	return errors.Join(append(errs, a.runner.Remove(ctx, string(s.ID), true))...)
}

// RemoveSandbox removes a sandbox; one that runs only with force.
func (a *Agent) RemoveSandbox(ctx context.Context, ref string, force bool) (*record.Sandbox, error) {
	s, err := a.boxes.find(ref)
	if err != nil {
		return nil, err
	}
	if up := s.Status; up == record.SandboxRunning || up == record.SandboxRestarting {
		if !force {
			return nil, api.Refuse(api.InUse, "You cannot remove a %s sandbox %s. Stop the sandbox before attempting removal or force remove", up, record.ShortID(s.ID))
		}
		if err := a.kill(ctx, s); err != nil {
			return nil, err
		}
	}
	done, err := a.boxes.lock(ctx, s.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	now, ok := a.boxes.get(s.ID)
	if !ok {
		return s, nil // --rm was faster
	}
	if now.Status == record.SandboxRunning && now.External == "" {
		return nil, api.Refuse(api.InUse, "sandbox %s was started again meanwhile", s.Name)
	}
	return s, a.forget(ctx, now)
}

// kill ends a sandbox for good, now.
func (a *Agent) kill(ctx context.Context, s *record.Sandbox) error {
	if s.External != "" {
		return nil // nothing of it is weft's to end
	}
	s, err := a.leaveDown(ctx, s.ID, true)
	if err != nil || s.Status != record.SandboxRunning {
		return err
	}
	if err := a.runner.Stop(ctx, string(s.ID), syscall.SIGKILL, 0); err != nil {
		return fmt.Errorf("kill sandbox %s: %w", s.Name, err)
	}
	return a.settled(ctx, s.ID)
}

// ended deals with the end of a sandbox's process, whoever caused it.
func (a *Agent) ended(ctx context.Context, id record.SandboxID) {
	done, err := a.boxes.lock(ctx, id)
	if err != nil {
		return
	}
	defer done()
	defer a.ends.signal()
	s, ok := a.boxes.get(id)
	if !ok || s.Status != record.SandboxRunning {
		return
	}
	e, err := a.runner.Wait(ctx, string(id))
	if err != nil {
		e = sandbox.Exit{Code: 255, Error: err.Error()}
	}
	now := a.clock.Now().UTC()
	yes, policy := again(s, e.Code)
	switch {
	case yes:
		err = a.takeDown(ctx, s, waiting(s, e, policy, now))
		a.restarter.later(id, now.Sub(s.Started))
	case s.AutoRemove:
		if err = a.forget(ctx, s); err == nil {
			break
		}
		fallthrough
	default:
		err = errors.Join(err, a.bringDown(ctx, s, e.Code, e.Error))
	}
	if err != nil && ctx.Err() == nil {
		a.log.Error("cannot take an ended sandbox down whole", "sandbox", s.Name, "error", err)
	}
	a.log.Info("sandbox ended", "sandbox", s.Name, "code", e.Code, "error", e.Error)
}

// exitKept is how long the exit status of a foreground --rm sandbox, which ended while no agent was there, waits for its `weft run`.
const exitKept = 30 * time.Second

// removeEnded removes the --rm sandboxes whose processes ended while no agent was there, and finishes what removals the last agent had begun.
func (a *Agent) removeEnded(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range a.boxes.snapshot() {
		if !s.Removing && (!s.AutoRemove || s.Status != record.SandboxExited) {
			continue
		}
		wg.Go(func() {
			if !s.Removing && !s.Detached {
				select {
				case <-a.clock.After(exitKept):
				case <-ctx.Done():
					return
				}
			}
			if _, err := a.RemoveSandbox(ctx, string(s.ID), s.Removing); err != nil && ctx.Err() == nil {
				a.log.Warn("cannot remove a sandbox that has ended", "sandbox", s.Name, "error", err)
			}
		})
	}
}

// spec is what the supervisor needs to run the sandbox's process.
func (a *Agent) spec(s *record.Sandbox, detached bool) sandbox.Spec {
	return sandbox.Spec{
		Hostname: s.Hostname, Command: s.Command, Env: slices.Concat(linkEnv(s, a.legacyLinks(s)), s.Env), User: s.User, Workdir: s.Workdir, TTY: s.TTY, Stdin: s.Stdin,
		Hosts: a.hostsFile(s), Resolv: a.resolvFile(s), HostNetwork: s.NetworkMode == "host",
		Detached: detached,
	}
}
