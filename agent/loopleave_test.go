package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/bridge"
	"weft/kernel"
	"weft/kernel/fake"
	"weft/store/memory"
	"weft/store/record"
)

// What is still being deleted keeps its names: a sandbox that comes back to a network under another endpoint waits for its old interface,
// and a network for the VNI of the one before.
func TestWhatLeavesIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"), network(back, "10.1.8.0/24")) // of one VNI, as if the first were removed
		s.follower.Follow(front)
		s.follower.Follow(back)
		pass(time.Second) // until both are known: of what is not, nothing is deleted
		s.set(box("a", in(front, "e1", "10.1.0.2")))
		if err := s.do(t.Context(), front, "e1"); err != nil {
			t.Fatal(err)
		}
		k.Log()
		began := time.Now()
		keep := box("z", in(front, "e9", "10.1.0.9")) // so that the network stays
		s.set(box("a"), keep)
		if err := s.do(t.Context(), front, ""); err != nil {
			t.Fatal(err)
		}
		s.set(box("a", in(front, "e2", "10.1.0.3")), keep)
		if err := s.do(t.Context(), front, "e2"); err != nil {
			t.Fatal(err)
		}
		s.holds("back under another endpoint")
		s.set(box("a", in(back, "e3", "10.1.8.2")))
		if err := s.do(t.Context(), front, ""); err != nil {
			t.Fatal(err)
		}
		if err := s.do(t.Context(), back, "e3"); err != nil {
			t.Fatal(err)
		}
		s.holds("in a network of the same VNI")
		if took := time.Since(began); took > laneWait {
			t.Errorf("it took %s: the lane gathered though somebody waited", took)
		}
		gone, made := -1, -1
		for i, o := range k.Log() {
			if o.Obj.Kind == kernel.KindVXLAN && o.Verb == kernel.Del {
				gone = i
			} else if o.Obj.Kind == kernel.KindVXLAN {
				made = i
			}
		}
		if gone < 0 || made < gone {
			t.Errorf("the new tunnel was made at step %d, the old one deleted at %d", made, gone)
		}
	})
}

// A port of a bridge of the host is guarded for as long as it is there.
func TestAPortGoesBeforeItsGuard(t *testing.T) {
	const web = record.NetworkID("ccccccccccccaaaa")
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.keep(localNetwork(web, "172.18.0.0/16"), true)
		s.set(box("a", in(web, "e1", "172.18.0.2")))
		if err := s.do(t.Context(), web, "e1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		k.Log()
		s.set(box("a"))
		_ = s.do(t.Context(), web, "")
		pass(time.Second)
		var gone []string
		for _, o := range k.Log() {
			if o.Verb == kernel.Del && (o.Obj.Kind == kernel.KindVeth || bridge.Guards(o.Obj.Key)) {
				gone = append(gone, o.Obj.Key.String())
			}
		}
		if len(gone) != 2 || !strings.HasPrefix(gone[0], "veth ") {
			t.Errorf("in this order went %q", gone)
		}
		s.holds("in the end")
	})
}

// Whoever waits for a network's end has the host's rules for it gone soon after, though nothing else has changed.
func TestTheHostsRulesGoWithTheirNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"))
		s.set(box("a", in(front, "e1", "10.1.0.2")))
		if err := s.do(t.Context(), front, "e1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.holds("at first")
		s.set(box("a"))
		if err := s.do(t.Context(), front, ""); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.holds("a second after the last port has gone")
	})
}
