//go:build !race

package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"weft/bridge"
	"weft/dnssvc"
	"weft/kernel"
	"weft/store"
	"weft/store/record"
)

// holdings are the store's records as they are now.
func (w *simWorld) holdings() record.Holdings {
	b := w.store.Backup()
	slices.SortFunc(b.Entries, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	h := record.Holdings{Meta: store.Snapshot{Rev: b.Rev}, Alive: store.Snapshot{Rev: b.Rev}, Others: map[string]store.Snapshot{}}
	for _, e := range b.Entries {
		switch p := e.Key.Partition; p {
		case store.Meta:
			h.Meta.Entries = append(h.Meta.Entries, e)
		case store.Alive:
			h.Alive.Entries = append(h.Alive.Entries, e)
		default:
			s := h.Others[p]
			s.Rev, s.Entries = b.Rev, append(s.Entries, e)
			h.Others[p] = s
		}
	}
	return h
}

// passing are rules that a sound store may break for a moment.
var passing = map[record.Rule]bool{record.RuleDeleter: true, record.RuleFenced: true, record.RuleNoHost: true}

// written looks at the records after a transaction: what must hold at every revision.
func (w *simWorld) written() {
	w.mu.Lock()
	lost := w.lost
	w.mu.Unlock()
	if lost {
		return
	}
	for _, f := range record.Check(w.holdings()) {
		if !passing[f.Rule] {
			w.violated("%s: %s: %s", f.Rule, f.Key, f.Wrong)
		}
	}
}

// holder is who has an address live.
type holder struct {
	host *simHost
	box  *record.Sandbox
	at   record.Attachment
}

// look checks what must hold at every moment.
func (w *simWorld) look() {
	for _, b := range w.broken() {
		w.violated("%s", b)
	}
	type place struct {
		net  record.NetworkID
		addr netip.Addr
	}
	live := map[place]holder{}
	for _, h := range w.hosts {
		l := h.alive()
		if l == nil || !l.isUp() {
			continue
		}
		h.joined = h.joined || l.agent.member.joined()
		for _, s := range l.agent.boxes.snapshot() {
			for _, at := range s.Attachments {
				if !s.Up || at.Intent || at.Endpoint == "" || l.agent.isLocal(at.Network) || w.insisted(at.Endpoint) {
					continue
				}
				for _, a := range at.Addrs {
					if o, twice := live[place{at.Network, a}]; twice {
						w.violated("%s is live twice: of %s on %s, and of %s on %s", a, o.box.Name, o.host.name, s.Name, h.name)
					}
					live[place{at.Network, a}] = holder{h, s, at}
				}
			}
		}
	}
}

func (l *simLife) isUp() bool {
	select {
	case <-l.up:
		return true
	default:
		return false
	}
}

// unsettled lists what is not as it should be once nothing fails any more.
func (w *simWorld) unsettled() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	holdings := w.holdings()
	for _, f := range record.Check(holdings) {
		say("the store: %s: %s: %s", f.Rule, f.Key, f.Wrong)
	}
	truth := map[record.EndpointID]*record.Endpoint{}
	for p, s := range holdings.Others {
		net, _ := record.Empty().Apply(p, store.Batch{Rev: s.Rev, Puts: s.Entries}).Net(record.NetworkID(strings.TrimPrefix(p, record.NetPartition(""))))
		for ep := range net.Endpoints() {
			truth[ep.ID] = ep
		}
	}
	for _, e := range holdings.Meta.Entries {
		if strings.HasPrefix(e.Key.Name, "cleared/") {
			say("the store: %s is left", e.Key)
		}
	}
	wanted := map[record.EndpointID]bool{}
	for _, h := range w.hosts {
		l := h.alive()
		if l == nil || !l.isUp() || !l.agent.member.joined() {
			say("%s has not joined", h.name)
			continue
		}
		out = append(out, l.unpublished(truth, wanted)...)
		if len(out) == 0 { // what takes longest comes last
			out = append(out, l.undone()...)
		}
		out = append(out, l.unanswered(truth)...)
	}
	for id, ep := range truth {
		if !wanted[id] {
			say("the store: endpoint %.6s (%s %v) of host %.6s is nobody's", id, ep.Name, ep.Addrs, ep.Host)
		}
	}
	return out
}

// unpublished compares the records with the sandboxes of a host.
func (l *simLife) unpublished(truth map[record.EndpointID]*record.Endpoint, wanted map[record.EndpointID]bool) (out []string) {
	a := l.agent
	say := func(format string, args ...any) { out = append(out, l.host.name+": "+fmt.Sprintf(format, args...)) }
	id := a.member.identity()
	if left, err := a.journal.Releases(context.Background()); err != nil || len(left) > 0 {
		say("releases are left: %v %v", left, err)
	}
	for sid, s := range a.boxes.snapshot() {
		l.host.mu.Lock()
		b := l.host.boxes[string(sid)]
		runs := b != nil && b.running
		l.host.mu.Unlock()
		if runs != s.Up {
			say("sandbox %s runs=%v, and the agent has it as up=%v %s", s.Name, runs, s.Up, s.Status)
		}
		for _, at := range s.Attachments {
			if at.Intent {
				say("sandbox %s: its attachment to %.6s is an intent still", s.Name, at.Network)
			}
			if at.Endpoint == "" || a.isLocal(at.Network) {
				continue
			}
			if _, there := a.picture().Network(at.Network); !there && !s.Up { // it was never in it, or it would be there
				continue
			}
			want, have := endpointOf(id.Host, id.Incarnation, s, at), truth[at.Endpoint]
			wanted[at.Endpoint] = true
			if have == nil {
				say("sandbox %s: no record of its endpoint %.6s in %.6s", s.Name, at.Endpoint, at.Network)
			} else if have.Host != want.Host || have.Name != want.Name || !slices.Equal(have.Addrs, want.Addrs) || have.Running != want.Running || have.Sandbox != sid {
				say("sandbox %s: its record says host %.6s name %s addrs %v running %v, and should say %.6s %s %v %v", s.Name,
					have.Host, have.Name, have.Addrs, have.Running, want.Host, want.Name, want.Addrs, want.Running)
			}
		}
	}
	return out
}

// undone compares a host's kernel with what its picture and its sandboxes ask for.
func (l *simLife) undone() []string {
	a := l.agent
	p := a.picture()
	v := newView(a.settings(), p, a.locals())
	v.answers = a.answering(p)
	v.published = func() []bridge.Published { return a.published(p) }
	want := v.want(hostPart)
	maps.Copy(want, v.want(portsPart))
	spaces := []string{kernel.HostNS}
	for id, lo := range v.locals {
		maps.Copy(want, v.want(id))
		for _, p := range lo.ports {
			spaces = append(spaces, p.Netns)
		}
	}
	k := l.host.now()
	own, err := k.Namespaces(context.Background())
	if err != nil {
		return []string{err.Error()}
	}
	have, err := k.Read(context.Background(), append(spaces, own...))
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, o := range kernel.Diff(want, have) {
		out = append(out, fmt.Sprintf("%s: the kernel: still to do: %s", l.host.name, o))
	}
	return out[:min(len(out), 4)]
}

// unanswered compares what a host's sandboxes are answered with what runs.
func (l *simLife) unanswered(truth map[record.EndpointID]*record.Endpoint) (out []string) {
	say := func(format string, args ...any) { out = append(out, l.host.name+": "+fmt.Sprintf(format, args...)) }
	l.names.mu.Lock()
	boxes := maps.Clone(l.names.boxes)
	l.names.mu.Unlock()
	for id, s := range l.agent.boxes.snapshot() {
		sb, asks := boxes[string(id)]
		if delete(boxes, string(id)); s.Up && l.agent.hasNames(s) != asks {
			say("sandbox %s is up, and has a resolver: %v", s.Name, asks)
		}
		if !asks {
			continue
		}
		for _, n := range sb.Networks {
			network, ok := l.agent.picture().Network(n.ID)
			if !ok {
				say("sandbox %s is up in network %.6s, which is gone", s.Name, n.ID)
				continue
			}
			for _, name := range simBoxes {
				var want []netip.Addr
				for _, ep := range truth {
					if ep.Network == n.ID && ep.Name == name && ep.Running {
						want = ep.Addrs
					}
				}
				if got := dnssvc.Addresses(l.names.cfg, sb, name+"."+network.Name); !slices.Equal(got, want) {
					say("sandbox %s is answered %s.%s with %v, and should be with %v", s.Name, name, network.Name, got, want)
				}
			}
		}
	}
	for id := range boxes {
		say("there is a resolver of sandbox %.6s, which is gone", id)
	}
	return out
}

// promise is what a user was told: this sandbox of this host runs, and is in these networks.
type promise struct {
	host *simHost
	name string
	nets []record.NetworkID
}

// promised notes what a successful run has promised, unless the process has ended meanwhile: its agent may not have heard yet.
func (w *simWorld) promised(h *simHost, a *Agent, id record.SandboxID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := a.boxes.get(id)
	if b := h.boxes[string(id)]; !ok || !s.Up || b == nil || !b.running {
		return
	}
	p := promise{host: h, name: s.Name}
	for _, at := range s.Attachments {
		p.nets = append(p.nets, at.Network)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.touched[p.name] == 0 {
		w.sure[id] = p
	}
}

// touch forgets what was promised of the sandboxes of a name while somebody changes one.
func (w *simWorld) touch(name string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.touched[name] += n
	maps.DeleteFunc(w.sure, func(_ record.SandboxID, p promise) bool { return p.name == name })
}

func (w *simWorld) forgo(id record.SandboxID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sure, id)
}

// insisted tells an endpoint that another host has cleared: its own host may not have heard yet.
func (w *simWorld) insisted(ep record.EndpointID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.taken[ep]
}

// cleared forgets what was promised of endpoints that another host clears.
func (w *simWorld) cleared(t store.Txn) {
	for _, o := range t.Then {
		c := &record.Cleared{}
		if f := (&record.Fence{}); strings.HasPrefix(o.Key.Name, "fences/") && !o.Delete && record.Decode(o.Value, f) == nil {
			w.fenced(f)
		}
		if strings.HasPrefix(o.Key.Name, "fences/") || strings.HasPrefix(o.Key.Name, "cleared/") && !o.Delete && record.Decode(o.Value, c) == nil {
			w.mu.Lock()
			w.taken[c.Endpoint] = true
			maps.DeleteFunc(w.sure, func(_ record.SandboxID, p promise) bool {
				return c.Network == "" || slices.Contains(p.nets, c.Network)
			})
			w.mu.Unlock()
		}
	}
}

// broken lists the promises that do not hold.
func (w *simWorld) broken() (out []string) {
	w.mu.Lock()
	sure := maps.Clone(w.sure)
	w.mu.Unlock()
	for id, p := range sure {
		l := p.host.alive()
		if l == nil || !l.isUp() {
			continue
		}
		s, ok := l.agent.boxes.get(id)
		if !ok || !s.Up {
			out = append(out, fmt.Sprintf("%s: sandbox %s was running, and nobody has ended it: it is gone: %v", p.host.name, p.name, !ok))
			continue
		}
		for _, n := range p.nets {
			if at, in := s.Attachment(n); !in || at.Endpoint == "" {
				out = append(out, fmt.Sprintf("%s: sandbox %s was in network %.6s, and nobody has taken it out", p.host.name, p.name, n))
			}
		}
	}
	return out
}
