package health

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weft/store/record"
)

const settle = 10 * time.Second

// scene is one observer with two other hosts, b that is judged and c that may be asked.
type scene struct {
	t    *testing.T
	j    *Judge
	at   time.Time
	seen Sight
}

func newScene(t *testing.T) *scene {
	t.Helper()
	begin := time.Unix(1_000_000, 0)
	s := &scene{t: t, j: NewJudge(), at: begin.Add(time.Hour)}
	s.seen = Sight{Clear: true, Since: begin, Settle: settle, Hosts: map[record.HostID]Seen{"b": {Alive: true, Askable: true}, "c": {Alive: true, Askable: true}}}
	s.look()
	return s
}

func (s *scene) look() { s.j.Look(s.at, s.seen) }

// host sets what the store shows of a host.
func (s *scene) host(id record.HostID, alive, askable bool) {
	s.seen.Hosts[id] = Seen{Alive: alive, Askable: askable}
	s.look()
}

func (s *scene) pass(d time.Duration) {
	s.at = s.at.Add(d)
	s.look()
}

// answer lets the round about b that is due end with an answer of b's own, and of c's.
func (s *scene) answer(own, others Answer) {
	s.t.Helper()
	for _, q := range s.j.Questions(s.at) {
		if q.Host != "b" {
			continue
		}
		e := Evidence{Round: q.Round, Own: own, Others: map[record.HostID]Answer{}}
		for _, p := range q.Peers {
			e.Others[p] = others
		}
		s.j.Take(s.at, "b", e)
		return
	}
	s.t.Fatal("nobody asks after b")
}

func (s *scene) state() State {
	v, _ := s.j.Verdict("b")
	return v.State
}

// What one round of questions comes to: one yes, or one live peer's silence, and the host stays.
func TestWhatAnswersComeTo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		own, other Answer
		want       State
	}{
		{Yes, No, Detached},
		{Yes, Silence, Detached},
		{No, Yes, Detached},
		{No, Silence, Detached},
		{No, No, Lost},
		{No, Anew, Lost},
		{No, Unable, Lost},
		{Anew, Yes, Lost}, // nothing of what it had is there
		{Unable, No, Lost},
		{Unable, Yes, Detached},
		{Unable, Silence, Detached},
		{Unable, Unable, Lost}, // its session alone says it
	} {
		t.Run(fmt.Sprintf("own %d, other %d", c.own, c.other), func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.host("b", false, true)
			if s.state() != Alive {
				t.Errorf("before anybody is asked b is %s, want alive", s.state())
			}
			s.answer(c.own, c.other)
			if s.state() != c.want {
				t.Errorf("b is %s, want %s", s.state(), c.want)
			}
			if v, _ := s.j.Verdict("b"); v.Why == "" || !v.Since.Equal(s.at) {
				t.Errorf("the verdict is %+v", v)
			}
		})
	}
}

func TestAHostIsJudged(t *testing.T) {
	t.Parallel()
	const grace = time.Minute
	for _, c := range []struct {
		name  string
		do    func(*scene)
		state State
		due   bool // its grace is over
	}{
		{"its session lasts", func(s *scene) { s.pass(time.Hour) }, Alive, false},
		{"it has no certificate, and its session has ended", func(s *scene) { s.host("b", false, false) }, Lost, false},
		{"nobody else is there to be asked", func(s *scene) {
			s.seen.Hosts = map[record.HostID]Seen{"b": {Askable: true}}
			s.look()
			s.answer(No, Silence)
		}, Lost, false},
		{"who could be asked about it has no certificate", func(s *scene) {
			s.host("c", true, false)
			s.host("b", false, true)
			s.answer(No, Silence)
		}, Lost, false},
		{"its session comes back while it is asked", func(s *scene) {
			s.host("b", false, true)
			q := s.j.Questions(s.at)
			s.host("b", true, true)
			s.j.Take(s.at, "b", Evidence{Round: q[0].Round, Own: No})
		}, Alive, false},
		{"an answer about an earlier end of its session", func(s *scene) {
			s.host("b", false, true)
			old := s.j.Questions(s.at)
			s.host("b", true, true)
			s.host("b", false, true)
			s.j.Questions(s.at)
			s.j.Take(s.at, "b", Evidence{Round: old[0].Round, Own: No})
		}, Alive, false},
		{"detached, and then dead", func(s *scene) {
			s.host("b", false, true)
			s.answer(Yes, No)
			s.pass(againAnswered)
			s.answer(No, No)
		}, Lost, false},
		{"detached by the silence of one that then dies too", func(s *scene) {
			s.host("b", false, true)
			s.answer(No, Silence)
			s.host("c", false, true) // now, and not when it would have been asked again
			s.answer(No, Silence)
		}, Lost, false},
		{"lost, and heard of again", func(s *scene) {
			s.host("b", false, true)
			s.answer(No, No)
			s.pass(againFirst)
			s.answer(No, Yes)
		}, Detached, false},
		{"lost for the grace time", func(s *scene) {
			s.host("b", false, true)
			s.answer(No, No)
			s.pass(grace)
		}, Lost, true},
		{"lost for almost the grace time", func(s *scene) {
			s.host("b", false, true)
			s.answer(No, No)
			s.pass(grace - 1)
		}, Lost, false},
		{"lost, back, and lost again", func(s *scene) {
			s.host("b", false, true)
			s.answer(No, No)
			s.pass(grace - 1)
			s.host("b", true, true)
			s.host("b", false, true)
			s.answer(No, No)
			s.pass(grace - 1)
		}, Lost, false},
		{"lost, while the store goes away and comes back", func(s *scene) {
			s.host("b", false, true)
			s.answer(No, No)
			s.pass(grace - 1)
			s.seen.Clear = false
			s.pass(time.Hour)
			s.seen.Clear, s.seen.Since = true, s.at
			s.pass(settle + grace - 1)
		}, Lost, false},
		{"lost for session and grace time after the store was away", func(s *scene) {
			s.host("b", false, true)
			s.answer(No, No)
			s.seen.Clear = false
			s.pass(time.Hour)
			s.seen.Clear, s.seen.Since = true, s.at
			s.pass(settle)
			s.pass(grace)
		}, Lost, true},
		{"the store goes away", func(s *scene) {
			s.seen.Clear = false
			s.host("b", false, true)
		}, Alive, false},
		{"lost, and answers while the store is away", func(s *scene) {
			s.host("b", false, true)
			s.answer(No, No)
			s.seen.Clear = false
			s.pass(slowest)
			s.answer(Yes, No)
		}, Detached, false},
		{"detached, and silent while the store is away", func(s *scene) {
			s.host("b", false, true)
			s.answer(Yes, No)
			s.seen.Clear = false
			s.pass(slowest)
			if q := s.j.Questions(s.at); len(q) > 0 {
				s.t.Errorf("it asks %v while it cannot know who is alive", q)
			}
		}, Detached, false},
		{"without a certificate, just after the store was away", func(s *scene) {
			s.host("b", true, false)
			s.seen.Clear = false
			s.pass(time.Hour)
			s.seen.Clear, s.seen.Since = true, s.at
			s.host("b", false, false)
		}, Alive, false},
		{"without a certificate, a session time after the store was away", func(s *scene) {
			s.host("b", true, false)
			s.seen.Clear = false
			s.pass(time.Hour)
			s.seen.Clear, s.seen.Since = true, s.at
			s.host("b", false, false)
			s.pass(settle)
		}, Lost, false},
		{"lost before this observer came", func(s *scene) {
			s.j = NewJudge()
			s.seen.Since = s.at
			s.host("b", false, true)
			s.answer(No, No)
			s.pass(grace)
		}, Lost, false},
		{"a new life of it answers", func(s *scene) {
			s.host("b", false, true)
			s.answer(Anew, No)
			s.pass(time.Hour)
		}, Lost, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			c.do(s)
			if got := s.state(); got != c.state {
				t.Errorf("b is %s, want %s", got, c.state)
			}
			if got := slices.Contains(s.j.Due(s.at, grace), "b"); got != c.due {
				t.Errorf("its grace is over: %v, want %v", got, c.due)
			}
		})
	}
}

// Whatever happens in whatever order: a host with a session is alive; none is lost in a round that had a yes or a live peer's silence; no grace is
// over that has not run whole, in one piece, with the store in sight; and a host that is not known for sure is asked after.
func TestTheJudgeKeepsItsRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const grace = 20 * time.Second
		ids := []record.HostID{"b", "c", "d"}
		j, now := NewJudge(), time.Unix(1, 0)
		s := Sight{Clear: true, Since: now, Settle: settle, Hosts: map[record.HostID]Seen{}}
		for _, id := range ids {
			s.Hosts[id] = Seen{Alive: true, Askable: true}
		}
		clearFrom, lostFrom := now, map[record.HostID]time.Time{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				id := rapid.SampledFrom(ids).Draw(t, "host")
				s.Hosts[id] = Seen{Alive: rapid.Bool().Draw(t, "alive"), Askable: rapid.Bool().Draw(t, "askable")}
			case 1:
				now = now.Add(time.Duration(rapid.IntRange(1, 15_000).Draw(t, "ms")) * time.Millisecond)
			case 2:
				if s.Clear = !s.Clear; s.Clear {
					s.Since, clearFrom = now, now
				}
			default:
				for _, q := range j.Questions(now) {
					e := Evidence{Round: q.Round, Own: Answer(rapid.IntRange(0, 4).Draw(t, "own")), Others: map[record.HostID]Answer{}}
					stays := e.Own == Yes
					for _, p := range q.Peers {
						a := Answer(rapid.IntRange(0, 4).Draw(t, "other"))
						e.Others[p] = a
						stays = stays || e.Own != Anew && (a == Yes || a == Silence && s.Hosts[p].Alive && s.Hosts[p].Askable)
					}
					was, _ := j.Verdict(q.Host)
					j.Look(now, s)
					j.Take(now, q.Host, e)
					if v, _ := j.Verdict(q.Host); stays && v.State == Lost && was.State != Lost && s.Clear && s.Hosts[q.Host].Askable {
						t.Fatalf("%s is lost after %+v", q.Host, e)
					}
				}
			}
			j.Look(now, s)
			for _, id := range ids {
				v, _ := j.Verdict(id)
				if s.Clear && s.Hosts[id].Alive && v.State != Alive {
					t.Fatalf("%s has a session, and is %s", id, v.State)
				}
				switch {
				case v.State != Lost || !s.Clear:
					delete(lostFrom, id)
				case lostFrom[id].IsZero():
					lostFrom[id] = now
				}
			}
			for _, id := range j.Due(now, grace) {
				from, lost := lostFrom[id]
				if !lost || !s.Clear || now.Sub(from) < grace || now.Sub(clearFrom) < grace+settle {
					t.Fatalf("the grace of %s is over after %s, %s after the store came into sight", id, now.Sub(from), now.Sub(clearFrom))
				}
			}
		}
		if s.Clear {
			asked := j.Questions(now.Add(slowest))
			for _, id := range ids {
				h := s.Hosts[id]
				if h.Askable && !h.Alive && !slices.ContainsFunc(asked, func(q Question) bool { return q.Host == id }) {
					t.Fatalf("nobody asks after %s", id)
				}
			}
		}
	})
}
