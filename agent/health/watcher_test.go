package health

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/agent/peer"
	"weft/store/record"
)

// realClock is the bubble's.
type realClock struct{}

func (realClock) Now() time.Time                         { return time.Now() }
func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// cluster is what one observer is in: who has a session, and what each says. Its zero answers are yes.
type cluster struct {
	peer.Nobody

	mu      sync.Mutex // guards what follows
	since   time.Time
	alive   map[record.HostID]bool
	hello   map[record.HostID]error // to this observer; errHangs: nothing comes
	judge   map[record.HostID]error // of a peer that is asked about others
	opinion map[record.HostID]peer.Opinion
	changed chan struct{}
	turns   []Turn
	at      []time.Time // of turns
}

// hang is an error that takes as long as the caller waits.
type hang struct{}

func (hang) Error() string { return "hangs" }

func newCluster(hosts ...record.HostID) *cluster {
	c := &cluster{
		since: time.Now().Add(-time.Hour), alive: map[record.HostID]bool{}, hello: map[record.HostID]error{}, judge: map[record.HostID]error{},
		opinion: map[record.HostID]peer.Opinion{}, changed: make(chan struct{}),
	}
	for _, h := range hosts {
		c.alive[h] = true
	}
	return c
}

func (c *cluster) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *cluster) answer(ctx context.Context, err error) error {
	if _, hangs := err.(hang); hangs {
		<-ctx.Done()
		return peer.ErrSilent
	}
	return err
}

func (c *cluster) Hello(ctx context.Context, h *record.Host) (peer.Greeting, error) {
	c.mu.Lock()
	err := c.hello[h.ID]
	c.mu.Unlock()
	return peer.Greeting{Host: h.ID, Incarnation: 1}, c.answer(ctx, err)
}

func (c *cluster) Judge(ctx context.Context, h *record.Host, about []record.HostID) (map[record.HostID]peer.Opinion, error) {
	c.mu.Lock()
	err, o := c.judge[h.ID], c.opinion[h.ID]
	c.mu.Unlock()
	if err := c.answer(ctx, err); err != nil {
		return nil, err
	}
	out := map[record.HostID]peer.Opinion{}
	for _, id := range about {
		out[id] = o
	}
	return out, nil
}

// watch runs a Watcher until the test's end.
func (c *cluster) watch(t *testing.T, probe func(context.Context, *record.Host) bool) *Watcher {
	t.Helper()
	w := NewWatcher(Config{
		Clock: realClock{}, Peers: func() peer.Peers { return c }, Probe: probe,
		Sight: func() Sight {
			c.mu.Lock()
			defer c.mu.Unlock()
			s := Sight{Clear: true, Since: c.since, Settle: settle, Hosts: map[record.HostID]Seen{}}
			for id, alive := range maps.All(c.alive) {
				s.Hosts[id] = Seen{Alive: alive, Askable: true}
			}
			return s
		},
		Changed: func() <-chan struct{} {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.changed
		},
		Host: func(id record.HostID) (*record.Host, bool) {
			return &record.Host{ID: id, Incarnation: 1, VTEP: netip.MustParseAddr("192.0.2.1")}, true
		},
		Turned: func(turn Turn) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.turns, c.at = append(c.turns, turn), append(c.at, time.Now())
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	synctest.Wait()
	return w
}

// From a session's end to the verdict it takes a second at most, whoever is silent; and who answers, itself or by others, stays all the time.
func TestAVerdictComesWithinASecond(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(*cluster)
		tunnel bool
		want   State
		within time.Duration
	}{
		{"it refuses the connection, and others hear nothing", func(c *cluster) { c.hello["b"] = peer.ErrSilent }, false, Lost, 50 * time.Millisecond},
		{"it is silent, and others hear nothing", func(c *cluster) { c.hello["b"] = hang{} }, false, Lost, Asking},
		{"it is silent, and so is a peer", func(c *cluster) { c.hello["b"] = hang{}; c.judge["c"] = hang{} }, false, Detached, Asking},
		{"it is silent, and a peer hears it", func(c *cluster) { c.hello["b"] = hang{}; c.opinion["d"] = peer.Opinion{Agent: true} }, false, Detached, Asking},
		{"it is silent, and a peer hears its tunnel", func(c *cluster) { c.hello["b"] = hang{}; c.opinion["d"] = peer.Opinion{Tunnel: true} }, false, Detached, Asking},
		{"it is silent, and a peer could not ask", func(c *cluster) { c.hello["b"] = hang{}; c.opinion["d"] = peer.Opinion{Unknown: true} }, false, Detached, Asking},
		{"its agent is silent, and its tunnel answers", func(c *cluster) { c.hello["b"] = hang{} }, true, Detached, Asking},
		{"it answers", func(*cluster) {}, false, Detached, 50 * time.Millisecond},
		{"another machine is at its address", func(c *cluster) { c.hello["b"] = peer.ErrStranger }, false, Lost, 50 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl := newCluster("b", "c", "d")
				c.set(cl)
				w := cl.watch(t, func(ctx context.Context, _ *record.Host) bool {
					if !c.tunnel {
						<-ctx.Done()
					}
					return c.tunnel
				})
				if v := w.Verdict("b"); v.State != Alive {
					t.Fatalf("at first b is %s", v.State)
				}
				if c.name == "it refuses the connection, and others hear nothing" || c.name == "another machine is at its address" {
					w.Probe = nil // nor is there a tunnel to it that would take its time
				}
				ended := time.Now()
				cl.change(func() { cl.alive["b"] = false })
				for time.Since(ended) < Asking && w.Verdict("b").State == Alive {
					if !w.Answers(record.Empty(), "b") {
						t.Fatal("it does not count as there while it is asked")
					}
					time.Sleep(5 * time.Millisecond)
				}
				synctest.Wait()
				if v := w.Verdict("b"); v.State != c.want || time.Since(ended) > c.within {
					t.Errorf("after %s b is %s (%s), want %s within %s", time.Since(ended), v.State, v.Why, c.want, c.within)
				}
				if got := w.Answers(record.Empty(), "b"); got != (c.want == Detached) {
					t.Errorf("it counts as there: %v", got)
				}
			})
		})
	}
}

// A host that was lost is asked again, and one that was detached too: it is lost when it has died, and alive when its session is back.
func TestAHostIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newCluster("b", "c")
		w := cl.watch(t, nil)
		cl.change(func() { cl.alive["b"] = false })
		time.Sleep(Asking)
		cl.change(func() { cl.hello["b"] = hang{} })
		time.Sleep(againAnswered + Asking)
		if s := w.Verdict("b").State; s != Lost {
			t.Errorf("it died after it was detached, and is %s", s)
		}
		cl.change(func() { cl.hello["b"] = nil })
		time.Sleep(slowest + Asking)
		if s := w.Verdict("b").State; s != Detached {
			t.Errorf("it answers again, and is %s", s)
		}
		cl.change(func() { cl.alive["b"] = true })
		time.Sleep(10 * time.Millisecond)
		var story []State
		cl.mu.Lock()
		for _, turn := range cl.turns {
			if turn.Host == "b" {
				story = append(story, turn.Now.State)
			}
		}
		cl.mu.Unlock()
		want := []State{Alive, Detached, Lost, Detached, Alive}
		if len(story) != len(want) {
			t.Fatalf("it was told to be %v, want %v", story, want)
		}
		for i := range want {
			if story[i] != want[i] {
				t.Fatalf("it was told to be %v, want %v", story, want)
			}
		}
	})
}

// What an observer tells others of a host it has asked itself, in time for their answer.
func TestOpinions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newCluster("b", "c", "d")
		cl.hello["b"], cl.hello["c"] = hang{}, peer.ErrNoIdentity
		w := cl.watch(t, nil)
		began := time.Now()
		got := w.Opinions(t.Context(), []record.HostID{"b", "c", "d"})
		if took := time.Since(began); took > ownTimeout {
			t.Errorf("it took %s", took)
		}
		for id, want := range map[record.HostID]peer.Opinion{"b": {}, "c": {Unknown: true}, "d": {Agent: true}} {
			o := got[id]
			if o.Age = 0; o != want {
				t.Errorf("of %s: %+v, want %+v", id, o, want)
			}
		}
	})
}
