package agent

import (
	"context"
	"time"

	"weft/agent/event"
	"weft/agent/health"
	"weft/agent/peer"
	"weft/store"
	"weft/store/record"
)

// wireHealth makes what judges which other hosts are there.
func (a *Agent) wireHealth() {
	a.health = health.NewWatcher(health.Config{
		Clock: a.clock, Peers: func() peer.Peers { return a.peers }, Sight: a.othersSeen, Changed: a.follower.Changed,
		Host: func(id record.HostID) (*record.Host, bool) { return a.follower.Picture().Host(id) }, Turned: a.hostTurned,
		Probe: a.probeTunnel,
	})
}

// othersSeen is what the store shows of the other hosts.
func (a *Agent) othersSeen() health.Sight {
	st, p, self := a.member.standing(), a.follower.Picture(), a.member.identity().Host
	s := health.Sight{
		Clear: st.joined && p.Rev(store.Alive) > 0, Since: st.since, Settle: st.ttl, Hosts: map[record.HostID]health.Seen{},
	}
	for h := range p.Hosts() {
		if h.ID == self {
			continue
		}
		_, alive := p.Alive(h.ID)
		s.Hosts[h.ID] = health.Seen{Alive: alive, Askable: h.PublicKey != ""}
	}
	return s
}

// hostTurned tells of a host that has come, or gone, or is there without its session; the loop follows, since what is balanced goes to those who answer.
func (a *Agent) hostTurned(t health.Turn) {
	signal(a.loop.nudged)
	if t.Was == health.Unknown && t.Now.State == health.Alive {
		return // it is only seen for the first time
	}
	actions := map[health.State]string{health.Alive: event.Alive, health.Detached: event.Detached, health.Lost: event.Lost}
	name := a.hostName(t.Host)
	a.events.Emit(event.Event{Type: event.Host, Action: actions[t.Now.State], ID: string(t.Host), Attributes: map[string]string{
		"name": name, "host": string(t.Host), "host_name": name, "reason": t.Now.Why,
	}})
}

// sessionLasts tells whether a host has its session with the store, as far as a picture knows.
func (a *Agent) sessionLasts(p *record.Snapshot, id record.HostID) bool {
	_, alive := p.Alive(id)
	return alive
}

// stateOf is another host's state for users. While this host cannot see the others, it is not known.
func (a *Agent) stateOf(p *record.Snapshot, id record.HostID) string {
	switch {
	case !a.member.joined():
		return string(health.Unknown)
	case a.sessionLasts(p, id):
		return string(health.Alive)
	}
	v := a.health.Verdict(id)
	if v.State == health.Alive { // its session has just ended, and it is being asked
		return string(health.Detached)
	}
	return string(v.State)
}

// Judge tells another agent what this one knows of hosts: it asks them itself.
func (a *Agent) Judge(ctx context.Context, _ record.HostID, about []record.HostID) (map[record.HostID]peer.Opinion, error) {
	if len(about) > maxJudged {
		about = about[:maxJudged]
	}
	return a.health.Opinions(ctx, about), nil
}

// maxJudged is how many hosts one question may be about.
const maxJudged = 1000

// boundOf is the longest that a dead host's names are answered: until its session has gone, and it has been asked.
func boundOf(session time.Duration) time.Duration {
	if session == 0 {
		return 0
	}
	return session + health.Asking
}
