package agent

import (
	"time"

	"weft/store/record"
)

// Clock is the time that the agent decides by: a simulation brings its own. Only spans are compared, never two hosts' times.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// machineClock is the real one. Its times carry the monotonic reading: a jump of the wall clock changes no span.
type machineClock struct{}

func (machineClock) Now() time.Time                         { return time.Now() }
func (machineClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// health is what is known of whether other hosts are there.
type health interface {
	// Answers tells whether the host does, as far as is known at this moment; it does not wait.
	Answers(p *record.Snapshot, id record.HostID) bool
}

// sessions takes a host for there as long as its session with the store lasts.
type sessions struct{}

func (sessions) Answers(p *record.Snapshot, id record.HostID) bool {
	_, alive := p.Alive(id)
	return alive
}
