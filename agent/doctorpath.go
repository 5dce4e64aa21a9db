package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/agent/api"
	"weft/agent/event"
	"weft/agent/health"
	"weft/agent/probe"
	"weft/overlay"
	"weft/store/record"
)

// How a path is asked when somebody wants to know at once.
const (
	askTimes = 3
	askWait  = 300 * time.Millisecond
)

// wireProbes makes what probes the tunnels.
func (a *Agent) wireProbes() {
	if a.machine.probes == nil {
		a.probes = noProber{}
		return
	}
	a.probes = a.machine.probes(probe.Config{
		Self: string(a.member.identity().Host), Clock: a.clock, Log: a.log, Pairs: func() []probe.Pair { return probePairs(a.tunnels()) }, Changed: a.pathChanged,
	})
}

// tunnel is a network's tunnel as this host has it.
type tunnel struct {
	way  probe.Way
	n    overlay.Network
	self record.HostID
	ends map[record.HostID]netip.Addr
}

// tunnels are those of all networks that this host shares with another one, by network ID.
func (a *Agent) tunnels() []tunnel {
	v := newView(a.settings(), a.picture(), a.locals())
	var out []tunnel
	for id := range v.locals {
		n, ok := v.network(id)
		if !ok || n.Record.IsLocal() || !n.Record.Open() || len(n.Ports) == 0 {
			continue
		}
		ends := overlay.Ends(v.settings, n)
		if len(ends) == 0 {
			continue
		}
		out = append(out, tunnel{n: n, self: v.settings.Self, ends: ends, way: probe.Way{
			Network: string(id), Netns: overlay.NetnsPath(v.settings, id), Bridge: overlay.BridgeName, Tunnel: overlay.TunnelName,
			VNI: n.Record.VNI, MTU: n.Record.MTU, MAC: overlay.TunnelMAC(id, v.settings.Self),
		}})
	}
	slices.SortFunc(out, func(x, y tunnel) int { return cmp.Compare(x.way.Network, y.way.Network) })
	return out
}

// probePairs chooses for each host the first network of those that it shares with this one: the other host chooses the same. It is pure.
func probePairs(all []tunnel) []probe.Pair {
	var out []probe.Pair
	chosen := map[record.HostID]bool{}
	for _, t := range all {
		for h := range t.ends {
			if !chosen[h] {
				chosen[h] = true
				out = append(out, probe.Pair{Host: string(h), MAC: overlay.TunnelMAC(t.n.Record.ID, h), Way: t.way})
			}
		}
	}
	slices.SortFunc(out, func(x, y probe.Pair) int { return cmp.Compare(x.Host, y.Host) })
	return out
}

// askTunnel asks a host's agent through the tunnel now, for a second at most.
func (a *Agent) askTunnel(ctx context.Context, h record.HostID) (yes, known bool) {
	for range askTimes {
		switch _, err := a.probes.Ask(ctx, string(h), 0, false, askWait); {
		case err == nil:
			return true, true
		case errors.Is(err, probe.ErrNoWay):
			return false, false
		}
	}
	return false, true
}

// probeTunnel tells whether a host answers through the tunnel, for a second at most: its kernel is asked, whether or not there is an agent. It is false where no
// network of IPv4 is shared with it.
func (a *Agent) probeTunnel(ctx context.Context, h *record.Host) bool {
	for _, t := range a.tunnels() {
		through, ok := t.through(h.ID)
		if !ok {
			continue
		}
		for range askTimes {
			if err := a.probes.Reaches(ctx, through, askWait); err == nil {
				return true
			}
		}
		return false
	}
	return false
}

// through is how the kernel of a host is asked in a network.
func (t tunnel) through(h record.HostID) (probe.Through, bool) {
	if _, ok := t.ends[h]; !ok {
		return probe.Through{}, false
	}
	for _, p := range t.n.Ports {
		for _, addr := range p.Endpoint.Addrs {
			if pool, ok := t.n.Record.PoolOf(addr); ok && addr.Is4() && pool.Gateway.IsValid() {
				return probe.Through{Way: t.way, MAC: overlay.TunnelMAC(t.n.Record.ID, h), From: addr, Gateway: pool.Gateway}, true
			}
		}
	}
	return probe.Through{}, false
}

// pathTo is how this host reaches another, as far as is known.
func (a *Agent) pathTo(h *record.Host) api.PathView {
	p, now := a.probes.Path(string(h.ID)), a.clock.Now()
	v := api.PathView{Host: h.ID, Name: h.Name, State: string(p.State), RTT: p.RTT, MTU: p.MTU}
	if !p.Answered.IsZero() {
		v.Age = now.Sub(p.Answered)
	}
	switch p.State {
	case probe.Unknown:
		v.Why = "no network is shared with it"
	case probe.BlackHole:
		v.Why = "small packets pass the tunnel, and those of the networks' size do not"
	case probe.Silent:
		v.RTT, v.Age = 0, now.Sub(p.Asked)
		v.Why = silence(p, now)
		if state := a.stateOf(a.follower.Picture(), h.ID); state == string(health.Lost) || state == string(health.Detached) {
			v.State, v.Why = "no-agent", "its agent does not answer"
		}
	}
	return v
}

// heardLately is how long ago a host that probes this one was heard at most.
const heardLately = 15 * time.Second

// silence says in which direction a path is cut, as far as one end can tell.
func silence(p probe.Path, now time.Time) string {
	if !p.Heard.IsZero() && now.Sub(p.Heard) < heardLately {
		return "its packets arrive here, and those from here do not arrive there"
	}
	return "none of its packets arrives here"
}

// pathChanged tells once of a path that is cut or is whole again.
func (a *Agent) pathChanged(host string, before, after probe.Path) {
	h, ok := a.follower.Picture().Host(record.HostID(host))
	if !ok || before.State == probe.Unknown && after.State == probe.Answers {
		return
	}
	action, why := event.NoTunnel, a.pathTo(h).Why
	if after.State == probe.Answers {
		action, why = event.Tunnel, fmt.Sprintf("it answers in %s", after.RTT.Round(time.Microsecond))
	}
	a.events.Emit(event.Event{Type: event.Host, Action: action, ID: host, Attributes: map[string]string{
		"name": h.Name, "host": host, "host_name": h.Name, "reason": why,
	}})
}

// paths are those from this host to all others.
func (a *Agent) paths() []api.PathView {
	self := a.member.identity().Host
	var out []api.PathView
	for h := range a.follower.Picture().Hosts() {
		if h.ID != self {
			out = append(out, a.pathTo(h))
		}
	}
	slices.SortFunc(out, func(x, y api.PathView) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Host, y.Host)) })
	return out
}

// pathNotes are the paths that are cut, in words.
func (a *Agent) pathNotes() []string {
	var out []string
	for _, p := range a.paths() {
		if p.State == string(probe.Silent) || p.State == string(probe.BlackHole) {
			out = append(out, "path to host "+p.Name+": "+p.State+": "+p.Why+"; see weft doctor")
		}
	}
	return out
}

// noProber is for machines without tunnels.
type noProber struct{}

func (noProber) Run(ctx context.Context) { <-ctx.Done() }
func (noProber) Look()                   {}
func (noProber) Path(string) probe.Path  { return probe.Path{State: probe.Unknown} }
func (noProber) Ask(context.Context, string, int, bool, time.Duration) (time.Duration, error) {
	return 0, probe.ErrNoWay
}
func (noProber) Sizes(context.Context, string) (probe.Sizes, error) {
	return probe.Sizes{}, probe.ErrNoWay
}
func (noProber) Checksums(context.Context, string) (probe.Checksums, error) {
	return probe.Checksums{}, probe.ErrNoWay
}
func (noProber) Reaches(context.Context, probe.Through, time.Duration) error { return probe.ErrNoWay }
