// Package health judges which of the cluster's hosts are there. A host's session with the store says that it is alive. Where that has ended,
// the host itself and all live peers are asked, and one yes, or one live peer's silence, is enough for it to stay: only where
// nobody can have heard of it is it lost. The Judge decides, on what it is told and by one observer's clock; the Watcher asks.
package health

import (
	"fmt"
	"slices"
	"time"

	"weft/store/record"
)

// State is what an observer takes another host for.
type State string

// States of a host.
const (
	Unknown  State = "unknown"  // nobody has been able to tell yet
	Alive    State = "alive"    // it has its session with the store
	Detached State = "detached" // it has none, and is there: everything of its own goes on
	Lost     State = "lost"     // it has none, and nobody hears of it: its names are not answered
)

// Verdict is what is known of one host.
type Verdict struct {
	State State
	Since time.Time // by the observer's clock
	Why   string    // in words for users
}

// Seen is one host as the store shows it.
type Seen struct {
	Alive   bool // it has a session
	Askable bool // it has a certificate, by which it can be asked
}

// Sight is what an observer sees of the store at one moment. It holds other hosts only.
type Sight struct {
	Clear  bool          // the store answers, and has told who has a session
	Since  time.Time     // since when it has, without a break
	Settle time.Duration // how long after that hosts that are well may have no session yet: they come back one by one
	Hosts  map[record.HostID]Seen
}

// Answer is what came of asking.
type Answer uint8

// Answers to "is it there?".
const (
	Silence Answer = iota // nothing came: who was asked may know better, and cannot say
	No                    // it was tried, and is not there
	Yes
	Anew   // its agent answers, after a reboot: nothing of what it had is there
	Unable // there is no way to ask, such as without a certificate: it counts for nothing
)

// Evidence is what one round of questions about one host has brought. Round is the Question's.
type Evidence struct {
	Round  uint64
	Own    Answer                   // to this observer: of the host's agent, or through the tunnel
	Others map[record.HostID]Answer // what each live peer says; those that were asked
}

// Question is a host that is to be asked after, now.
type Question struct {
	Host  record.HostID
	Round uint64
	Peers []record.HostID // who else is to be asked where the host itself does not answer at once, sorted
}

// Turn is one change of a verdict.
type Turn struct {
	Host   record.HostID
	Was    State
	Now    Verdict
	Lasted time.Duration // of what it was
}

// How often a host without a session is asked after again: one that answers itself, and any other one (doubling up to slowest: every observer
// asks every peer about it).
const (
	againAnswered = 2 * time.Second
	againFirst    = time.Second
	slowest       = 15 * time.Second
)

// Judge keeps the verdicts of one observer. It is pure: it does no I/O, and has no clock but the times that it is given, which come from one clock and
// never go back. It is not safe for concurrent use.
type Judge struct {
	hosts map[record.HostID]*suspect
	clear bool
	since time.Time // of the sight
	from  time.Time // from when on a grace may run
	live  []record.HostID
	round uint64
}

// suspect is one host.
type suspect struct {
	verdict  Verdict
	seen     Seen
	graced   time.Time // since when its grace runs; zero: it does not
	asking   uint64    // the round under way; 0: none
	again    time.Time // when the next is due
	wait     time.Duration
	answered bool // it said yes itself, the last time
	anew     bool // its agent answers, in a new life: it is about to join, and no grace runs
}

// NewJudge returns a Judge that knows nobody.
func NewJudge() *Judge { return &Judge{hosts: map[record.HostID]*suspect{}} }

// Look takes in what the store shows, and returns what changes by that alone.
func (j *Judge) Look(now time.Time, s Sight) []Turn {
	j.takeSight(now, s)
	for id := range j.hosts {
		if _, known := s.Hosts[id]; !known {
			delete(j.hosts, id)
		}
	}
	var turns []Turn
	for _, id := range sortedHosts(s.Hosts) {
		h := j.hosts[id]
		if h == nil {
			h = &suspect{verdict: Verdict{State: Unknown, Since: now}}
			j.hosts[id] = h
		}
		turns = append(turns, j.see(now, id, h, s.Hosts[id], s)...)
	}
	j.takeLive(now, s)
	return turns
}

// takeSight notes since when graces may run: not while the store is away, nor for one session time after.
func (j *Judge) takeSight(now time.Time, s Sight) {
	if !s.Clear {
		for _, h := range j.hosts {
			h.graced = time.Time{}
		}
		j.clear = false
		return
	}
	if !j.clear || !s.Since.Equal(j.since) {
		j.clear, j.since = true, s.Since
		j.from = s.Since.Add(s.Settle)
		if now.Before(s.Since) {
			j.from = now.Add(s.Settle)
		}
		for _, h := range j.hosts {
			h.graced = time.Time{}
			h.again = time.Time{} // its session may have come back, or not: ask anew
		}
	}
}

// see takes in what the store shows of one host.
func (j *Judge) see(now time.Time, id record.HostID, h *suspect, seen Seen, s Sight) []Turn {
	h.seen = seen
	switch {
	case !s.Clear: // what was true stays so
		return nil
	case seen.Alive:
		h.asking, h.answered, h.anew, h.again, h.wait = 0, false, false, time.Time{}, 0
		return j.turn(now, id, h, Alive, "its session with the store lasts")
	case !seen.Askable:
		h.asking, h.again = 0, time.Time{}
		if now.Before(j.from) && (h.verdict.State == Alive || h.verdict.State == Detached) {
			return nil // after an outage hosts come back one by one
		}
		return j.turn(now, id, h, Lost, "its session with the store has ended, and it has no certificate by which it could be asked")
	}
	j.grace(now, h)
	return nil
}

// grace begins a lost host's grace as soon as one may run.
func (j *Judge) grace(now time.Time, h *suspect) {
	switch {
	case h.verdict.State != Lost || !j.clear || h.seen.Alive || h.anew:
		h.graced = time.Time{}
	case h.graced.IsZero() && !now.Before(j.from):
		h.graced = now
	}
}

// takeLive notes who can be asked about others. One more or less can change every verdict that rests on silence.
func (j *Judge) takeLive(now time.Time, s Sight) {
	if !s.Clear {
		return
	}
	var live []record.HostID
	for _, id := range sortedHosts(s.Hosts) {
		if h := s.Hosts[id]; h.Alive && h.Askable {
			live = append(live, id)
		}
	}
	if slices.Equal(live, j.live) {
		return
	}
	j.live = live
	for _, h := range j.hosts {
		if h.verdict.State == Detached && !h.answered {
			h.again, h.wait = now, 0
		}
	}
}

// turn changes a verdict.
func (j *Judge) turn(now time.Time, id record.HostID, h *suspect, to State, why string) []Turn {
	defer j.grace(now, h)
	was := h.verdict
	if was.State == to {
		h.verdict.Why = why
		return nil
	}
	h.verdict = Verdict{State: to, Since: now, Why: why}
	return []Turn{{Host: id, Was: was.State, Now: h.verdict, Lasted: now.Sub(was.Since)}}
}

// Questions returns who is to be asked after now, and begins a round of each.
func (j *Judge) Questions(now time.Time) []Question {
	var out []Question
	for _, id := range sortedHosts(j.hosts) {
		h := j.hosts[id]
		if !j.asks(h) || h.asking != 0 || now.Before(h.again) {
			continue
		}
		j.round++
		h.asking = j.round
		q := Question{Host: id, Round: j.round}
		for _, p := range j.live {
			if j.clear && p != id {
				q.Peers = append(q.Peers, p)
			}
		}
		out = append(out, q)
	}
	return out
}

// asks tells whether asking can change what is known of a host. While the store is away, only one that was lost can become more.
func (j *Judge) asks(h *suspect) bool {
	return h.seen.Askable && (j.clear && !h.seen.Alive || !j.clear && h.verdict.State == Lost)
}

// Next returns when Questions may have something new, and false where only a Look or an answer can bring it.
func (j *Judge) Next() (time.Time, bool) {
	var next time.Time
	any := false
	for _, h := range j.hosts {
		if j.asks(h) && h.asking == 0 && (!any || h.again.Before(next)) {
			next, any = h.again, true
		}
	}
	return next, any
}

// Take takes in what a round has brought. One of an earlier session's end says nothing any more.
func (j *Judge) Take(now time.Time, id record.HostID, e Evidence) []Turn {
	h := j.hosts[id]
	if h == nil || h.asking == 0 || h.asking != e.Round {
		return nil
	}
	h.asking, h.answered, h.anew = 0, e.Own == Yes, e.Own == Anew
	if h.answered {
		h.again, h.wait = now.Add(againAnswered), 0
	} else {
		h.wait = min(max(2*h.wait, againFirst), slowest)
		h.again = now.Add(h.wait)
	}
	state, why := j.decide(e)
	if state == Unknown { // nobody could be asked: the session alone says it
		if now.Before(j.from) && h.verdict.State != Unknown {
			return nil
		}
		state, why = Lost, "its session with the store has ended, and nobody can be asked"
	}
	if !j.clear && state == Lost {
		return nil
	}
	return j.turn(now, id, h, state, why)
}

// decide is the rule: one yes, or one live peer's silence, and the host stays.
func (j *Judge) decide(e Evidence) (State, string) {
	switch e.Own {
	case Yes:
		return Detached, "it has no session with the store, and answers"
	case Anew:
		return Lost, "it has begun a new life, and has not joined yet"
	}
	silent, said := record.HostID(""), 0
	for _, p := range sortedHosts(e.Others) {
		switch e.Others[p] {
		case Yes:
			return Detached, fmt.Sprintf("it has no session with the store and does not answer here, and host %s hears it", record.ShortID(p))
		case Silence:
			if slices.Contains(j.live, p) {
				silent = p
			}
		case No, Anew:
			said++
		}
	}
	switch {
	case silent != "":
		return Detached, fmt.Sprintf("it has no session with the store and does not answer here, and host %s, which may hear it, does not answer either", record.ShortID(silent))
	case e.Own == Unable && said == 0:
		return Unknown, ""
	case said > 0:
		return Lost, fmt.Sprintf("its session with the store has ended, and it answers neither here nor to %d other hosts", said)
	}
	return Lost, "its session with the store has ended, and it does not answer"
}

// Verdict returns what is known of a host.
func (j *Judge) Verdict(id record.HostID) (Verdict, bool) {
	h := j.hosts[id]
	if h == nil {
		return Verdict{State: Unknown}, false
	}
	return h.verdict, true
}

// Graced returns for how long a lost host's grace has run. False: none runs, since it is not lost, or the store is or was just away.
func (j *Judge) Graced(now time.Time, id record.HostID) (time.Duration, bool) {
	h := j.hosts[id]
	if h == nil || h.graced.IsZero() {
		return 0, false
	}
	return now.Sub(h.graced), true
}

// Due returns the hosts whose grace is over, sorted: any observer may begin to clear them, and the fence decides which one does.
func (j *Judge) Due(now time.Time, grace time.Duration) []record.HostID {
	var out []record.HostID
	for _, id := range sortedHosts(j.hosts) {
		if d, runs := j.Graced(now, id); runs && d >= grace {
			out = append(out, id)
		}
	}
	return out
}

func sortedHosts[V any](m map[record.HostID]V) []record.HostID {
	out := make([]record.HostID, 0, len(m))
	for id := range m {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}
