package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"weft/agent/about"
	"weft/agent/api"
	"weft/agent/event"
	"weft/agent/journal"
	"weft/agent/peer"
	"weft/agent/registry"
	"weft/identity"
	"weft/store"
	"weft/store/record"
)

// peerRetry is how long after a failure the agent tries again to listen for its peers, or to greet one.
const (
	peerRetry    = time.Second
	peerRetryMax = time.Minute
)

// noIdentity is that of a host that has no certificate and gets none.
type noIdentity struct{}

func (noIdentity) ServerTLS() *tls.Config              { return &tls.Config{} } // nobody is served
func (noIdentity) ClientTLS(identity.Host) *tls.Config { return &tls.Config{} } // nor called
func (noIdentity) Current() (*tls.Certificate, error)  { return nil, identity.ErrNone }
func (noIdentity) Changed() <-chan struct{}            { return nil }

// wirePeers lets the agent ask others, once it has a certificate to show. A simulation has brought peers of its own.
func (a *Agent) wirePeers() {
	if _, none := a.peers.(peer.Nobody); !none {
		return
	}
	a.clients = peer.NewClients(peer.ClientConfig{
		Identity: a.identity, Now: a.clock.Now, Greet: func() peer.Greeting { return a.Greet("") },
	})
	a.peers = a.clients
}

// servePeers answers other agents on the advertised address as long as this host has a certificate; without one nobody could know it.
func (a *Agent) servePeers(ctx context.Context) {
	told := ""
	for ctx.Err() == nil {
		changed, again := a.identity.Changed(), (<-chan time.Time)(nil)
		if _, err := a.identity.Current(); err == nil {
			err = a.answerPeers(ctx)
			if err != nil && err.Error() != told {
				told = err.Error()
				a.log.Error("other agents cannot reach this one; trying again", "address", a.underlay.advertise, "error", err)
			}
			again = a.clock.After(peerRetry)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-again:
		}
	}
}

// answerPeers listens and answers until ctx ends.
func (a *Agent) answerPeers(ctx context.Context) error {
	l, err := a.machine.peers(a.underlay.advertise)
	if err != nil {
		return fmt.Errorf("listen for other agents on %s (--cluster-advertise): %w", a.underlay.advertise, err)
	}
	refuse := ""
	if a.cfg.RefuseForwarded {
		refuse = a.cfg.HostName
	}
	forwarded := api.NewForwarded(a, a.log, refuse)
	defer forwarded.Wait()
	return peer.Serve(ctx, l, peer.ServerConfig{
		Log: a.log, Identity: a.identity, Backend: a, Enrolment: a.enrolment, Member: a.memberNamed, Refused: a.refusals.tell,
		Forwarded: forwarded.Register, Unary: []grpc.UnaryServerInterceptor{forwarded.Unary}, Stream: []grpc.StreamServerInterceptor{forwarded.Stream},
	})
}

// newsPatience is how long a host that the picture does not have is waited for: its own picture may be newer than this one's.
const newsPatience = time.Second

// memberNamed returns the host of the cluster that a certificate names.
func (a *Agent) memberNamed(ctx context.Context, n identity.Named, print string) (record.HostID, error) {
	ctx, cancel := context.WithTimeout(ctx, newsPatience)
	defer cancel()
	for {
		changed := a.follower.Changed()
		id, err := memberIn(a.follower.Picture(), n, print, a.pki.given())
		if err == nil {
			return id, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", err
		}
	}
}

// memberIn finds the host of a picture that a certificate names. Those of a PKI that others keep may come with new keys at any time. It is pure.
func memberIn(p *record.Snapshot, n identity.Named, print string, pki bool) (record.HostID, error) {
	if p.Rev(store.Meta) == 0 {
		return "", peer.ErrUnsettled
	}
	h, ok := p.Host(record.HostID(n.ID))
	if n.ID == "" { // a certificate that weft has not made
		for other := range p.Hosts() {
			if n.Is(peer.NamedAs(other)) {
				h, ok = other, true
			}
		}
	}
	switch {
	case p.Revoked(print):
		return "", fmt.Errorf("%s %s", n, registry.Untrusted)
	case !ok:
		return "", fmt.Errorf("%s is not in the cluster (any more): it was removed, or has not joined its store yet", n)
	case !pki && h.PublicKey != "" && h.PublicKey != print:
		return "", fmt.Errorf("%s shows another key than the one that it joined with: its record has the new one when its agent has started again", n)
	}
	return h.ID, nil
}

// refusals tells of those who were not let in, each at most once a minute.
type refusals struct {
	clock Clock
	emit  func(event.Event)
	name  func(record.HostID) string

	mu   sync.Mutex // guards last
	last map[string]time.Time
}

const (
	refusalEvery = time.Minute
	maxRefusals  = 1000 // that are remembered
)

func (r *refusals) tell(host record.HostID, from net.Addr, why error) {
	who := string(host)
	if where, _, err := net.SplitHostPort(from.String()); who == "" && err == nil {
		who = where
	}
	if !r.due(who) {
		return
	}
	e := event.Event{Type: event.Host, Action: event.Refuse, ID: string(host), Attributes: map[string]string{"from": from.String(), "reason": why.Error()}}
	if host != "" {
		e.Attributes["host"], e.Attributes["name"] = string(host), r.name(host)
	}
	r.emit(e)
}

func (r *refusals) due(who string) bool {
	now := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, told := r.last[who]; told && now.Sub(at) < refusalEvery || len(r.last) >= maxRefusals && !r.forget(now) {
		return false
	}
	if r.last == nil {
		r.last = map[string]time.Time{}
	}
	r.last[who] = now
	return true
}

// forget makes room; it tells whether there is some.
func (r *refusals) forget(now time.Time) bool {
	for who, at := range r.last {
		if now.Sub(at) >= refusalEvery {
			delete(r.last, who)
		}
	}
	return len(r.last) < maxRefusals
}

// keepPeers lets connections go with their hosts, and greets each host once for each of its agent's lives: so it is known who speaks which
// version of the contract.
func (a *Agent) keepPeers(ctx context.Context) {
	if a.clients == nil {
		return
	}
	defer a.clients.Close()
	var seen store.Rev                   // of the hosts
	met := map[record.HostID]time.Time{} // begin of the agent's life that was greeted
	due, wait, again := true, time.Duration(0), (<-chan time.Time)(nil)
	for ctx.Err() == nil {
		changed, identity := a.follower.Changed(), a.identity.Changed()
		p := a.follower.Picture()
		if rev := p.Rev(store.Meta); rev != seen || due {
			seen, due = rev, false
			a.clients.Keep(p.Host)
			if a.greetAll(ctx, p, met) {
				wait, again = 0, nil
			} else {
				wait = min(max(2*wait, peerRetry), peerRetryMax)
				again = a.clock.After(wait)
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-identity:
			due = true
		case <-again:
			due = true
		}
	}
}

// greetAll greets those who are there and were not greeted yet; false: some did not answer.
func (a *Agent) greetAll(ctx context.Context, p *record.Snapshot, met map[record.HostID]time.Time) bool {
	if _, err := a.identity.Current(); err != nil {
		return true
	}
	var mu sync.Mutex // guards met and all
	all := true
	var wg sync.WaitGroup
	for _, h := range a.others() {
		if at, ok := met[h.ID]; ok && at.Equal(h.Started) || !a.health.Answers(p, h.ID) {
			continue
		}
		wg.Go(func() {
			_, err := a.peers.Hello(ctx, h)
			mu.Lock()
			defer mu.Unlock()
			if err == nil || errors.Is(err, peer.ErrOld) {
				met[h.ID] = h.Started
				return
			}
			all = false
		})
	}
	wg.Wait()
	return all
}

// peerNote says where a host's agent and this one have no version of the contract in common; "" where they have.
func (a *Agent) peerNote(id record.HostID) string {
	if a.clients == nil {
		return ""
	}
	if f, ok := a.clients.Foreign(id); ok {
		return f.Error()
	}
	return ""
}

// Greet is what this agent says of itself.
func (a *Agent) Greet(record.HostID) peer.Greeting {
	id := a.member.identity()
	return peer.Greeting{
		Host: id.Host, Cluster: id.Cluster, Incarnation: id.Incarnation, Instance: a.member.instance, Version: about.Version, StoreUp: a.member.joined(),
	}
}

// Owns tells which of these endpoints sandboxes of this host have, or are about to have. The journal was read before anyone could ask, and has
// what is being attached from before its record is written: it is never unsure.
func (a *Agent) Owns(_ record.HostID, of []record.EndpointID) (has map[record.EndpointID]bool, unsure bool) {
	has = map[record.EndpointID]bool{}
	for _, s := range a.boxes.snapshot() {
		for _, at := range s.Attachments {
			if slices.Contains(of, at.Endpoint) {
				has[at.Endpoint] = true
			}
		}
	}
	return has, false
}

// FindSandbox looks among this host's sandboxes, an exact match first.
func (a *Agent) FindSandbox(_ record.HostID, ref string) []peer.Found {
	return findBoxes(a.boxes.snapshot(), ref)
}

// findBoxes returns the sandbox of that name or ID, or else those whose IDs begin so. It is pure.
func findBoxes(all map[record.SandboxID]*record.Sandbox, ref string) []peer.Found {
	var out []peer.Found
	for id, s := range all {
		switch {
		case ref == "":
		case record.Fold(s.Name) == record.Fold(ref):
			return []peer.Found{{ID: id, Name: s.Name, Exact: true}}
		case string(id) == ref, strings.HasPrefix(string(id), ref):
			out = append(out, peer.Found{ID: id, Name: s.Name, Exact: string(id) == ref})
		}
	}
	slices.SortFunc(out, func(x, y peer.Found) int { return cmp.Compare(x.ID, y.ID) })
	return out
}

// Drop takes a sandbox of this host out of a network for another host, or deletes a record of this host's that no sandbox has.
func (a *Agent) Drop(ctx context.Context, from record.HostID, n record.NetworkID, ep record.EndpointID, live bool, reason string) (bool, error) {
	for id, s := range a.boxes.snapshot() {
		if hasEndpoint(s, ep) {
			return a.dropAttachment(ctx, from, id, n, ep, live, reason)
		}
	}
	return a.dropRecord(ctx, from, n, ep, reason)
}

func (a *Agent) dropAttachment(ctx context.Context, from record.HostID, id record.SandboxID, n record.NetworkID, ep record.EndpointID, live bool, reason string) (bool, error) {
	done, err := a.boxes.lock(ctx, id)
	if err != nil {
		return false, err
	}
	defer done()
	s, ok := a.boxes.get(id)
	switch {
	case !ok || !hasEndpoint(s, ep):
		return false, nil
	case s.Up && !live:
		return false, api.Refuse(api.InUse, "sandbox %s is up on host %s, and has this endpoint", s.Name, a.cfg.HostName)
	}
	if err := a.detach(ctx, s, n); err != nil {
		return false, err
	}
	a.cleared(from, n, ep, s.Name, reason)
	now, _ := a.boxes.get(id)
	return true, a.serveNames(ctx, now)
}

// dropRecord deletes a record of this host's that no sandbox has.
func (a *Agent) dropRecord(ctx context.Context, from record.HostID, n record.NetworkID, ep record.EndpointID, reason string) (bool, error) {
	releases, err := a.journal.Releases(ctx)
	if err != nil {
		return false, err
	}
	pending := slices.ContainsFunc(releases, func(r journal.Release) bool { return r.Endpoint == ep })
	if pending {
		a.global.publisher.flush(ctx)
	}
	as, err := a.global.claim(ctx)
	if err != nil {
		return false, err
	}
	defer a.uses.hold(n)()
	if err := a.global.follower.WaitSynced(ctx, record.NetPartition(n)); err != nil {
		return false, a.global.explain(fmt.Errorf("read the endpoints of network %s: %w", record.ShortID(n), err))
	}
	var r *record.Endpoint
	net, ok := a.global.follower.Picture().Net(n)
	if !ok {
		return pending, nil
	}
	switch r, ok = net.Endpoint(ep); {
	case !ok:
		return pending, nil
	case r.Host != as.Host:
		return false, api.Refuse(api.InUse, "endpoint %s is host %s's, and not this one's", r.Name, a.hostName(r.Host))
	}
	if _, err := a.global.registry.DeleteEndpoint(ctx, as, n, ep); err != nil {
		return false, kindOf(a.global.explain(err))
	}
	a.cleared(from, n, ep, r.Name, reason)
	return true, nil
}

// cleared tells that another host had something of this one's deleted.
func (a *Agent) cleared(from record.HostID, n record.NetworkID, ep record.EndpointID, name, reason string) {
	self := a.member.identity().Host
	e := event.Event{Type: event.Endpoint, Action: event.Clear, ID: string(ep), Attributes: map[string]string{
		"name": name, "host": string(self), "host_name": a.cfg.HostName, "network": string(n), "by": a.hostName(from), "reason": reason,
	}}
	if net, ok := a.picture().Network(n); ok {
		e.Attributes["network_name"] = net.Name
	}
	a.events.Emit(e)
}
