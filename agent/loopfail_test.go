package agent

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weft/kernel"
	"weft/kernel/fake"
	"weft/overlay"
	"weft/store/memory"
)

// A network that fails is tried again with a back-off, says so, and does not keep the others from being right.
func TestOneNetworksFailureIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"), network(back, "10.2.0.0/24"))
		pass(time.Second)
		sick := overlay.NetnsPath(s.settings(), front)
		k.Fail(fake.Fault{Op: func(o kernel.Op) bool { return o.Obj.NS == sick && o.Obj.Kind == kernel.KindVXLAN }, Err: syscall.ENOBUFS})
		s.set(box("a", in(front, "e1", "10.1.0.2")), box("b", in(back, "e2", "10.2.0.2")))
		if err := s.do(t.Context(), front, "e1"); !errors.Is(err, syscall.ENOBUFS) {
			t.Errorf("the one who asked was told %v", err)
		}
		if err := s.do(t.Context(), back, "e2"); err != nil {
			t.Errorf("the other network: %v", err)
		}
		pass(time.Minute)
		if err := s.failures()[string(front)]; !errors.Is(err, syscall.ENOBUFS) || len(s.failures()) != 1 {
			t.Errorf("failures: %v", s.failures())
		}
		k.Heal()
		pass(lastRetry + time.Second)
		s.holds("after it was healed")
		if len(s.failures()) > 0 {
			t.Errorf("still said to fail: %v", s.failures())
		}
	})
}

// A reading that fails, as one does while something else changes all the time, is tried again soon, and nothing is deleted meanwhile.
func TestAReadingThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		a := box("a", in(front, "e1", "10.1.0.2"))
		s := newSite(t, w, k, a)
		defer s.stop()
		k.Fail(fake.Fault{Reading: true, Times: 3, Err: syscall.EINTR})
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"))
		pass(3 * time.Second)
		s.holds("after three readings that failed")
		for _, o := range k.Log() {
			if o.Verb == kernel.Del {
				t.Errorf("deleted in doubt: %s", o)
			}
		}
	})
}

// Nothing is written, and nothing is deleted, before it is known what should be; whoever asks meanwhile is served as soon as it is.
func TestNothingIsWrittenBeforeThePictureIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		a := box("a", in(front, "e1", "10.1.0.2"))
		first := newSite(t, w, k, a)
		first.write(hosts()...)
		first.write(network(front, "10.1.0.0/24"))
		pass(time.Minute)
		first.stop()
		k.Log()

		s := newSite(t, w, k, a)
		defer s.stop()
		s.mu.Lock()
		s.begin = false
		s.mu.Unlock()
		s.set() // as if it had nothing: all that is there would go
		answer := make(chan error, 1)
		go func() { answer <- s.do(t.Context(), front, "e1") }()
		pass(time.Minute)
		if log := k.Log(); len(log) > 0 {
			t.Errorf("written too early: %v", log)
		}
		s.set(a)
		s.mu.Lock()
		s.begin = true
		s.mu.Unlock()
		if err := <-answer; err != nil {
			t.Error(err)
		}
		s.holds("when it is known")
	})
}

// Given that somebody has flushed the host's rules, and that the loop has not heard of it yet, then a sandbox that is the first of its network here
// comes up, and the rules are back with it.
func TestAnAttachThatMeetsAFlushedTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"), network(back, "10.2.0.0/24"))
		s.follower.Follow(back)
		a, b := box("a", in(front, "e1", "10.1.0.2")), box("b", in(back, "e2", "10.2.0.2"))
		s.set(a)
		if err := s.do(t.Context(), front, "e1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.holds("at first")
		k.Lose(func(o kernel.Object) bool { return o.NS == kernel.HostNS && o.Kind == kernel.KindTable })
		k.AddNamespace("/ns/" + string(b.ID))
		s.mu.Lock() // and not by set, which wakes the loop
		s.boxes[b.ID] = b
		s.mu.Unlock()
		if err := s.do(t.Context(), back, "e2"); err != nil {
			t.Errorf("an attach that met the flushed table: %v", err)
		}
		s.holds("after it")
	})
}
