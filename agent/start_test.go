package agent

import (
	"reflect"
	"testing"

	"weft/store/record"
)

// An agent that starts writes of its sandboxes what has changed: with a thousand of them that are as they were, nothing.
func TestASandboxThatIsAsItWasIsNotWritten(t *testing.T) {
	t.Parallel()
	a := &Agent{clock: machineClock{}, restarter: newRestarter(machineClock{})}
	running, attaching := box("a", in(front, "e1", "10.1.0.2")), box("b", in(front, "e2", "10.1.0.3"))
	running.Published = []record.PortBinding{{Proto: "tcp", HostPort: 80}}
	attaching.Attachments[0].Intent = true
	exited := box("c", in(front, "e3", "10.1.0.4"))
	exited.Status, exited.Up = record.SandboxExited, false
	halfway := edited(exited)
	halfway.Attachments[0].Intent = true
	created := edited(exited)
	created.Status = record.SandboxCreated
	for name, tc := range map[string]struct {
		s    *record.Sandbox
		live bool
		same bool
	}{
		"it runs":                      {running, true, true},
		"it runs, and was attaching":   {attaching, true, true},
		"it is down":                   {exited, false, true},
		"it never ran":                 {created, false, true},
		"it runs, and nobody knew":     {created, true, false},
		"it is down, in mid of attach": {halfway, false, false},
	} {
		before := edited(tc.s)
		if got := a.takeUp(tc.s, tc.live); reflect.DeepEqual(got, tc.s) != tc.same {
			t.Errorf("%s: it is to be written: %v", name, tc.same)
		}
		if !reflect.DeepEqual(before, tc.s) {
			t.Errorf("%s: the record of the last life was changed", name)
		}
	}
}

// What is kept of the sandboxes' presence is made anew with each change of them, and a caller's map is its own.
func TestPresenceFollowsTheSandboxes(t *testing.T) {
	t.Parallel()
	b, p := newBoxes(nil), &presentNow{}
	netns := func(id record.SandboxID) string { return "/ns/" + string(id) }
	ports := func(self record.HostID) int {
		now := p.of(self, 1, b, netns)
		n := len(now[front].ports)
		delete(now, front)
		return n
	}
	if n := ports("self"); n != 0 {
		t.Errorf("%d ports of no sandbox", n)
	}
	first := box("a", in(front, "e1", "10.1.0.2"))
	b.show(first)
	b.show(box("b", in(front, "e2", "10.1.0.3")))
	for range 2 {
		if n := ports("self"); n != 2 {
			t.Errorf("%d ports of two sandboxes", n)
		}
	}
	if ep := p.of("other", 1, b, netns)[front].endpoints["e1"]; ep == nil || ep.Host != "other" {
		t.Errorf("of another host: %+v", ep)
	}
	b.hidden(first)
	if n := ports("self"); n != 1 {
		t.Errorf("%d ports of one sandbox", n)
	}
}
