package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"weft/kernel"
	"weft/kernel/fake"
	"weft/store/memory"
	"weft/store/record"
)

// A program that undoes weft's work at once, each time, makes it work less and less, and still not give up.
func TestANeighbourWhoFightsDoesNotKeepTheHostBusy(t *testing.T) {
	const web = record.NetworkID("ccccccccccccaaaa")
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.keep(localNetwork(web, "172.18.0.0/16"), true)
		pass(time.Second)
		table := kernel.Key{Kind: kernel.KindTable, Link: "inet weft"}
		puts := func() (n int) {
			for _, o := range k.Log() {
				if o.Verb == kernel.Put && o.Obj.Key == table {
					n++
				}
			}
			return n
		}
		fight := func(d time.Duration) int {
			puts()
			for end := time.Now().Add(d); time.Now().Before(end); {
				k.Lose(func(o kernel.Object) bool { return o.Key == table })
				s.changes <- []kernel.Change{{Key: table}}
				pass(100 * time.Millisecond)
			}
			return puts()
		}
		if n := fight(90 * time.Millisecond); n != 1 {
			t.Errorf("taken away once, put %d times", n)
		}
		if n := fight(time.Minute); n < 20 || n > 45 {
			t.Errorf("put %d times in a minute", n)
		}
		pass(lastSuspect)
		s.holds("when the other has given up")
		pass(suspectCalm)
		if n := fight(90 * time.Millisecond); n != 1 {
			t.Errorf("taken away once again after a while, put %d times", n)
		}
	})
}
