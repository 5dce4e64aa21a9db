package api_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/api"
	"weft/agent/event"
	weftv1 "weft/proto/weft/v1"
)

// teller is a backend with events: it gives them, each with what was missed before it, and then waits where it is to.
type teller struct {
	api.Backend
	events []event.Event
	missed []uint64
	asked  api.EventsRequest
	wait   bool
}

func (f *teller) Events(ctx context.Context, r api.EventsRequest, emit func(event.Event, uint64) error) error {
	f.asked = r
	for i, e := range f.events {
		var missed uint64
		if i < len(f.missed) {
			missed = f.missed[i]
		}
		if err := emit(e, missed); err != nil {
			return err
		}
	}
	if f.wait {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func listen(t *testing.T, f *teller, filters ...string) ([]*weftv1.Event, error) {
	t.Helper()
	r := &weftv1.EventsRequest{Since: timestamppb.New(time.Unix(1, 0)), Until: timestamppb.New(time.Unix(9, 0))}
	for _, s := range filters {
		k, v, _ := strings.Cut(s, "=")
		r.Filters = append(r.Filters, &weftv1.Filter{Key: k, Value: v})
	}
	stream, err := weftv1.NewClusterClient(client(t, f)).Events(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var out []*weftv1.Event
	for {
		e, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return out, err
		}
		out = append(out, e)
	}
}

func TestEventsByFilter(t *testing.T) {
	t.Parallel()
	f := &teller{events: []event.Event{
		{Type: event.Network, Action: event.Create, ID: "n1", Attributes: map[string]string{"name": "web", "tier": "1"}},
		{Type: event.Network, Action: event.Connect, ID: "n1", Attributes: map[string]string{"name": "web", "container": "s1", "container_name": "c1", "host": "h1", "host_name": "alpha", "endpoint": "e1"}},
		{Type: event.Container, Action: event.Die, ID: "s1", Attributes: map[string]string{"name": "c1"}},
		{Type: event.Endpoint, Action: event.Clear, ID: "e1", Attributes: map[string]string{"network": "n1", "network_name": "web", "host": "h2"}},
		{Type: event.Host, Action: event.Lost, ID: "h2", Attributes: map[string]string{"name": "beta"}},
	}}
	const created, connected, died, cleared, lost = "network create", "network connect", "container die", "endpoint clear", "host lost"
	for name, tt := range map[string]struct {
		filters []string
		want    []string
	}{
		"none":                      {nil, []string{created, connected, died, cleared, lost}},
		"a type":                    {[]string{"type=network"}, []string{created, connected}},
		"types":                     {[]string{"type=host", "type=container"}, []string{died, lost}},
		"an action":                 {[]string{"event=clear"}, []string{cleared}},
		"a network by name":         {[]string{"network=web"}, []string{created, connected, cleared}},
		"a network by its ID":       {[]string{"network=n1"}, []string{created, connected, cleared}},
		"a container by name":       {[]string{"container=c1"}, []string{connected, died}},
		"an endpoint":               {[]string{"endpoint=e1"}, []string{connected, cleared}},
		"a host by name":            {[]string{"host=alpha"}, []string{connected}},
		"a host by its ID":          {[]string{"host=h2"}, []string{cleared, lost}},
		"a label":                   {[]string{"label=tier=1"}, []string{created}},
		"a network and a type":      {[]string{"network=web", "type=endpoint"}, []string{cleared}},
		"a network that is not one": {[]string{"network=c1"}, nil},
		"nothing is no prefix":      {[]string{"network="}, nil},
	} {
		got, err := listen(t, f, tt.filters...)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, e := range got {
			said = append(said, e.Type+" "+e.Action)
		}
		if !slices.Equal(said, tt.want) {
			t.Errorf("%s: %q, want %q", name, said, tt.want)
		}
	}
	if !f.asked.Since.Equal(time.Unix(1, 0)) || !f.asked.Until.Equal(time.Unix(9, 0)) {
		t.Errorf("asked for %v", f.asked)
	}
}

func TestFiltersOfEventsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{"colour=red", "type=volume", "=x"} {
		_, err := listen(t, &teller{}, filter)
		if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), "invalid filter") || !strings.Contains(s.Message(), "it is one of") {
			t.Errorf("%s: %v", filter, err)
		}
	}
}

// Who was too slow hears of it, whatever was asked for: nobody knows what was missed.
func TestAGapInTheEventsIsTold(t *testing.T) {
	t.Parallel()
	f := &teller{events: []event.Event{{Type: event.Host, Action: event.Lost}, {Type: event.Host, Action: event.Alive}}, missed: []uint64{0, 7}}
	got, err := listen(t, f, "type=network")
	if err != nil || len(got) != 1 || got[0].Type != "events" || got[0].Action != "missed" || got[0].Attributes["count"] != "7" {
		t.Errorf("%v, %v", got, err)
	}
}

// A caller who goes away ends its stream, and the agent's end ends all of them.
func TestEventsEndWithTheirCaller(t *testing.T) {
	t.Parallel()
	conn, stop := serve(t, &teller{wait: true})
	stream, err := weftv1.NewClusterClient(conn).Events(t.Context(), &weftv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // it is being served
		t.Fatal(err)
	}
	stop()
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream outlived its agent")
	}
}
