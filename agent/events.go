package agent

import (
	"context"
	"errors"
	"time"

	"weft/agent/api"
	"weft/agent/event"
)

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
