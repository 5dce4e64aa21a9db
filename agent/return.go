package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/agent/event"
	"weft/store"
	"weft/store/record"
)

// A host that was cleared while it was away, and comes back with its sandboxes running, finds that others may have what was its own. Before it
// begins its next incarnation, it isolates what is not its own any more: the sandbox runs on, without its port in that network, until it
// is started anew. What nobody has taken it claims again as it was (publisher.correct). Until then nothing is written to the kernel of the networks that it
// may have lost.

// fenced tells whether a picture shows that a host's incarnation was cleared.
func fenced(p *record.Snapshot, id record.HostID, incarnation uint64) bool {
	f, _ := p.Fence(id)
	return f != nil && f.Incarnation >= incarnation
}

// heldBack tells whether this host was cleared, as a picture shows, and has not isolated yet what it lost. While the store is away it cannot find
// out, and goes on.
func (a *Agent) heldBack(p *record.Snapshot) bool {
	id := a.member.identity()
	return fenced(p, id.Host, id.Incarnation) && !a.member.away()
}

// lettingGo is how long an isolation waits for the kernel, which goes on with it after that.
const lettingGo = 2 * time.Second

// isolateLost looks in the store itself which attachments of this host are not its own any more, and isolates those. only limits it to one network;
// "" is all of the cluster's.
func (a *Agent) isolateLost(ctx context.Context, only record.NetworkID) error {
	if err := a.obeyStore(ctx); err != nil {
		return err
	}
	nets := map[record.NetworkID]*record.Net{} // nil: the network is gone
	for _, s := range a.boxes.snapshot() {
		for _, at := range s.Attachments {
			if _, read := nets[at.Network]; read || at.Endpoint == "" || a.isLocal(at.Network) || only != "" && at.Network != only {
				continue
			}
			net, err := a.netInStore(ctx, at.Network)
			if err != nil {
				return fmt.Errorf("look for what this host has lost: %w", err)
			}
			nets[at.Network] = net
		}
	}
	var errs []error
	for _, s := range a.boxes.snapshot() {
		for id, net := range nets {
			if at, ok := s.Attachment(id); ok && a.lostTo(net, s, at) != "" {
				errs = append(errs, a.isolate(ctx, s.ID, net, id))
			}
		}
	}
	return errors.Join(errs...)
}

// obeyStore drops what users have disconnected of this host while it was away, as the store has it now.
func (a *Agent) obeyStore(ctx context.Context) error {
	l, err := a.store.List(ctx, store.Meta)
	if err != nil {
		return fmt.Errorf("look for what was disconnected meanwhile: %w", err)
	}
	var errs []error
	for _, c := range record.Empty().Apply(store.Meta, store.Batch{Rev: l.Rev, Resync: true, Puts: l.Entries}).ClearedOf(a.member.identity().Host) {
		errs = append(errs, a.dropCleared(ctx, c)) // the publisher deletes the word
	}
	return errors.Join(errs...)
}

// netInStore reads the endpoints of a network that exists; nil where it does not.
func (a *Agent) netInStore(ctx context.Context, id record.NetworkID) (*record.Net, error) {
	if _, err := a.store.Get(ctx, record.NetworkKey(id)); errors.Is(err, store.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	part := record.NetPartition(id)
	l, err := a.store.List(ctx, part)
	if err != nil {
		return nil, err
	}
	net, _ := record.Empty().Apply(part, store.Batch{Rev: l.Rev, Resync: true, Puts: l.Entries}).Net(id)
	return net, nil
}

func (a *Agent) lostTo(net *record.Net, s *record.Sandbox, at record.Attachment) string {
	return lostTo(net, a.member.identity().Host, s, at, a.hostName)
}

// lostTo says why an attachment is not its sandbox's own any more; "" where it is, or nobody else has any of it. It is pure.
func lostTo(net *record.Net, self record.HostID, s *record.Sandbox, at record.Attachment, host func(record.HostID) string) string {
	if at.Endpoint == "" || at.Intent {
		return ""
	}
	if net == nil {
		return "the network was removed"
	}
	if ep, ok := net.Endpoint(at.Endpoint); ok && ep.Host == self {
		return ""
	}
	addrs := askedFor(at)
	if s.Up || s.Status == record.SandboxRestarting {
		addrs = slices.Concat(at.Addrs, addrs)
	}
	for _, addr := range addrs {
		if owner, taken := net.Owner(addr); taken && owner != at.Endpoint {
			return addr.String() + " belongs to " + ownerOf(net, addr, host)
		}
	}
	if ep, taken := net.ByName(s.Name); taken && ep.ID != at.Endpoint && ep.Host != self {
		return fmt.Sprintf("the name %s belongs to a sandbox on host %s", s.Name, host(ep.Host))
	}
	if ep, taken := net.ByMAC(at.MAC); taken && ep.ID != at.Endpoint {
		return fmt.Sprintf("%s belongs to %s on host %s", at.MAC, ep.Name, host(ep.Host))
	}
	return ""
}

func ownerOf(net *record.Net, addr netip.Addr, host func(record.HostID) string) string {
	if ep, ok := net.ByAddr(addr); ok {
		return ep.Name + " on host " + host(ep.Host)
	}
	return "another"
}

// isolate takes a sandbox's port out of a network that it has lost, at once. The attachment stays, so that a restart attaches it anew.
func (a *Agent) isolate(ctx context.Context, id record.SandboxID, net *record.Net, n record.NetworkID) error {
	done, err := a.boxes.lock(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	s, ok := a.boxes.get(id)
	if !ok {
		return nil
	}
	at, ok := s.Attachment(n)
	why := a.lostTo(net, s, at)
	if !ok || why == "" {
		return nil
	}
	next := edited(s)
	at.Endpoint, at.Addrs, at.Intent, at.Isolated = "", nil, false, why
	setAttachment(next, at)
	if err := a.boxes.put(ctx, next); err != nil {
		return err
	}
	a.tellIsolated(next, at)
	return a.cutOff(ctx, s, next, n)
}

// cutOff lets kernel and names follow an isolation.
func (a *Agent) cutOff(ctx context.Context, before, after *record.Sandbox, n record.NetworkID) error {
	defer a.uses.hold(n)()
	short, cancel := context.WithTimeout(ctx, lettingGo)
	defer cancel()
	if err := errors.Join(a.letGo(short, n), a.moveDefault(short, before, after, n)); err != nil {
		a.log.Debug("the kernel follows an isolation later", "sandbox", after.Name, "error", err)
	}
	return a.serveNames(ctx, after)
}

// tellIsolated says once what has become of a sandbox, and what to do.
func (a *Agent) tellIsolated(s *record.Sandbox, at record.Attachment) {
	network := record.ShortID(at.Network)
	if n, ok := a.picture().Network(at.Network); ok {
		network = n.Name
	}
	self := a.member.identity().Host
	a.events.Emit(event.Event{Type: event.Container, Action: event.Isolate, ID: string(s.ID), Attributes: map[string]string{
		"name": s.Name, "container": string(s.ID), "container_name": s.Name, "network": string(at.Network), "network_name": network,
		"host": string(self), "host_name": a.cfg.HostName, "reason": at.Isolated, "remedy": "weft restart " + s.Name,
	}})
}
