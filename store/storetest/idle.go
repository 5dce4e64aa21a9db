package storetest

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"weft/store"
)

// idleHosts are clients that do what an agent does on a quiet day: watch, hold a session, and ask for something once a second.
type idleHosts struct {
	most    int // connections and writes of one in a second
	meters  []*meter
	watches []*follower
	s       store.Store // writes for them to hear
}

// Of idle hosts.
const (
	idleCount   = 4
	idleWatches = 3
	askEvery    = time.Second
)

func (s *site) idleHosts(t *testing.T, prefix string) *idleHosts {
	t.Helper()
	h := &idleHosts{most: s.Attempts, s: s.client(t, prefix, s.near)}
	for i := range idleCount {
		m := &meter{dial: s.near}
		c := s.client(t, prefix, m.Dial)
		for range idleWatches {
			h.watches = append(h.watches, newFollower(t, "idle", c))
		}
		session(t, c, fmt.Sprintf("idle%d", i), hostTTL)
		h.meters = append(h.meters, m)
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			ask(t.Context(), c)
		}()
		t.Cleanup(func() { <-asked }) // the test's context has ended by then
	}
	return h
}

// ask is a caller who takes no answer for an answer, and asks again.
func ask(ctx context.Context, s store.Store) {
	for ctx.Err() == nil {
		call, done := context.WithTimeout(ctx, callWait)
		_, _ = s.Get(call, key("x")) // whatever it says: this is about what it costs
		done()
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
		}
	}
}

func (h *idleHosts) reset() {
	for _, m := range h.meters {
		m.reset()
	}
}

// wereQuiet checks that what they did since the reset is bounded, and that no two did it in step.
func (h *idleHosts) wereQuiet(t *testing.T, took time.Duration) {
	t.Helper()
	var gaps []float64
	for _, m := range h.meters {
		dials, writes := m.reset()
		t.Logf("measured: %s: %d connections tried and %d writes by one client in %v", t.Name(), len(dials), writes, took.Round(time.Millisecond))
		if most := int(float64(h.most) * took.Seconds()); len(dials)+writes > most {
			t.Errorf("%d connections tried and %d writes in %v, at most %d are right", len(dials), writes, took, most)
		}
		for i := 1; i < len(dials); i++ {
			gaps = append(gaps, dials[i].Sub(dials[i-1]).Seconds())
		}
	}
	if v := variation(gaps); len(gaps) > 2 && v < 0.05 {
		t.Errorf("attempts come in step: their distances vary by %.3f: %v", v, gaps)
	}
}

// variation is the standard deviation over the mean.
func variation(x []float64) float64 {
	var sum, squares float64
	for _, v := range x {
		sum += v
	}
	mean := sum / float64(len(x))
	for _, v := range x {
		squares += (v - mean) * (v - mean)
	}
	return math.Sqrt(squares/float64(len(x))) / mean
}

// follow checks that all of them hear of what happens now.
func (h *idleHosts) follow(t *testing.T, since time.Time) {
	t.Helper()
	var rev store.Rev
	poll(t, patience, func() (err error) {
		rev, err = h.s.Txn(t.Context(), put("back", t.Name()))
		return err
	})
	for _, f := range h.watches {
		f.reaches(t, rev, since, heal)
	}
}

// quiet is a host to which nothing happens: it watches its networks, and asks for next to nothing.
func quiet(t *testing.T, s *site) {
	const networks, wait = 10, 10 * time.Second
	m := &meter{dial: s.near}
	c := s.client(t, prefixOf(t), m.Dial)
	partitions := []string{store.Meta, store.Alive}
	for i := range networks {
		partitions = append(partitions, fmt.Sprintf("net/%d", i))
	}
	for _, p := range partitions {
		next(t, c.Watch(t.Context(), p))
	}
	session(t, c, "host", hostTTL)
	m.reset()
	time.Sleep(wait)
	dials, writes := m.reset()
	most := (1 + 0.1*networks) * wait.Seconds() * float64(s.Frames)
	t.Logf("measured: %s: %d connections and %d writes in %v", t.Name(), len(dials), writes, wait)
	if len(dials) > networks || float64(writes) > most {
		t.Errorf("%d connections and %d writes in %v, at most %.0f are right", len(dials), writes, wait, most)
	}
}
