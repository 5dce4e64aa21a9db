// Package event is what an agent tells of what has happened: to its log, to those who listen, and, for a while, to those who ask later.
package event

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Types of what an event is about. They are Docker's, and a few of weft's own.
const (
	Network   = "network"
	Endpoint  = "endpoint"
	Container = "container"
	Host      = "host"
	Store     = "store"
	Events    = "events" // of the stream itself
)

// Types are those that can be asked for.
var Types = []string{Container, Endpoint, Host, Network, Store}

// Actions. Those on networks and containers are Docker's.
const (
	Create     = "create"
	Start      = "start"
	Die        = "die"
	Destroy    = "destroy"
	Rename     = "rename"
	Remove     = "remove"
	Connect    = "connect"
	Disconnect = "disconnect"
	Clear      = "clear"     // a record whose sandbox or host is gone was deleted
	Isolate    = "isolate"   // a sandbox lost an attachment that was not its own any more
	Alive      = "alive"     // a host answers, and has its session
	Detached   = "detached"  // a host has no session, and answers
	Lost       = "lost"      // a host has no session, and does not answer
	Ambiguous  = "ambiguous" // a host has the name of another
	Refuse     = "refuse"    // a host or a certificate was not let in
	Away       = "away"      // the store does not answer
	Back       = "back"      // the store answers again
	Reseed     = "reseed"    // what the hosts know was put back into the store
	NoTunnel   = "no-tunnel" // what is sent to a host through the tunnel is not answered, or only what is small
	Tunnel     = "tunnel"    // it is again
	Missed     = "missed"    // who listens was too slow for some of what happened
)

// Actions are those that can be asked for.
var Actions = []string{
	Alive, Ambiguous, Away, Back, Clear, Connect, Create, Destroy, Detached, Die, Disconnect, Isolate, Lost, NoTunnel, Refuse, Remove, Rename, Reseed,
	Start, Tunnel,
}

// Event is one thing that has happened. Time is this host's, and says nothing about another host's.
type Event struct {
	Time       time.Time
	Type       string
	Action     string
	ID         string            // of what it is about
	Attributes map[string]string // name, host, network, reason, …
}

// kept is how many events are remembered for those who ask later.
const kept = 1024

// Log takes events in and gives them out. Its methods may be called from any goroutine, and none waits for a listener.
type Log struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex // guards what follows
	ring    []Event    // the oldest first
	dropped uint64     // number of the first in ring
	more    chan struct{}
}

// New returns a Log that also writes to log what was cleared, isolated or refused, and what became of hosts and the store.
func New(log *slog.Logger, now func() time.Time) *Log {
	return &Log{log: log, now: now, more: make(chan struct{})}
}

// Emit tells of an event, whose time is now unless it has one.
func (l *Log) Emit(e Event) {
	if e.Time.IsZero() {
		e.Time = l.now().UTC()
	}
	l.mu.Lock()
	l.ring = append(l.ring, e)
	if n := len(l.ring) - kept; n > 0 {
		l.ring, l.dropped = slices.Delete(l.ring, 0, n), l.dropped+uint64(n)
	}
	close(l.more)
	l.more = make(chan struct{})
	l.mu.Unlock()
	l.write(e)
}

// write puts what an operator wants to find later into the log.
func (l *Log) write(e Event) {
	level := slog.LevelInfo
	switch e.Action {
	case Clear, Isolate, Ambiguous, Lost, Detached, Refuse, Away, NoTunnel:
		level = slog.LevelWarn
	case Alive, Back, Reseed, Tunnel:
	default:
		level = slog.LevelDebug
	}
	args := []any{"event", e.Type + " " + e.Action, "id", e.ID}
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		args = append(args, k, e.Attributes[k])
	}
	l.log.Log(context.Background(), level, "event", args...)
}

// Follow gives the events that are remembered from since on, where since is not zero, and then those to come, to emit, until ctx ends or emit returns an error, which
// it returns, or until stop says that it is enough: it then ends without an error when what is there has been given. Who is too slow for what comes hears of the gap by
// missed, the number of events that it cannot have any more.
func (l *Log) Follow(ctx context.Context, since time.Time, stop <-chan time.Time, emit func(e Event, missed uint64) error) error {
	l.mu.Lock()
	next := l.dropped + uint64(len(l.ring))
	if !since.IsZero() {
		next = l.dropped
		for _, e := range l.ring {
			if !e.Time.Before(since) {
				break
			}
			next++
		}
	}
	l.mu.Unlock()
	for {
		l.mu.Lock()
		var missed uint64
		if next < l.dropped {
			missed, next = l.dropped-next, l.dropped
		}
		events, more := slices.Clone(l.ring[next-l.dropped:]), l.more
		next += uint64(len(events))
		l.mu.Unlock()
		for _, e := range events {
			if err := emit(e, missed); err != nil {
				return err
			}
			missed = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-stop:
			return nil
		case <-more:
		}
	}
}
