package api

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/event"
	weftv1 "weft/proto/weft/v1"
)

func (c *cluster) Events(r *weftv1.EventsRequest, ss grpc.ServerStreamingServer[weftv1.Event]) error {
	match, err := eventFilter(r.Filters)
	if err != nil {
		return err
	}
	q := EventsRequest{}
	if r.Since != nil {
		q.Since = r.Since.AsTime()
	}
	if r.Until != nil {
		q.Until = r.Until.AsTime()
	}
	if err := ss.SendHeader(nil); err != nil { // from here on nothing is missed, which one who waits for an event must know
		return err
	}
	return c.b.Events(ss.Context(), q, func(e event.Event, missed uint64) error {
		if missed > 0 {
			if err := ss.Send(missedProto(e.Time, missed)); err != nil {
				return err
			}
		}
		if !match(e) {
			return nil
		}
		return ss.Send(eventProto(e))
	})
}

func eventProto(e event.Event) *weftv1.Event {
	return &weftv1.Event{Time: timestamppb.New(e.Time), Type: e.Type, Action: e.Action, Id: e.ID, Attributes: e.Attributes}
}

// missedProto tells a reader that was too slow how many events it does not get. No filter leaves that out: nobody knows what they were.
func missedProto(at time.Time, n uint64) *weftv1.Event {
	return &weftv1.Event{
		Time: timestamppb.New(at), Type: event.Events, Action: event.Missed, Attributes: map[string]string{"count": strconv.FormatUint(n, 10)},
	}
}

// eventFilter has the keys of docker events that weft has things for, and endpoint and host of its own: what the event is about, or has to do with.
func eventFilter(fs []*weftv1.Filter) (func(event.Event) bool, error) {
	about := func(typ string) func(event.Event, string) bool {
		return func(e event.Event, s string) bool {
			if e.Type == typ && (hasPrefix(e.ID, s) || e.Attributes["name"] == s) {
				return true
			}
			return hasPrefix(e.Attributes[typ], s) || s != "" && e.Attributes[typ+"_name"] == s
		}
	}
	check := map[string]func(e event.Event, value string) bool{
		"type":  func(e event.Event, s string) bool { return e.Type == s },
		"event": func(e event.Event, s string) bool { return e.Action == s },
		"label": func(e event.Event, s string) bool { return hasLabel(e.Attributes, s) },
	}
	for _, typ := range []string{event.Network, event.Endpoint, event.Container, event.Host} {
		check[typ] = about(typ)
	}
	keys := slices.Sorted(maps.Keys(check))
	for _, f := range fs {
		switch {
		case check[f.Key] == nil:
			return nil, Refuse(Invalid, "invalid filter '%s': it is one of %s", f.Key, strings.Join(keys, ", "))
		case f.Key == "type" && !slices.Contains(event.Types, f.Value):
			return nil, Refuse(Invalid, "invalid filter: 'type'='%s': it is one of %s", f.Value, strings.Join(event.Types, ", "))
		}
	}
	return matcher(fs, check), nil
}

func hasPrefix(id, s string) bool { return s != "" && strings.HasPrefix(id, s) }
