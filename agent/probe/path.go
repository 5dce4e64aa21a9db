package probe

import (
	"math/rand/v2"
	"time"
)

// Times of the probing that goes on all the time. A host that stops to answer is known after at most every+spread, for the probe that comes next, and
// the patience of each of the tries: 8 s.
const (
	every     = 4 * time.Second
	spread    = time.Second // so that hosts do not ask in step
	patience  = time.Second
	tries     = 3
	fullEvery = 12 // of so many probes one has the size of the network's packets
	fullSoon  = 3  // and of so many where those do not pass
)

// State is what is known of a path.
type State string

// The states of a path.
const (
	Unknown   State = "unknown" // not asked yet, or not to be asked
	Answers   State = "ok"
	Silent    State = "no-tunnel"
	BlackHole State = "black-hole" // small packets pass, those of the network's size do not
)

// Path is what is known of the path to a host.
type Path struct {
	State    State
	RTT      time.Duration // of the last answer
	MTU      int           // that passes, as the sandboxes' packets count it; 0: not known
	Answered time.Time     // last; zero: never
	Asked    time.Time     // last; zero: never
	Heard    time.Time     // when that host asked last; zero: never. Where it does not answer, what it sends comes here, and what is sent there does not
}

// path is the probing of one host. It decides what to do at a time, and sends nothing itself.
type path struct {
	Path
	due      time.Time // of the next probe
	deadline time.Time // of the one that is under way; zero: none
	nonce    nonce     // of the one that is under way
	large    bool      // it has, or the next will have, the network's size
	blocked  bool      // large ones were lost, and it is not known yet whether small ones are too
	missed   int
	count    int // of small probes answered since the last large one
	mtu      int // of the network
}

// newPath lets the first probe go soon, and a large one with its answer.
func newPath(now time.Time, mtu int) *path {
	return &path{Path: Path{State: Unknown}, due: now.Add(time.Duration(rand.Int64N(int64(spread / 2)))), mtu: mtu, count: fullEvery - 1}
}

// next is when to look at the path again.
func (p *path) next() time.Time {
	if !p.deadline.IsZero() {
		return p.deadline
	}
	return p.due
}

// expire counts the probe that is under way as lost once its time is over. The next try is due at once.
func (p *path) expire(now time.Time) {
	if p.deadline.IsZero() || now.Before(p.deadline) {
		return
	}
	p.deadline, p.due = time.Time{}, now
	p.missed++
	switch {
	case p.missed < tries:
	case p.large: // a small one tells whether it is the size
		p.missed, p.large, p.blocked = 0, false, true
	default:
		p.missed, p.blocked, p.State, p.due = 0, false, Silent, now.Add(pause())
	}
}

// begin notes that a probe goes out, and returns its size; 0 is the smallest.
func (p *path) begin(now time.Time, n nonce) (size int) {
	p.Asked, p.deadline, p.nonce = now, now.Add(patience), n
	if p.large {
		return p.mtu
	}
	return 0
}

// answered takes the answer to the probe that is under way.
func (p *path) answered(now time.Time) {
	p.RTT, p.Answered = now.Sub(p.Asked), now
	p.deadline, p.missed, p.due = time.Time{}, 0, now.Add(pause())
	p.count++
	switch {
	case p.large:
		p.State, p.MTU, p.large, p.count = Answers, p.mtu, false, 0
	case p.blocked:
		p.State, p.MTU, p.blocked, p.count = BlackHole, 0, false, fullEvery-fullSoon
	case p.State != BlackHole:
		p.State = Answers
	}
	if p.count >= fullEvery {
		p.large, p.due = true, now
	}
}

func pause() time.Duration { return every + time.Duration(rand.Int64N(int64(spread))) }
