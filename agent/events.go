package agent

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/agent/api"
	"weft/agent/event"
	"weft/store/record"
)

// What people make and end is told here, and nowhere else, from how things were and are: this host's sandboxes and their connections from the changes of
// its own list, and everything else from the picture, whoever has changed it. So each fact is told once, also where nobody but another host knew of it.

// errReached ends a stream of events whose last moment has come.
var errReached = errors.New("the last event that was asked for")

// Events gives the events that this host remembers from r.Since on, and those to come, to emit.
func (a *Agent) Events(ctx context.Context, r api.EventsRequest, emit func(e event.Event, missed uint64) error) error {
	var stop <-chan time.Time
	if !r.Until.IsZero() {
		stop = a.clock.After(r.Until.Sub(a.clock.Now()))
	}
	err := a.events.Follow(ctx, r.Since, stop, func(e event.Event, missed uint64) error {
		if !r.Until.IsZero() && !e.Time.Before(r.Until) {
			return errReached
		}
		return emit(e, missed)
	})
	if errors.Is(err, errReached) {
		return nil
	}
	return err
}

// tellChanges tells of what differs from one picture to the next, the first of which are given, and of the store, until ctx ends.
func (a *Agent) tellChanges(ctx context.Context, global, local *record.Snapshot) {
	self, gone := a.member.identity().Host, false
	for {
		elsewhere, here, turned := a.follower.Changed(), a.local.follower.Changed(), a.member.turned()
		now, nowLocal := a.follower.Picture(), a.local.follower.Picture()
		for _, e := range slices.Concat(pictureEvents(global, now, self), pictureEvents(local, nowLocal, self)) {
			a.events.Emit(e)
		}
		global, local, gone = now, nowLocal, a.tellStore(gone)
		select {
		case <-ctx.Done():
			return
		case <-elsewhere:
		case <-here:
		case <-turned:
		}
	}
}

// tellStore tells when the store stops to answer, and when it answers again. It returns whether it is away.
func (a *Agent) tellStore(gone bool) bool {
	switch st := a.member.standing(); {
	case !gone && !st.joined && st.why != nil:
		a.events.Emit(event.Event{Type: event.Store, Action: event.Away, ID: a.storeName(), Attributes: map[string]string{"reason": oneLine(st.why)}})
		return true
	case gone && st.joined:
		a.events.Emit(event.Event{Type: event.Store, Action: event.Back, ID: a.storeName()})
		return false
	}
	return gone
}

// pictureEvents is what has happened from one picture of a scope to the next. The connections of the host itself are told by boxEvents.
func pictureEvents(before, after *record.Snapshot, self record.HostID) []event.Event {
	var made, joined, ended []event.Event
	for was, is := range after.NetworkChanges(before) {
		switch {
		case was == nil:
			made = append(made, event.Event{Type: event.Network, Action: event.Create, ID: string(is.ID), Attributes: ofNetwork(is)})
		case is == nil:
			ended = append(ended, event.Event{Type: event.Network, Action: event.Remove, ID: string(was.ID), Attributes: ofNetwork(was)})
		}
	}
	for was, is := range after.HostChanges(before) {
		switch {
		case was == nil:
			made = append(made, event.Event{Type: event.Host, Action: event.Create, ID: string(is.ID), Attributes: map[string]string{"name": is.Name}})
		case is == nil:
			ended = append(ended, event.Event{Type: event.Host, Action: event.Remove, ID: string(was.ID), Attributes: map[string]string{"name": was.Name}})
		}
	}
	for was, is := range after.EndpointChanges(before) {
		up, down := is != nil && is.Running, was != nil && was.Running
		switch shown := cmp.Or(is, was); {
		case shown.Host == self || up == down:
		case up:
			joined = append(joined, connection(event.Connect, after, is))
		default:
			joined = append(joined, connection(event.Disconnect, before, was))
		}
	}
	return slices.Concat(inOrder(made), inOrder(joined), inOrder(ended))
}

// inOrder sorts what has no order of its own: who leaves makes way for who comes.
func inOrder(es []event.Event) []event.Event {
	slices.SortFunc(es, func(x, y event.Event) int {
		return cmp.Or(-cmp.Compare(x.Action, y.Action), cmp.Compare(x.ID, y.ID), cmp.Compare(x.Attributes["container_name"], y.Attributes["container_name"]))
	})
	return es
}

// ofNetwork is what there is to say of a network: its labels too, as docker.
func ofNetwork(n *record.Network) map[string]string {
	out := maps.Clone(n.Labels)
	if out == nil {
		out = map[string]string{}
	}
	out["name"], out["type"] = n.Name, n.Driver
	return out
}

// connection is a network's event, as docker's, that an endpoint is in it, or is not any more.
func connection(action string, p *record.Snapshot, ep *record.Endpoint) event.Event {
	e := event.Event{Type: event.Network, Action: action, ID: string(ep.Network), Attributes: map[string]string{
		"container": string(ep.Sandbox), "container_name": ep.Name, "endpoint": string(ep.ID), "host": string(ep.Host), "address": addressList(ep),
	}}
	if n, ok := p.Network(ep.Network); ok {
		e.Attributes["name"], e.Attributes["type"] = n.Name, n.Driver
	}
	if h, ok := p.Host(ep.Host); ok {
		e.Attributes["host_name"] = h.Name
	}
	return e
}

func addressList(ep *record.Endpoint) string {
	out := make([]string, 0, len(ep.Addrs))
	for _, a := range ep.Addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}

// tellBox tells of a change of one of this host's sandboxes.
func (a *Agent) tellBox(before, after *record.Sandbox) {
	self := a.member.identity()
	endpoint := func(s *record.Sandbox, at record.Attachment) *record.Endpoint {
		return endpointOf(self.Host, self.Incarnation, s, at)
	}
	for _, e := range boxEvents(before, after, endpoint, a.picture()) {
		a.events.Emit(e)
	}
}

// tellLastLife tells of what became of this host's sandboxes while no agent was there, and from now on of each change of one.
func (a *Agent) tellLastLife() {
	a.boxes.tell = a.tellBox
	for _, was := range a.boxes.lastLife {
		if now, ok := a.boxes.get(was.ID); ok {
			a.tellBox(was, now)
		}
	}
	a.boxes.lastLife = nil
}

// boxEvents is what has happened from one state of a sandbox to the next; nil before its first, and after its last. A namespace that others made has no life
// that weft could tell of, and its connections are weft's.
func boxEvents(before, after *record.Sandbox, endpoint func(*record.Sandbox, record.Attachment) *record.Endpoint, p *record.Snapshot) []event.Event {
	var out []event.Event
	life := func(s *record.Sandbox, action string, more ...string) {
		if s.External != "" {
			return
		}
		e := event.Event{Type: event.Container, Action: action, ID: string(s.ID), Attributes: maps.Clone(s.Labels)}
		if e.Attributes == nil {
			e.Attributes = map[string]string{}
		}
		e.Attributes["name"] = s.Name
		for i := 0; i+1 < len(more); i += 2 {
			e.Attributes[more[i]] = more[i+1]
		}
		out = append(out, e)
	}
	if before == nil {
		life(after, event.Create)
		before = &record.Sandbox{ID: after.ID, Name: after.Name}
	}
	last := after == nil
	if last {
		after = &record.Sandbox{ID: before.ID, Name: before.Name, External: before.External, Labels: before.Labels, ExitCode: before.ExitCode}
	}
	if before.Name != after.Name {
		life(after, event.Rename, "oldName", before.Name)
	}
	runs, ran := after.Status == record.SandboxRunning, before.Status == record.SandboxRunning
	anew := runs && ran && !after.Started.Equal(before.Started)
	if ran && (!runs || anew) {
		life(after, event.Die, "exitCode", strconv.Itoa(after.ExitCode))
	}
	for _, ep := range parted(before, after, endpoint) {
		out = append(out, connection(event.Disconnect, p, ep))
	}
	for _, ep := range parted(after, before, endpoint) {
		out = append(out, connection(event.Connect, p, ep))
	}
	if runs && (!ran || anew) {
		life(after, event.Start)
	}
	if last {
		life(after, event.Destroy)
	}
	return out
}

// parted are the endpoints that s has in use and other has not.
func parted(s, other *record.Sandbox, endpoint func(*record.Sandbox, record.Attachment) *record.Endpoint) []*record.Endpoint {
	uses := func(s *record.Sandbox, at record.Attachment) bool {
		return s.Up && at.Endpoint != "" && !at.Intent && len(at.Addrs) > 0
	}
	var out []*record.Endpoint
	for _, at := range s.Attachments {
		is, there := other.Attachment(at.Network)
		if uses(s, at) && !(there && is.Endpoint == at.Endpoint && uses(other, is)) {
			out = append(out, endpoint(s, at))
		}
	}
	return out
}
