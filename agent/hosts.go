package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"weft/agent/about"
	"weft/agent/api"
	"weft/agent/health"
	"weft/store/record"
)

func (a *Agent) hostView(p *record.Snapshot, h *record.Host) api.HostView {
	v := api.HostView{Host: h, State: string(health.Alive), Self: h.ID == a.member.identity().Host}
	if !v.Self {
		v.State = a.stateOf(p, h.ID)
	}
	if v.Self {
		v.Notes = a.notes()
	} else if note := a.peerNote(h.ID); note != "" {
		v.Notes = []string{note}
	}
	if twin := twinNote(p, h); twin != "" {
		v.Notes = append(v.Notes, twin)
	}
	return v
}

// notes is what this host has to say of itself.
func (a *Agent) notes() []string {
	out := a.member.say()
	if err := a.follower.Doubt(); err != nil {
		out = append(out, fmt.Sprintf("%v; %s", err, doWhenLost))
	}
	for k, err := range a.picture().Corrupt() {
		out = append(out, "corrupt record "+k.String()+": "+err.Error())
	}
	return slices.Concat(out, a.certificateNotes(), a.trouble(), a.obstacles(), a.pathNotes())
}

// hostRecords returns all hosts of the cluster; this one also before it has joined.
func (a *Agent) hostRecords() []*record.Host {
	self := a.member.self()
	out := slices.Collect(a.follower.Picture().Hosts())
	if !slices.ContainsFunc(out, func(h *record.Host) bool { return h.ID == self.ID }) {
		self.Name = cmp.Or(self.Name, a.cfg.HostName)
		self.Version = about.Version
		out = append(out, &self)
	}
	return out
}

// Hosts returns all hosts of the cluster; this one also before it has joined.
func (a *Agent) Hosts(ctx context.Context) ([]api.HostView, error) {
	a.awaitPicture(ctx)
	p := a.follower.Picture()
	var out []api.HostView
	for _, h := range a.hostRecords() {
		out = append(out, a.hostView(p, h))
	}
	return out, nil
}

// Host shows one host, with what is known of its endpoints and of the paths between it and the others.
func (a *Agent) Host(ctx context.Context, ref string) (api.HostDetail, error) {
	a.awaitPicture(ctx)
	h, err := a.findHost(ref)
	if err != nil {
		return api.HostDetail{}, err
	}
	views, unknown, err := a.Endpoints(ctx, false)
	if err != nil {
		return api.HostDetail{}, err
	}
	views = slices.DeleteFunc(views, func(v api.EndpointView) bool { return v.Host != h.ID })
	paths := []api.PathView{a.pathTo(h)}
	if h.ID == a.member.identity().Host {
		paths = a.paths()
	}
	return api.HostDetail{HostView: a.hostView(a.follower.Picture(), h), Paths: paths, Endpoints: views, Unknown: unknown, Certificate: a.certificateOf(ctx, h)}, nil
}

// findHost returns the host of the cluster that ref names: a name, a full ID, or the only ID that begins with ref. "" is this host.
func (a *Agent) findHost(ref string) (*record.Host, error) {
	if ref == "" {
		ref = string(a.member.identity().Host)
	}
	return hostByRef(a.hostRecords(), ref)
}

// hostByRef chooses a host. A name that two hosts have is told apart by their IDs.
func hostByRef(hosts []*record.Host, ref string) (*record.Host, error) {
	var found []*record.Host
	for _, is := range []func(*record.Host) bool{
		func(h *record.Host) bool { return string(h.ID) == ref },
		func(h *record.Host) bool { return record.Fold(h.Name) == record.Fold(ref) },
		func(h *record.Host) bool { return ref != "" && strings.HasPrefix(string(h.ID), ref) },
	} {
		for _, h := range hosts {
			if is(h) {
				found = append(found, h)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			ids := make([]string, 0, len(found))
			for _, h := range found {
				ids = append(ids, h.Name+" is "+record.ShortID(h.ID))
			}
			return nil, api.Refuse(api.Invalid, "host %s is ambiguous: %s; give an ID", ref, strings.Join(ids, ", "))
		}
	}
	return nil, api.Refuse(api.NotFound, "no such host: %s; weft host ls shows those of the cluster", ref)
}
