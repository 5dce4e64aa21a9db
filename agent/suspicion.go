package agent

import "time"

// Times of a suspicion. What another firewall's reload has taken away is back within seconds also where it takes several steps.
const (
	firstSuspect = 100 * time.Millisecond
	lastSuspect  = 2 * time.Second
	suspectCalm  = 10 * time.Second
)

// suspicion says when the kernel is to be read again, because others have taken something away: at once, unless that was done just before. Two programs
// that undo each other's work would else keep the host busy with nothing but that. The zero value suspects nothing.
type suspicion struct {
	due  time.Time // zero: never
	last time.Time // when it was due
	wait time.Duration
}

// raise is told that something was taken away.
func (s *suspicion) raise(now time.Time) {
	if !s.due.IsZero() {
		return
	}
	if now.Sub(s.last) >= suspectCalm {
		s.wait = 0
	}
	if s.due = s.last.Add(s.wait); s.due.Before(now) {
		s.due = now
	}
	s.wait = min(max(2*s.wait, firstSuspect), lastSuspect)
}

// takeDue tells, once, that it is time.
func (s *suspicion) takeDue(now time.Time) bool {
	if s.due.IsZero() || now.Before(s.due) {
		return false
	}
	s.due, s.last = time.Time{}, now
	return true
}

// within is how long to wait for what is due, at most d.
func (s *suspicion) within(d time.Duration, now time.Time) time.Duration {
	if s.due.IsZero() {
		return d
	}
	return min(d, max(time.Millisecond, s.due.Sub(now)))
}
