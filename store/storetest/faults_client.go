package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"weft/store"
)

// aClient breaks what is between a client and a server that is well. The cases share the server.
func aClient(t *testing.T, w FaultWorld) {
	s := w.site(t, 1)
	for name, test := range map[string]func(*testing.T, *site){
		"cut off silently for ten seconds":         func(t *testing.T, s *site) { cutOff(t, s, drop, 10*time.Second) },
		"cut off by a firewall that says so":       func(t *testing.T, s *site) { cutOff(t, s, reject, 3*time.Second) },
		"a server that is slow":                    slow,
		"a host on a quiet day":                    quiet,
		"a session whose holder dies":              holderDies,
		"a session whose holder is cut off":        holderCutOff,
		"a session that is renewed outlives a cut": holderCutOffShortly,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

// cutOff takes a watch and a writer off the store while others go on.
func cutOff(t *testing.T, s *site, how manner, wait time.Duration) {
	host := s.host(t)
	x := s.scene(t, prefixOf(t))
	far, _ := x.far(t, dialFrom(host))
	theirs := newLoad(t, x.client(t, x.prefix+"-far", dialFrom(host)))
	theirs.grown(t, 10)
	heals := cut(t, host, how)
	began := time.Now()
	callsEnd(t, far, store.ErrUnknown)
	time.Sleep(time.Until(began.Add(wait)))
	if n := theirs.ackedSince(began); n > 0 {
		t.Errorf("%d transactions acknowledged over a link that is cut", n)
	}
	heals()
	x.healed(t, time.Now())
	theirs.grown(t, 5)
	theirs.stop()
	x.settle(t, true)
	x.sessionLives(t)
	l, err := x.client(t, x.prefix+"-far", s.near).List(t.Context(), store.Meta)
	if err != nil {
		t.Fatal(err)
	}
	theirs.check(t, l)
}

// slow puts a third of a second before whatever the server says.
func slow(t *testing.T, s *site) {
	const by = 300 * time.Millisecond
	c := s.client(t, prefixOf(t), late(s.near, by))
	f := newFollower(t, "slow", c)
	x := session(t, c, "slow", max(s.Floor, 4*time.Second))
	began := time.Now()
	writers := newLoad(t, c)
	for time.Since(began) < 2*x.TTL() {
		call, done := context.WithTimeout(t.Context(), by/3)
		start := time.Now()
		_, err := c.Txn(call, put("hasty", ""))
		done()
		if !errors.Is(err, store.ErrUnknown) && !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("a transaction that cannot be answered in time: %v", err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v although its context had %v", took, by/3)
		}
		if _, err := c.Get(t.Context(), key("nothing")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("get: %v", err)
		}
	}
	select {
	case <-x.Done():
		t.Error("the session ended by itself")
	default:
	}
	writers.stop()
	rev, err := c.Txn(t.Context(), put("end", ""))
	if err != nil {
		t.Fatal(err)
	}
	f.reaches(t, rev, time.Now(), heal)
	writers.check(t, agree(t, c, f))
	f.exact(t, writers)
	if err := x.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// session opens one that holds a key of that name.
func session(t *testing.T, s store.Store, name string, ttl time.Duration) store.Session {
	t.Helper()
	x, err := s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: name}, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// gone waits until a session's key is deleted, and returns when a watch of others heard of that.
func gone(t *testing.T, w <-chan store.Batch, wait time.Duration) time.Time {
	t.Helper()
	for end := time.After(wait); ; {
		select {
		case b := <-w:
			if len(b.Dels) > 0 {
				return time.Now()
			}
		case <-end:
			t.Fatalf("the key is still there after %v", wait)
		}
	}
}

// slack is what a busy machine may add to a time that a server keeps.
const slack = 2 * time.Second

// holderDies ends a holder without a word.
func holderDies(t *testing.T, s *site) {
	prefix := prefixOf(t)
	holder := s.Open(t, s.cluster.Endpoints(), s.near, prefix)
	w := s.client(t, prefix, s.near).Watch(t.Context(), store.Alive)
	x := session(t, holder, "host", s.Floor)
	next(t, w)
	begin := time.Now()
	closeStore(t, holder)
	after := gone(t, w, x.Bound()+slack).Sub(begin)
	t.Logf("measured: %s: gone after %v, TTL %v, bound %v", t.Name(), after.Round(time.Millisecond), x.TTL(), x.Bound())
	if least := x.TTL() - (store.SessionConfig{}).Renewal(x.TTL()); after < least {
		t.Errorf("the key went after %v, TTL %v", after, x.TTL())
	}
}

// holderCutOff leaves a holder alive and alone: it knows that its session may have ended before anybody sees the key go.
func holderCutOff(t *testing.T, s *site) {
	prefix := prefixOf(t)
	host := s.host(t)
	holder := s.client(t, prefix, dialFrom(host))
	w := s.client(t, prefix, s.near).Watch(t.Context(), store.Alive)
	x := session(t, holder, "host", s.Floor)
	next(t, w)
	cut(t, host, drop)
	begin := time.Now()
	ended := make(chan time.Time, 1)
	go func() {
		<-x.Done() // at the latest when the holder's client is closed
		ended <- time.Now()
	}()
	went := gone(t, w, x.Bound()+slack)
	select {
	case at := <-ended:
		t.Logf("measured: %s: given up after %v, gone after %v, TTL %v, bound %v", t.Name(), at.Sub(begin).Round(time.Millisecond), went.Sub(begin).Round(time.Millisecond), x.TTL(), x.Bound())
		if at.After(went) {
			t.Errorf("the key went %v before its holder knew", at.Sub(went))
		}
	case <-time.After(slack):
		t.Error("the key has gone and its holder does not know")
		x.Leave()
		<-ended
	}
	if _, err := s.client(t, prefix, s.near).Txn(t.Context(), store.Txn{If: []store.Cond{x.Alive()}, Then: put("x", "").Then}); err == nil {
		t.Error("a write of an ended session was applied")
	}
}

// holderCutOffShortly is a cut that no session should notice.
func holderCutOffShortly(t *testing.T, s *site) {
	prefix := prefixOf(t)
	host := s.host(t)
	holder := s.client(t, prefix, dialFrom(host))
	x := session(t, holder, "host", hostTTL)
	heals := cut(t, host, drop)
	time.Sleep(x.TTL() / 3)
	heals()
	select {
	case <-x.Done():
		t.Fatal("the session ended by itself")
	case <-time.After(x.TTL()):
	}
	if _, err := holder.Txn(t.Context(), store.Txn{If: []store.Cond{x.Alive()}, Then: put("x", "").Then}); err != nil {
		t.Errorf("a fenced write of a session that lives: %v", err)
	}
	if err := x.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
