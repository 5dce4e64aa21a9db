//go:build !race

package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"weft/agent/peer"
	"weft/store"
	"weft/store/record"
)

// simPeers asks the agents of other hosts over links that can be cut.
type simPeers struct{ *simLife }

var _ peer.Peers = simPeers{}

const simAnswer = 2 * time.Second // the bound of a call between agents

// ask has f done by another host's agent.
func (p simPeers) ask(ctx context.Context, h *record.Host, f func(context.Context, *Agent)) error {
	ctx, cancel := context.WithTimeout(ctx, simAnswer)
	defer cancel()
	if err := sleep(ctx, p.lag(5*time.Millisecond)); err != nil {
		return fmt.Errorf("%w: %w", peer.ErrSilent, err)
	}
	for _, other := range p.host.world.hosts {
		l := other.alive()
		if l == nil || !l.isUp() || l.agent.member.identity().Host != h.ID || !l.enter() {
			continue
		}
		defer l.calls.Done()
		if p.host.world.parted(p.host, other) {
			<-ctx.Done()
			return fmt.Errorf("%w: %w", peer.ErrSilent, ctx.Err())
		}
		f(ctx, l.agent)
		if p.host.world.parted(p.host, other) {
			return fmt.Errorf("%w: its answer was lost", peer.ErrSilent)
		}
		return ctx.Err()
	}
	return peer.ErrSilent
}

func (p simPeers) self() record.HostID { return p.agent.member.identity().Host }

func (p simPeers) Hello(ctx context.Context, h *record.Host) (g peer.Greeting, err error) {
	err = p.ask(ctx, h, func(_ context.Context, a *Agent) { g = a.Greet(p.self()) })
	return g, err
}

func (p simPeers) Judge(ctx context.Context, h *record.Host, about []record.HostID) (out map[record.HostID]peer.Opinion, err error) {
	var refused error
	err = p.ask(ctx, h, func(ctx context.Context, a *Agent) { out, refused = a.Judge(ctx, p.self(), about) })
	if err == nil {
		err = refused
	}
	return out, err
}

func (p simPeers) Owns(ctx context.Context, h *record.Host, of []record.EndpointID) (has map[record.EndpointID]bool, unsure bool, err error) {
	err = p.ask(ctx, h, func(_ context.Context, a *Agent) { has, unsure = a.Owns(p.self(), of) })
	return has, unsure, err
}

func (p simPeers) Drop(ctx context.Context, h *record.Host, n record.NetworkID, ep record.EndpointID, live bool, reason string) (dropped bool, err error) {
	var refused error
	err = p.ask(ctx, h, func(ctx context.Context, a *Agent) {
		p.host.world.given(ep)
		dropped, refused = a.Drop(ctx, p.self(), n, ep, live, reason)
	})
	if err == nil {
		err = refused
	}
	return dropped, err
}

func (p simPeers) FindSandbox(ctx context.Context, h *record.Host, ref string) (found []peer.Found, err error) {
	err = p.ask(ctx, h, func(_ context.Context, a *Agent) { found = a.FindSandbox(p.self(), ref) })
	return found, err
}

// parted tells whether two hosts cannot reach each other.
func (w *simWorld) parted(a, b *simHost) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.parts[[2]*simHost{a, b}] || w.parts[[2]*simHost{b, a}]
}

func (w *simWorld) partHosts(h *simHost) {
	other := w.hosts[w.rng.IntN(len(w.hosts))]
	w.tell("%s and %s cannot reach each other", h.name, other.name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parts[[2]*simHost{h, other}] = true
}

func (w *simWorld) joinHosts(*simHost) {
	w.tell("all hosts reach each other")
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.parts)
}

// withKeys gives each host's record the key of a certificate: without one, a host is judged by its session alone.
func withKeys(t store.Txn) store.Txn {
	for i, o := range t.Then {
		h := &record.Host{}
		if o.Delete || o.Key.Partition != store.Meta || o.Key != record.HostKey(record.HostID(o.Key.Name[min(len(o.Key.Name), len("hosts/")):])) || record.Decode(o.Value, h) != nil {
			continue
		}
		h.PublicKey = "simulated"
		if b, err := record.Encode(h); err == nil {
			t.Then[i].Value = b
		}
	}
	return t
}

// absence is when a host has had no session.
type absence struct{ from, to time.Time }

// watchSessions remembers since when each host has had no session, until ctx ends.
func (w *simWorld) watchSessions(ctx context.Context) {
	c := w.store.Client()
	defer func() { _ = c.Close() }()
	for b := range c.Watch(ctx, store.Alive) {
		w.mu.Lock()
		for _, e := range b.Puts {
			s := w.silent[record.HostID(e.Key.Name)]
			w.silent[record.HostID(e.Key.Name)] = absence{s.from, time.Now()}
		}
		for _, k := range b.Dels {
			w.before[record.HostID(k.Name)] = w.silent[record.HostID(k.Name)]
			w.silent[record.HostID(k.Name)] = absence{from: time.Now()}
		}
		w.mu.Unlock()
	}
}

// fenced looks whether a host is cleared that has not been gone for long enough. A decision may be as old as a call of the store lasts.
func (w *simWorld) fenced(f *record.Fence) {
	const old = callTimeout + time.Second
	w.mu.Lock()
	for _, e := range w.store.Backup().Entries { // its host may still hold these, until it hears
		if ep := (&record.Endpoint{}); strings.HasPrefix(e.Key.Name, "ep/") && record.Decode(e.Value, ep) == nil && ep.Host == f.Host {
			w.taken[ep.ID] = true
		}
	}
	s, b, last := w.silent[f.Host], w.before[f.Host], w.fences[f.Host]
	w.fences[f.Host] = f.Incarnation
	w.mu.Unlock()
	if last == f.Incarnation {
		return // it is being cleared
	}
	for _, s := range []absence{s, b} {
		end := s.to
		if end.IsZero() {
			end = time.Now()
		}
		if !s.from.IsZero() && end.Sub(s.from) >= simGrace && time.Since(end) < old {
			return
		}
	}
	w.violated("host %.6s is cleared %s after its session ended", f.Host, time.Since(s.from))
}

// given forgets what was promised of an endpoint that another host asks its owner to drop.
func (w *simWorld) given(ep record.EndpointID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken[ep] = true
	clear(w.sure)
}
