package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft/agent/api"
	"weft/agent/sandbox"
	"weft/store"
	"weft/store/record"
)

// Restart policies are the agent's, and not the supervisors': an agent decides with the journal, so that what a user wants counts also where
// process and agent ended together, and a start goes the one way that a user's goes, with namespace, ports and names made anew. While no agent
// is there nothing is started again; the next one catches up at once.
//
// A sandbox that waits to be started again has status restarting: its endpoints are down and out of DNS, but keep their names and addresses.

// Docker's back-off: it begins anew after a process has run for a while.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = time.Minute
	longEnough   = 10 * time.Second
)

// backoff is the time before the next start, by the one before the last and by how long the process has run.
func backoff(last, ran time.Duration) time.Duration {
	if last == 0 || ran >= longEnough {
		return firstBackoff
	}
	return min(2*last, lastBackoff)
}

// again tells whether a sandbox that has ended with code is to be started again, and whether its policy says so.
func again(s *record.Sandbox, code int) (yes, policy bool) {
	switch {
	case s.Again:
		return true, false
	case s.Stopped:
		return false, false
	}
	switch s.Restart.Name {
	case "always", "unless-stopped":
		return true, true
	case "on-failure":
		yes = code != 0 && (s.Restart.Max == 0 || s.Restarts < s.Restart.Max)
	}
	return yes, yes
}

// checkRestart refuses a policy that there is not, in docker's words.
func checkRestart(s *record.Sandbox) error {
	p := s.Restart
	switch p.Name {
	case "", "no", "always", "unless-stopped":
		if p.Max != 0 {
			return api.Refuse(api.Invalid, "maximum retry count cannot be used with restart policy '%s'", p.Name)
		}
	case "on-failure":
		if p.Max < 0 {
			return api.Refuse(api.Invalid, "maximum retry count cannot be negative")
		}
	default:
		return api.Refuse(api.Invalid, "invalid restart policy '%s': it is no, on-failure[:N], always or unless-stopped", p.Name)
	}
	if s.AutoRemove && p.Name != "" && p.Name != "no" {
		return api.Refuse(api.Invalid, "Conflicting options: --restart and --rm")
	}
	return nil
}

// restarter starts sandboxes again when it is time.
type restarter struct {
	clock Clock
	wake  chan struct{} // size 1

	mu   sync.Mutex // guards what follows
	due  map[record.SandboxID]time.Time
	last map[record.SandboxID]time.Duration // the last back-off
}

func newRestarter(clock Clock) *restarter {
	return &restarter{clock: clock, wake: make(chan struct{}, 1), due: map[record.SandboxID]time.Time{}, last: map[record.SandboxID]time.Duration{}}
}

// later asks for a start after the back-off that is due to a process that has run for so long.
func (r *restarter) later(id record.SandboxID, ran time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last[id] = backoff(r.last[id], ran)
	r.due[id] = r.clock.Now().Add(r.last[id])
	signal(r.wake)
}

// hurry has all that wait start now: what kept them may be over.
func (r *restarter) hurry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.due {
		r.due[id] = r.clock.Now()
	}
	signal(r.wake)
}

// forget is for a sandbox that a user has started, or wants to be down.
func (r *restarter) forget(id record.SandboxID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.due, id)
	delete(r.last, id)
}

// take returns those whose time has come, and the time until the next one's; none is longer than idle.
func (r *restarter) take() (ready []record.SandboxID, wait time.Duration) {
	const idle = time.Hour
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	wait = idle
	for id, at := range r.due {
		if left := at.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		delete(r.due, id)
		ready = append(ready, id)
	}
	return ready, wait
}

// run has start called for each sandbox when its time has come, in a goroutine of its own: one may have to wait for its turn, or for the store.
func (r *restarter) run(ctx context.Context, start func(context.Context, record.SandboxID)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		ready, wait := r.take()
		for _, id := range ready {
			wg.Go(func() { start(ctx, id) })
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-r.clock.After(wait):
		}
	}
}

// RestartSandbox stops a sandbox's process, if it runs, and starts it. What was asked is in the journal before anything is stopped: an agent
// that dies meanwhile leaves the rest to the next one.
func (a *Agent) RestartSandbox(ctx context.Context, ref string, how api.Stopping) (*record.Sandbox, error) {
	s, err := a.boxes.find(ref)
	if err != nil {
		return nil, err
	}
	if err := ours(s, "restarted"); err != nil {
		return nil, err
	}
	if s, err = a.comeAgain(ctx, s.ID); err != nil {
		return nil, err
	}
	if s.Status == record.SandboxRunning {
		if err := a.stopAgain(ctx, s, how); err != nil {
			return nil, err
		}
	}
	return a.StartSandbox(ctx, string(s.ID))
}

// comeAgain notes that a sandbox that runs is to be started when it has ended.
func (a *Agent) comeAgain(ctx context.Context, id record.SandboxID) (*record.Sandbox, error) {
	done, err := a.boxes.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer done()
	s, ok := a.boxes.get(id)
	if !ok {
		return nil, api.Refuse(api.NotFound, "No such sandbox: %s", record.ShortID(id))
	}
	if s.Status != record.SandboxRunning {
		return s, nil
	}
	next := edited(s)
	next.Again, next.Stopped = true, false
	return next, a.boxes.put(ctx, next)
}

// stopAgain stops the process of a restart, and waits until that has been dealt with.
func (a *Agent) stopAgain(ctx context.Context, s *record.Sandbox, how api.Stopping) error {
	sig, timeout := stopping(s, how)
	if err := a.runner.Stop(ctx, string(s.ID), sig, timeout); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.Name, err)
	}
	return a.settled(ctx, s.ID)
}

// finishRestarts goes on with what a user's restart had begun in the last life.
func (a *Agent) finishRestarts(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range a.boxes.snapshot() {
		if s.Again && s.Status == record.SandboxRunning {
			wg.Go(func() {
				if err := a.stopAgain(ctx, s, api.Stopping{}); err != nil && ctx.Err() == nil {
					a.log.Error("cannot go on with a restart", "sandbox", s.Name, "error", err)
				}
			})
		}
	}
}

// waiting is a sandbox that has ended, as it waits for its next start.
func waiting(s *record.Sandbox, e sandbox.Exit, policy bool, now time.Time) *record.Sandbox {
	next := edited(s)
	next.Status, next.Up, next.ExitCode, next.Error, next.Finished = record.SandboxRestarting, false, e.Code, e.Error, now
	if policy {
		next.Restarts++
	}
	for i := range next.Attachments {
		next.Attachments[i].Intent = false
	}
	return next
}

// startAgain starts a sandbox that waits for it. Where that fails it waits on, as its policy says.
func (a *Agent) startAgain(ctx context.Context, id record.SandboxID) {
	done, err := a.boxes.lock(ctx, id)
	if err != nil {
		return
	}
	defer done()
	s, ok := a.boxes.get(id)
	if !ok || s.Status != record.SandboxRestarting || s.External != "" {
		return
	}
	if _, err = a.bringUp(ctx, s, true); err == nil {
		a.log.Info("sandbox started again", "sandbox", s.Name, "restarts", s.Restarts)
		return
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*callTimeout)
	defer cancel()
	if downErr := a.failedAgain(undo, s, err); downErr != nil {
		a.log.Error("cannot take a sandbox down that did not start", "sandbox", s.Name, "error", downErr)
	}
	if ctx.Err() == nil {
		a.log.Warn("cannot start a sandbox again", "sandbox", s.Name, "error", err)
	}
}

// failedAgain takes down what a start by the policy had made.
func (a *Agent) failedAgain(ctx context.Context, s *record.Sandbox, why error) error {
	e := sandbox.Exit{Code: 125, Error: why.Error()}
	var refused *sandbox.StartError
	if errors.As(why, &refused) {
		e.Code = refused.Code
	}
	away := errors.Is(why, store.ErrUnreachable) || ctx.Err() != nil // which is no fault of the sandbox's
	yes, policy := again(s, e.Code)
	a.dns.Remove(string(s.ID))
	now, ok := a.boxes.get(s.ID)
	if !ok {
		return nil
	}
	now = remembering(now, s)
	if away || yes && policy {
		a.restarter.later(s.ID, 0)
		return a.takeDown(ctx, now, waiting(s, e, policy && !away, a.clock.Now().UTC()))
	}
	a.restarter.forget(s.ID)
	return a.bringDown(ctx, now, e.Code, e.Error)
}

// attachAgain attaches a sandbox to one of its networks. One that comes again has its endpoint still, and needs no store for it: what the
// store is to say of it is written when it can be.
func (a *Agent) attachAgain(ctx context.Context, s *record.Sandbox, n *record.Network, at record.Attachment) error {
	net, _ := a.scopeOf(n.ID).follower.Picture().Net(n.ID)
	held := s.Status == record.SandboxRestarting && at.Endpoint != "" && len(at.Addrs) > 0 && !gaveUp(net, at)
	inDoubt := a.rebooted && a.member.standing().bound == 0 // it may have been cleared while it was away, and does not know yet
	if !held || inDoubt || a.scopeOf(n.ID).joined() {
		_, err := a.attach(ctx, s.ID, n, at)
		if !held || inDoubt || !errors.Is(err, store.ErrUnreachable) { // else it has just gone, and nobody knew yet
			return err
		}
	}
	now, ok := a.boxes.get(s.ID)
	if !ok {
		return api.Refuse(api.NotFound, "No such sandbox: %s", record.ShortID(s.ID))
	}
	next := edited(now)
	at.Intent = false
	setAttachment(next, at)
	if err := a.boxes.put(ctx, next); err != nil {
		return err
	}
	if err := a.loop.do(ctx, n.ID, at.Endpoint); err != nil {
		return fmt.Errorf("bring sandbox %s into network %s: %w", s.Name, n.Name, err)
	}
	a.scopeOf(n.ID).publisher.kick()
	return a.moveDefault(ctx, now, next, n.ID)
}

// gaveUp tells that an attachment remembers addresses that are its own no more, as far as the store has told: those of a sandbox that was down,
// and not about to be started again, before it was. net is nil where nothing is known.
func gaveUp(net *record.Net, at record.Attachment) bool {
	if net == nil {
		return false
	}
	ep, known := net.Endpoint(at.Endpoint)
	return slices.ContainsFunc(at.Addrs, func(a netip.Addr) bool {
		owner, taken := net.Owner(a)
		return taken && owner != at.Endpoint || known && !slices.Contains(ep.Addrs, a)
	})
}

// kick lets the stores hear of what has become of a sandbox, when they can.
func (a *Agent) kick(s *record.Sandbox) {
	for _, at := range s.Attachments {
		a.scopeOf(at.Network).publisher.kick()
	}
}
