package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/agent/api"
	"weft/agent/event"
	"weft/store"
	"weft/store/follow"
	"weft/store/record"
)

// said is an event in short: type, action, and what it is about.
func said(es []event.Event) []string {
	var out []string
	for _, e := range es {
		words := []string{e.Type, e.Action, e.Attributes["name"]}
		for _, k := range []string{"container_name", "host_name", "oldName", "exitCode", "address"} {
			if v := e.Attributes[k]; v != "" {
				words = append(words, v)
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	return out
}

type world struct {
	t   *testing.T
	p   *record.Snapshot
	rev store.Rev
}

func (w *world) put(k store.Key, r any) {
	w.t.Helper()
	b, err := record.Encode(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.rev++
	w.p = w.p.Apply(k.Partition, store.Batch{Rev: w.rev, Puts: []store.Entry{{Key: k, Value: b, Rev: w.rev}}})
}

func (w *world) del(k store.Key) {
	w.rev++
	w.p = w.p.Apply(k.Partition, store.Batch{Rev: w.rev, Dels: []store.Key{k}})
}

func (w *world) network(id string) {
	w.put(record.NetworkKey(record.NetworkID(id)), &record.Network{ID: record.NetworkID(id), Name: id, Driver: "overlay", State: record.Active})
}

func (w *world) endpoint(id, host string, running bool) {
	w.put(record.EndpointKey("web", record.EndpointID(id)), &record.Endpoint{
		ID: record.EndpointID(id), Network: "web", Host: record.HostID(host), Sandbox: record.SandboxID("s" + id), Name: id, Running: running,
		Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")},
	})
}

// newWorld is two hosts, and a network that this one, "here", follows.
func newWorld(t *testing.T) *world {
	w := &world{t: t, p: record.Empty()}
	for _, h := range []record.HostID{"here", "there"} {
		w.put(record.HostKey(h), &record.Host{ID: h, Name: string(h), VTEP: netip.MustParseAddr("192.0.2.1")})
	}
	w.network("web")
	w.endpoint("old", "there", true)
	return w
}

// Given a change that another host made, or this one, when the picture has it, then it is told once; what this host's own endpoints do is told by its
// sandboxes.
func TestWhatThePictureTells(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*world)
		want   []string
	}{
		"nothing":                      {func(*world) {}, nil},
		"a network is made":            {func(w *world) { w.network("db") }, []string{"network create db"}},
		"a network goes":               {func(w *world) { w.del(record.NetworkKey("web")) }, []string{"network remove web"}},
		"a network is written again":   {func(w *world) { w.network("web") }, nil},
		"an endpoint comes":            {func(w *world) { w.endpoint("c1", "there", true) }, []string{"network connect web c1 there 10.0.0.2"}},
		"one that is down comes":       {func(w *world) { w.endpoint("c1", "there", false) }, nil},
		"an endpoint goes down":        {func(w *world) { w.endpoint("old", "there", false) }, []string{"network disconnect web old there 10.0.0.2"}},
		"an endpoint goes":             {func(w *world) { w.del(record.EndpointKey("web", "old")) }, []string{"network disconnect web old there 10.0.0.2"}},
		"an endpoint is written again": {func(w *world) { w.endpoint("old", "there", true) }, nil},
		"one of this host comes":       {func(w *world) { w.endpoint("c1", "here", true) }, nil},
		"a host joins": {func(w *world) {
			w.put(record.HostKey("x"), &record.Host{ID: "x", Name: "x", VTEP: netip.MustParseAddr("192.0.2.9")})
		}, []string{"host create x"}},
		"a host is removed":             {func(w *world) { w.del(record.HostKey("there")) }, []string{"host remove there"}},
		"a network is followed no more": {func(w *world) { w.p = w.p.Drop(record.NetPartition("web")) }, nil},
		"the last one leaves and it goes": {func(w *world) {
			w.del(record.EndpointKey("web", "old"))
			w.del(record.NetworkKey("web"))
		}, []string{"network disconnect web old there 10.0.0.2", "network remove web"}},
		"a name changes hands": {func(w *world) {
			w.del(record.EndpointKey("web", "old"))
			w.endpoint("c1", "there", true)
		}, []string{"network disconnect web old there 10.0.0.2", "network connect web c1 there 10.0.0.2"}},
	} {
		w := newWorld(t)
		before := w.p
		tt.change(w)
		if got := said(pictureEvents(before, w.p, "here")); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if got := pictureEvents(record.Empty(), w.p, "here"); len(got) > 0 {
			t.Errorf("%s: what was there when the agent first looked is told as new: %q", name, said(got))
		}
	}
}

// Given a change of one of this host's sandboxes, then its life and its connections are told in the order in which they happen.
func TestWhatASandboxTells(t *testing.T) {
	t.Parallel()
	began := time.Unix(100, 0)
	at := record.Attachment{Network: "web", Endpoint: "e1", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.7")}}
	box := func(change func(*record.Sandbox)) *record.Sandbox {
		s := &record.Sandbox{ID: "s1", Name: "c1", Status: record.SandboxRunning, Up: true, Started: began, Attachments: []record.Attachment{at}}
		change(s)
		return s
	}
	running := box(func(*record.Sandbox) {})
	created := box(func(s *record.Sandbox) { s.Status, s.Up, s.Attachments[0].Endpoint = record.SandboxCreated, false, "" })
	attached := box(func(s *record.Sandbox) { s.Status = record.SandboxCreated })
	intent := box(func(s *record.Sandbox) { s.Status, s.Attachments[0].Intent = record.SandboxCreated, true })
	exited := box(func(s *record.Sandbox) { s.Status, s.Up, s.ExitCode = record.SandboxExited, false, 3 })
	foreign := box(func(s *record.Sandbox) { s.External = "netns:/x" })
	const connect, disconnect = "network connect web c1 here 10.0.0.7", "network disconnect web c1 here 10.0.0.7"
	for name, tt := range map[string]struct {
		before, after *record.Sandbox
		want          []string
	}{
		"made":                        {nil, created, []string{"container create c1"}},
		"about to be attached":        {created, intent, nil},
		"attached":                    {intent, attached, []string{connect}},
		"its attachment is undone":    {intent, created, nil},
		"started":                     {attached, running, []string{"container start c1"}},
		"unchanged":                   {running, running, nil},
		"ended":                       {running, exited, []string{"container die c1 3", disconnect}},
		"removed":                     {exited, nil, []string{"container destroy c1"}},
		"removed as it ran":           {running, nil, []string{"container die c1 0", disconnect, "container destroy c1"}},
		"taken out of its network":    {running, box(func(s *record.Sandbox) { s.Attachments = nil }), []string{disconnect}},
		"another endpoint":            {running, box(func(s *record.Sandbox) { s.Attachments[0].Endpoint = "e2" }), []string{disconnect, connect}},
		"renamed":                     {running, box(func(s *record.Sandbox) { s.Name = "c2" }), []string{"container rename c2 c1"}},
		"ended and begun between":     {running, box(func(s *record.Sandbox) { s.Started = began.Add(time.Second) }), []string{"container die c1 0", "container start c1"}},
		"a namespace of others comes": {nil, foreign, []string{connect}},
		"a namespace of others goes":  {foreign, nil, []string{disconnect}},
	} {
		w := newWorld(t)
		got := said(boxEvents(tt.before, tt.after, func(s *record.Sandbox, at record.Attachment) *record.Endpoint { return endpointOf("here", 1, s, at) }, w.p))
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// Labels go with an event, as docker's, and do not hide what weft itself says.
func TestLabelsOfASandboxDoNotHideItsName(t *testing.T) {
	t.Parallel()
	s := &record.Sandbox{ID: "s1", Name: "c1", Labels: map[string]string{"tier": "1", "name": "other"}}
	got := boxEvents(nil, s, nil, record.Empty())
	if want := map[string]string{"tier": "1", "name": "c1"}; len(got) != 1 || !maps.Equal(got[0].Attributes, want) {
		t.Errorf("%v, want one with %v", got, want)
	}
	if s.Labels["name"] != "other" {
		t.Error("the sandbox's own labels were changed")
	}
}

// Given that the last agent left a sandbox running whose process is gone, then the new one tells of its end, and of nothing that went on.
func TestWhatHappenedWhileNoAgentWasThere(t *testing.T) {
	t.Parallel()
	b := newBoxes(nil)
	up := func(id string) *record.Sandbox {
		return &record.Sandbox{ID: record.SandboxID(id), Name: id, Status: record.SandboxRunning, Up: true}
	}
	ended := edited(up("a"))
	ended.Status, ended.Up, ended.ExitCode = record.SandboxExited, false, 255
	b.lastLife = []*record.Sandbox{up("a"), up("b")}
	b.load([]*record.Sandbox{ended, up("b")})
	a := &Agent{boxes: b, clock: machineClock{}, events: event.New(slog.New(slog.DiscardHandler), time.Now), member: &member{}}
	a.sight = newSight(follow.New(follow.Config{}), follow.New(follow.Config{}))
	a.tellLastLife()
	b.show(edited(ended))
	if got := said(told(t, a)); !slices.Equal(got, []string{"container die a 255"}) {
		t.Errorf("%q", got)
	}
}

// told are the events that an agent remembers.
func told(t *testing.T, a *Agent) []event.Event {
	t.Helper()
	var out []event.Event
	err := a.Events(t.Context(), api.EventsRequest{Since: time.Unix(1, 0), Until: time.Now()}, func(e event.Event, _ uint64) error {
		out = append(out, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Given a last moment, then the stream ends then: of what is remembered, and of what is to come.
func TestEventsEndWhenTheyAreToldTo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{clock: machineClock{}, events: event.New(slog.New(slog.DiscardHandler), time.Now)}
		emit := func(id string) { a.events.Emit(event.Event{Type: event.Host, Action: event.Lost, ID: id}) }
		begin := time.Now()
		emit("1")
		time.Sleep(time.Second)
		emit("2")
		listen := func(r api.EventsRequest) (ids string, took time.Duration, err error) {
			from := time.Now()
			err = a.Events(t.Context(), r, func(e event.Event, _ uint64) error { ids += e.ID; return nil })
			return ids, time.Since(from), err
		}
		if ids, took, err := listen(api.EventsRequest{Since: begin, Until: begin.Add(time.Second)}); ids != "1" || took != 0 || err != nil {
			t.Errorf("in the past: %q after %s, %v", ids, took, err)
		}
		go func() { time.Sleep(time.Second); emit("3"); time.Sleep(time.Minute); emit("4") }()
		if ids, took, err := listen(api.EventsRequest{Until: time.Now().Add(10 * time.Second)}); ids != "3" || took != 10*time.Second || err != nil {
			t.Errorf("to come: %q after %s, %v", ids, took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Events(ctx, api.EventsRequest{}, func(event.Event, uint64) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without end: %v", err)
		}
		time.Sleep(2 * time.Minute)
	})
}
