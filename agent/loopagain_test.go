package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"weft/kernel"
	"weft/kernel/fake"
	"weft/store/memory"
)

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
