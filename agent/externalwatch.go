package agent

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"weft/agent/dockerd"
	"weft/kernel"
	"weft/store/record"
)

// Nobody tells of the end of a namespace that is held, and a pidfd would tell of one process only, so all are looked at, which costs a stat
// each. dockerd is asked about a container only when its first process is not what it was.
const (
	externalEvery = 500 * time.Millisecond
	askEvery      = 2 * time.Second // dockerd about one container
)

// externals is what is known of the namespaces of others from one look to the next.
type externals struct {
	mu    sync.Mutex // guards what follows
	netns map[record.SandboxID]string
	next  map[record.SandboxID]time.Time // not to be asked about before
	busy  map[record.SandboxID]bool
}

func newExternals() *externals {
	return &externals{netns: map[record.SandboxID]string{}, next: map[record.SandboxID]time.Time{}, busy: map[record.SandboxID]bool{}}
}

// begin takes the turn to deal with one; false: somebody has it, or it is too early.
func (e *externals) begin(id record.SandboxID, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy[id] || now.Before(e.next[id]) {
		return false
	}
	e.busy[id], e.next[id] = true, now.Add(askEvery)
	return true
}

func (e *externals) end(id record.SandboxID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.busy, id)
}

// at remembers where a container's namespace is.
func (e *externals) at(id record.SandboxID, netns string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.netns[id] = netns
}

func (e *externals) where(id record.SandboxID) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.netns[id]
}

// keep forgets those that are no sandboxes any more.
func (e *externals) keep(all map[record.SandboxID]*record.Sandbox) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.netns {
		if all[id] == nil {
			delete(e.netns, id)
		}
	}
	for id := range e.next {
		if all[id] == nil {
			delete(e.next, id)
		}
	}
}

// watchExternals follows what becomes of namespaces that others made.
func (a *Agent) watchExternals(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		all := a.boxes.snapshot()
		a.externals.keep(all)
		for id, s := range all {
			if s.External == "" || a.unchanged(s) || !a.externals.begin(id, a.clock.Now()) {
				continue
			}
			wg.Go(func() {
				defer a.externals.end(id)
				a.tendExternal(ctx, id)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-a.clock.After(externalEvery):
		}
	}
}

// unchanged tells that a sandbox is up in the namespace that its owner has still.
func (a *Agent) unchanged(s *record.Sandbox) bool {
	path := a.pathOf(s)
	return s.Up && s.Status == record.SandboxRunning && len(s.Attachments) > 0 && path != "" && a.sameNetns(s.ID, path)
}

// pathOf is where a sandbox's namespace should be; "" where only dockerd knows.
func (a *Agent) pathOf(s *record.Sandbox) string {
	kind, what, _ := external(s.External)
	switch kind {
	case netnsTarget:
		return what
	case pidTarget:
		if pid, err := strconv.Atoi(what); err == nil {
			return pidNetns(pid)
		}
	}
	return a.externals.where(s.ID)
}

func (a *Agent) sameNetns(id record.SandboxID, path string) bool {
	held, err := kernel.WhichNetns(a.runner.NetnsPath(string(id)))
	if err != nil {
		return false
	}
	there, err := kernel.WhichNetns(path)
	return err == nil && there == held
}

// fate is what has become of a namespace.
type fate uint8

const (
	unknown fate = iota // who knows does not say
	gone                // for good
	down                // its owner may bring it up again
	there
)

// look finds out what has become of a sandbox's namespace, and where it is now.
func (a *Agent) look(ctx context.Context, s *record.Sandbox) (fate, string) {
	kind, what, _ := external(s.External)
	path := a.pathOf(s)
	switch kind {
	case netnsTarget:
		if _, err := kernel.WhichNetns(path); err != nil {
			return gone, ""
		}
		return there, path
	case pidTarget:
		if !a.sameNetns(s.ID, path) { // another process may have the number by now
			return gone, ""
		}
		return there, path
	}
	c, err := a.docker.Container(ctx, what)
	switch {
	case errors.Is(err, dockerd.ErrNotFound):
		return gone, ""
	case err != nil && path != "" && !a.sameNetns(s.ID, path):
		return down, "" // its process is no more, that much is sure
	case err != nil:
		return unknown, ""
	case c.Netns == "":
		return down, ""
	}
	return there, c.Netns
}

// tendExternal makes a sandbox what its namespace is now.
func (a *Agent) tendExternal(ctx context.Context, id record.SandboxID) {
	s, ok := a.boxes.get(id)
	if !ok || s.External == "" {
		return
	}
	what, path := a.look(ctx, s)
	done, err := a.boxes.lock(ctx, id)
	if err != nil {
		return
	}
	defer done()
	if s, ok = a.boxes.get(id); !ok {
		return
	}
	if err := a.follow(ctx, s, what, path); err != nil && ctx.Err() == nil {
		a.log.Warn("cannot follow a network namespace of others; trying again", "sandbox", s.Name, "external", s.External, "error", err)
	}
}

// follow has the sandbox's turn.
func (a *Agent) follow(ctx context.Context, s *record.Sandbox, what fate, path string) error {
	switch {
	case len(s.Attachments) == 0 || what == gone:
		a.log.Info("letting go of a network namespace that is gone", "sandbox", s.Name, "external", s.External)
		return a.forget(ctx, s)
	case what == unknown:
		return nil
	case what == down && !s.Up && s.Status == record.SandboxExited:
		return nil
	case what == down:
		a.externals.at(s.ID, "")
		a.log.Info("a network namespace of others is down", "sandbox", s.Name, "external", s.External)
		return a.bringDown(ctx, s, 0, "")
	}
	a.externals.at(s.ID, path)
	if s.Up && s.Status == record.SandboxRunning && a.sameNetns(s.ID, path) {
		return nil
	}
	a.log.Info("following a network namespace of others", "sandbox", s.Name, "external", s.External, "to", path)
	held := edited(s)
	held.Status, held.Up = record.SandboxRestarting, false
	if err := a.takeDown(ctx, s, held); err != nil {
		return err
	}
	err := a.bringBack(ctx, held, path)
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*callTimeout)
	defer cancel()
	now, ok := a.boxes.get(s.ID)
	if !ok {
		return err
	}
	return errors.Join(err, a.takeDown(undo, now, held))
}

// bringBack attaches a sandbox that is down to its networks, in its new namespace.
func (a *Agent) bringBack(ctx context.Context, s *record.Sandbox, path string) error {
	if err := a.runner.Adopt(ctx, string(s.ID), path); err != nil {
		return err
	}
	if err := a.attachAll(ctx, s); err != nil {
		return err
	}
	now, _ := a.boxes.get(s.ID)
	if err := a.serveNames(ctx, now); err != nil {
		return err
	}
	now, _ = a.boxes.get(s.ID)
	next := edited(now)
	next.Status, next.Up, next.Started, next.Finished = record.SandboxRunning, true, a.clock.Now().UTC(), time.Time{}
	defer a.ends.signal()
	return a.boxes.put(ctx, next)
}

// adopted returns a sandbox of a namespace of others as the last agent left it: held, or down until it is known what has become of it.
func (a *Agent) adopted(s *record.Sandbox) *record.Sandbox {
	_, err := kernel.WhichNetns(a.runner.NetnsPath(string(s.ID)))
	held := err == nil && s.Up
	next := edited(s)
	for i := range next.Attachments {
		next.Attachments[i].Intent = next.Attachments[i].Intent && held
	}
	if s.Up && !held {
		next.Status = record.SandboxRestarting // its addresses stay its own meanwhile
	}
	next.Up = held
	return next
}

// externalIDs lists the sandboxes of namespaces that others made.
func externalIDs(all []*record.Sandbox) []string {
	var out []string
	for _, s := range all {
		if s.External != "" {
			out = append(out, string(s.ID))
		}
	}
	return out
}
