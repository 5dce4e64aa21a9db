package command

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

func eventAt(after time.Duration, action string) *weftv1.Event {
	return &weftv1.Event{Time: timestamppb.New(created.AsTime().Add(after)), Type: "host", Action: action, Id: hostID}
}

// Given an agent that dies while its events are followed, when the next one is there, then the stream goes on behind the last event, and says that there
// may be a gap.
func TestEventsGoOnOverARestartOfTheAgent(t *testing.T) {
	s, first := newShell(t), newFake()
	first.events = []*weftv1.Event{eventAt(0, "lost")}
	stop := first.serve(t, s.path)
	var out, errs syncBuffer
	ended := make(chan result, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		c := &cli{give: s.give, env: Environment{In: s.in, Out: &out, Err: &errs, Lookup: func(string) (string, bool) { return "unix://" + s.path, true }}}
		ended <- result{code: c.run(ctx, []string{"events", "--format", "{{.Action}}"})}
	}()
	eventually(t, "the first agent's event", func() bool { return out.String() == "lost\n" })
	stop()
	next := newFake()
	next.events = []*weftv1.Event{eventAt(time.Second, "alive")}
	next.serve(t, s.path)
	eventually(t, "the next agent's event", func() bool { return out.String() == "lost\nalive\n" })
	if got := last[*weftv1.EventsRequest](t, next).Since; !got.AsTime().Equal(created.AsTime().Add(1)) {
		t.Errorf("the next agent was asked for what was since %s", got.AsTime())
	}
	if got := errs.String(); !strings.Contains(got, "WARNING: the agent was restarted") {
		t.Errorf("no word of a gap: %q", got)
	}
	cancel()
	<-ended
}

// An agent that stays away ends the command, with a failure.
func TestEventsEndWhereNoAgentComesBack(t *testing.T) {
	s, f := newShell(t), newFake()
	s.give = 200 * time.Millisecond
	stop := f.serve(t, s.path)
	var out, errs syncBuffer
	ended := make(chan result, 1)
	go func() { ended <- s.runTo(&out, &errs, "events") }()
	eventually(t, "events", func() bool { return strings.Count(out.String(), "\n") == len(f.events) })
	stop()
	if r := <-ended; r.code != 1 || !strings.Contains(r.err, "Is weftd running?") {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
}

func TestEventsWithoutAnAgent(t *testing.T) {
	s := newShell(t)
	want := "Error: Cannot connect to the weft agent at unix://" + s.path + ". Is weftd running?\n"
	for _, args := range [][]string{{"events"}, {"host", "inspect"}, {"host", "rm", "h1", "h2"}, {"endpoint", "ls", "--stale"}} {
		if r := s.run(args...); r.code != 1 || r.err != want {
			t.Errorf("%q: exit %d, %q", args, r.code, r.err)
		}
	}
}

// Given an agent of an older version, then the command says so, and what to compare.
func TestCommandsThatAnOlderAgentDoesNotKnow(t *testing.T) {
	s := newShell(t)
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	old := grpc.NewServer() // knows no call at all
	done := make(chan error, 1)
	go func() { done <- old.Serve(l) }()
	t.Cleanup(func() {
		old.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for _, args := range [][]string{{"events"}, {"host", "inspect"}, {"host", "rm", "h1"}} {
		r := s.run(args...)
		if r.code != 1 || !strings.Contains(r.err, "is of another version and does not know this command") || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%q: exit %d, %q", args, r.code, r.err)
		}
	}
}

// What is asked for reaches the agent as it was meant.
func TestWhatEventsAreAskedFor(t *testing.T) {
	s, f := newShell(t), newFake()
	f.serve(t, s.path)
	begin := time.Now()
	if r := s.run("events", "--since", "1h", "--until", "0s", "-f", "type=host", "--filter", "event=lost"); r.code != 0 {
		t.Fatalf("exit %d, %q", r.code, r.err)
	}
	q := last[*weftv1.EventsRequest](t, f)
	if d := q.Since.AsTime().Sub(begin.Add(-time.Hour)); d < 0 || d > 10*time.Second {
		t.Errorf("since %s", q.Since.AsTime())
	}
	if d := q.Until.AsTime().Sub(begin); d < 0 || d > 10*time.Second {
		t.Errorf("until %s", q.Until.AsTime())
	}
	if len(q.Filters) != 2 || q.Filters[0].Key != "type" || q.Filters[1].Value != "lost" {
		t.Errorf("filters %v", q.Filters)
	}
	if r := s.run("host", "rm", "--live", "h2"); r.code != 0 || !last[*weftv1.RemoveHostRequest](t, f).Live {
		t.Errorf("rm --live: exit %d, %q", r.code, r.err)
	}
}
