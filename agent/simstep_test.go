//go:build !race

package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/kernel"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// simStep is something that can happen.
type simStep struct {
	weight int
	do     func(*simWorld, *simHost)
}

// simSteps are what users, runtimes and the world around a cluster do to it.
var simSteps = []simStep{
	{6, (*simWorld).createNetwork},
	{3, (*simWorld).removeNetwork},
	{22, (*simWorld).runSandbox},
	{8, (*simWorld).race},
	{5, (*simWorld).stopSandbox},
	{5, (*simWorld).startSandbox},
	{6, (*simWorld).removeSandbox},
	{6, (*simWorld).connect},
	{5, (*simWorld).disconnect},
	{2, (*simWorld).forceDisconnect},
	{6, (*simWorld).endProcess},
	{4, (*simWorld).killAgent},
	{6, (*simWorld).lightFuse},
	{2, (*simWorld).stopAgent},
	{10, (*simWorld).startAgent},
	{2, (*simWorld).rebootHost},
	{3, (*simWorld).cutStore},
	{6, (*simWorld).reachStore},
	{2, (*simWorld).partHosts},
	{2, (*simWorld).joinHosts},
	{1, (*simWorld).hangStore},
	{1, (*simWorld).takeStoreAway},
	{4, (*simWorld).forgetOutcome},
	{3, (*simWorld).compact},
	{2, (*simWorld).slowWatches},
	{3, (*simWorld).expireSession},
	{3, (*simWorld).jumpClock},
	{2, (*simWorld).loseObject},
	{1, (*simWorld).loseRecords},
}

// step lets one thing happen to one host.
func (w *simWorld) step() {
	sum := 0
	for _, s := range simSteps {
		sum += s.weight
	}
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	n := w.rng.IntN(sum)
	for _, s := range simSteps {
		if n -= s.weight; n < 0 {
			s.do(w, h)
			return
		}
	}
}

func (w *simWorld) one(of ...string) string { return of[w.rng.IntN(len(of))] }

// netName is the name of a network, mostly of one that there is.
func (w *simWorld) netName() string {
	var names []string
	for _, e := range w.holdings().Meta.Entries {
		if name, ok := strings.CutPrefix(e.Key.Name, "names/"); ok {
			names = append(names, name)
		}
	}
	if len(names) > 0 && w.rng.IntN(8) > 0 {
		return w.one(names...)
	}
	return w.newName()
}

func (w *simWorld) newName() string { return w.one("n1", "n2", "n3") }
func (w *simWorld) boxName() string { return w.one(simBoxes...) }

// simBoxes are the names of all sandboxes: few, so that they meet.
var simBoxes = []string{"v", "w", "x", "y", "z"} // and no beginning of an ID

// ofHost is the name of a sandbox that a host has, if it has any.
func (w *simWorld) ofHost(h *simHost) string {
	if l := h.alive(); l != nil && l.isUp() {
		var names []string
		for _, s := range l.agent.boxes.snapshot() {
			names = append(names, s.Name)
		}
		if slices.Sort(names); len(names) > 0 {
			return w.one(names...)
		}
	}
	return w.boxName()
}

// call has a host's agent do something to a sandbox, if touches names one; mostly the driver waits for it. A claim fails at once where there is no store.
func (w *simWorld) call(h *simHost, touches string, claim bool, what string, f func(ctx context.Context, a *Agent) error) {
	l := h.alive()
	if l == nil {
		return
	}
	w.touch(touches, 1)
	run := func() {
		defer w.touch(touches, -1)
		select {
		case <-l.up:
		case <-l.ctx.Done():
			return
		}
		if !l.enter() {
			return
		}
		defer l.calls.Done()
		ctx, cancel := context.WithTimeout(l.ctx, simCall)
		defer cancel()
		w.tell("%s: %s …", h.name, what)
		since, unreached := w.unreached(h, 0)
		begun := time.Now()
		err := f(ctx, l.agent)
		took := time.Since(begun)
		w.tell("%s: %s: %v", h.name, what, err)
		_, still := w.unreached(h, since)
		if claim && unreached && still && l.ctx.Err() == nil && took > simClaim {
			w.violated("%s: %s took %s without the store", h.name, what, took)
		}
	}
	if w.racing || w.rng.IntN(3) == 0 {
		w.calls.Go(run)
		return
	}
	run()
}

// race has several hosts want the same at once: a name, an address, a network that another removes.
func (w *simWorld) race(*simHost) {
	w.racing = true
	defer func() { w.racing = false }()
	name, at := w.boxName(), w.attachment()
	for _, h := range w.hosts {
		at.IP = w.one("", "10.9.0.3", "10.9.0.4", "10.9.1.3", at.IP)
		switch w.rng.IntN(5) {
		case 0:
			w.createNetwork(h)
		case 1:
			w.removeNamed(h, at.Network)
		default:
			w.run(h, &record.Sandbox{Name: name, Command: []string{"sleep"}, Detached: true}, []api.AttachmentRequest{at})
			name = w.one(name, w.boxName())
		}
	}
}

func (w *simWorld) createNetwork(h *simHost) {
	name := w.newName()
	spec := registry.NetworkSpec{Name: name, Driver: "overlay"}
	switch w.rng.IntN(3) {
	case 0:
		spec.Subnets = []string{w.one("10.9.0.0/29", "10.9.0.0/24", "10.9.0.8/29")}
	case 1:
		spec.Subnets = []string{w.one("10.9.1.0/24", "10.9.0.0/16")}
	}
	w.call(h, "", true, fmt.Sprint("create network ", name, " ", spec.Subnets), func(ctx context.Context, a *Agent) error {
		_, _, err := a.CreateNetwork(ctx, api.NetworkRequest{Spec: spec})
		return err
	})
}

func (w *simWorld) removeNetwork(h *simHost) {
	w.removeNamed(h, w.netName())
}

func (w *simWorld) removeNamed(h *simHost, name string) {
	w.call(h, "", true, "remove network "+name, func(ctx context.Context, a *Agent) error {
		_, err := a.RemoveNetwork(ctx, name)
		return err
	})
}

// attachment is what a sandbox asks of a network.
func (w *simWorld) attachment() api.AttachmentRequest {
	r := api.AttachmentRequest{Network: w.netName()}
	if w.rng.IntN(4) == 0 {
		r.IP = w.one("10.9.0.3", "10.9.0.4", "10.9.1.3")
	}
	if w.rng.IntN(4) == 0 {
		r.Aliases = []string{"web"}
	}
	return r
}

func (w *simWorld) runSandbox(h *simHost) {
	s := &record.Sandbox{Name: w.boxName(), Command: []string{"sleep"}, Detached: true, AutoRemove: w.rng.IntN(6) == 0}
	if !s.AutoRemove && w.rng.IntN(4) == 0 {
		s.Restart.Name = "always"
	}
	as := []api.AttachmentRequest{w.attachment()}
	if more := w.attachment(); more.Network != as[0].Network && w.rng.IntN(3) == 0 {
		as = append(as, more)
	}
	w.run(h, s, as)
}

func (w *simWorld) run(h *simHost, s *record.Sandbox, as []api.AttachmentRequest) {
	s.Once = w.seed%3 > 0
	w.call(h, "", true, fmt.Sprintf("run %s %s in %v", s.Name, s.Restart.Name, as), func(ctx context.Context, a *Agent) error {
		made, err := a.CreateSandbox(ctx, s, as)
		if err != nil {
			return err
		}
		_, err = a.StartSandbox(ctx, string(made.ID))
		if err == nil {
			w.promised(h, a, made.ID)
		}
		return err
	})
}

func (w *simWorld) stopSandbox(h *simHost) {
	name := w.ofHost(h)
	w.call(h, name, false, "stop "+name, func(ctx context.Context, a *Agent) error {
		_, err := a.StopSandbox(ctx, name, api.Stopping{Signal: syscall.SIGTERM})
		return err
	})
}

func (w *simWorld) startSandbox(h *simHost) {
	name := w.ofHost(h)
	w.call(h, name, false, "start "+name, func(ctx context.Context, a *Agent) error {
		_, err := a.StartSandbox(ctx, name)
		return err
	})
}

func (w *simWorld) removeSandbox(h *simHost) {
	name := w.ofHost(h)
	w.call(h, name, false, "rm -f "+name, func(ctx context.Context, a *Agent) error {
		_, err := a.RemoveSandbox(ctx, name, true)
		return err
	})
}

func (w *simWorld) connect(h *simHost) {
	name, at := w.ofHost(h), w.attachment()
	w.call(h, name, true, fmt.Sprint("connect ", name, " to ", at), func(ctx context.Context, a *Agent) error {
		_, err := a.Connect(ctx, name, at)
		return err
	})
}

func (w *simWorld) disconnect(h *simHost) {
	name, net := w.ofHost(h), w.netName()
	w.call(h, name, false, "disconnect "+name+" from "+net, func(ctx context.Context, a *Agent) error {
		return a.Disconnect(ctx, net, name, api.Disconnection{})
	})
}

func (w *simWorld) forceDisconnect(h *simHost) {
	name, net, live := w.boxName(), w.netName(), w.rng.IntN(2) == 0
	w.call(h, name, false, fmt.Sprint("disconnect -f ", name, " from ", net, " live=", live), func(ctx context.Context, a *Agent) error {
		return a.Disconnect(ctx, net, name, api.Disconnection{Force: true, Live: live})
	})
}

func (w *simWorld) endProcess(h *simHost) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, b := range h.boxes { // whichever comes first
		if b.running {
			w.tell("%s: the process of %.6s ends", h.name, id)
			w.forgo(record.SandboxID(id))
			h.endLocked(id, b, w.rng.IntN(2))
			return
		}
	}
}

func (w *simWorld) killAgent(h *simHost) {
	if l := h.alive(); l != nil {
		w.tell("%s: the agent is killed", h.name)
		l.kill()
	}
}

func (w *simWorld) lightFuse(h *simHost) {
	if l := h.alive(); l != nil {
		l.gate.Lock()
		defer l.gate.Unlock()
		l.fuse = 1 + w.rng.IntN(40)
		w.tell("%s: the agent will be killed %d writes from now", h.name, l.fuse)
	}
}

func (w *simWorld) stopAgent(h *simHost) {
	if l := h.alive(); l != nil {
		w.tell("%s: the agent is stopped", h.name)
		l.stop()
	}
}

func (w *simWorld) startAgent(h *simHost) {
	for _, h := range w.hosts {
		if l := h.alive(); l != nil && l.ctx.Err() != nil {
			<-l.done
		}
		if h.alive() == nil {
			w.tell("%s: the agent starts", h.name)
			h.start()
			return
		}
	}
}

func (w *simWorld) rebootHost(h *simHost) {
	w.tell("%s: reboots", h.name)
	h.reboot()
	h.start()
}

func (w *simWorld) cutStore(h *simHost) {
	w.tell("%s: cut off the store", h.name)
	w.link(func() { w.cuts[h] = true })
}

func (w *simWorld) reachStore(*simHost) {
	w.tell("all reach the store")
	w.link(func() { clear(w.cuts); w.away = false })
	for _, h := range w.hosts {
		h.hang.Store(false)
	}
}

func (w *simWorld) hangStore(h *simHost) {
	w.tell("%s: the store does not answer", h.name)
	w.link(func() { h.hang.Store(true) })
}

func (w *simWorld) takeStoreAway(*simHost) {
	w.tell("the store is away")
	w.link(func() { w.away = true })
}

func (w *simWorld) forgetOutcome(h *simHost) {
	if l := h.alive(); l != nil {
		applied := w.rng.IntN(2) == 0
		w.tell("%s: the outcome of its next transaction is unknown, applied=%v", h.name, applied)
		l.client.NextUnknown(applied)
	}
}

func (w *simWorld) compact(h *simHost) {
	if l := h.alive(); l != nil {
		w.tell("%s: its watches have lost history", h.name)
		l.client.ForgetHistory()
	}
}

func (w *simWorld) slowWatches(h *simHost) {
	lag := time.Duration(w.rng.IntN(int(5 * time.Second)))
	if w.rng.IntN(2) == 0 {
		lag = 0
	}
	w.tell("%s: its watches lag %s", h.name, lag)
	h.watchLag.Store(int64(lag))
}

func (w *simWorld) expireSession(h *simHost) {
	l := h.alive()
	if l == nil {
		return
	}
	select {
	case <-l.up:
	default:
		return
	}
	key := record.AliveKey(l.agent.member.identity().Host)
	if w.seed%4 == 1 {
		w.deleteSign(h, key)
	} else if w.store.Expire(key) {
		w.tell("%s: its session expires", h.name)
	}
}

// deleteSign is somebody who takes a host's sign of life for rubbish; its session lasts.
func (w *simWorld) deleteSign(h *simHost, key store.Key) {
	c := w.store.Client()
	defer func() { _ = c.Close() }()
	if _, err := c.Txn(context.Background(), store.Txn{Then: []store.Op{store.Del(key)}}); err == nil {
		w.tell("%s: somebody deletes its sign of life", h.name)
	}
}

func (w *simWorld) jumpClock(h *simHost) {
	jump := time.Duration(w.rng.Int64N(int64(48*time.Hour))) - 24*time.Hour
	w.tell("%s: its clock jumps by %s", h.name, jump)
	h.jump.Add(int64(jump))
}

func (w *simWorld) loseObject(h *simHost) {
	n := w.rng.IntN(20)
	h.now().Lose(func(o kernel.Object) bool {
		n--
		return n == 0
	})
	w.tell("%s: somebody deletes an object of its kernel", h.name)
}

// loseRecords is a store whose disk was wiped, or put back to what it was.
func (w *simWorld) loseRecords(*simHost) {
	w.mu.Lock()
	lost := w.lost
	w.mu.Unlock()
	if lost || slices.ContainsFunc(w.hosts, func(h *simHost) bool { return !h.joined }) { // a new host would make a new cluster
		return
	}
	kept := w.store.Backup()
	kept.Entries = slices.DeleteFunc(kept.Entries, func(e store.Entry) bool { return e.Key.Partition == store.Alive }) // their sessions are gone
	w.mu.Lock()
	w.lost, w.kept = true, &kept
	w.mu.Unlock()
	w.tell("the store has lost all records")
	w.store.Restore(memory.Backup{})
}
