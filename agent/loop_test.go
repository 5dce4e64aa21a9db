package agent

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"weft/kernel"
	"weft/kernel/fake"
	"weft/store/memory"
	"weft/store/record"
)

func TestTheKernelFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"), network(back, "10.2.0.0/24"))
		pass(time.Second)

		a, b := box("a", in(front, "e1", "10.1.0.2"), in(back, "e2", "10.2.0.2")), box("b", in(front, "e3", "10.1.0.3"))
		s.set(a)
		for _, at := range a.Attachments { // whoever asked for a port has it when the answer comes
			if err := s.do(t.Context(), at.Network, at.Endpoint); err != nil {
				t.Fatal(err)
			}
		}
		s.holds("a first sandbox")
		s.set(a, b)
		k.Log()
		if err := s.do(t.Context(), front, "e3"); err != nil {
			t.Fatal(err)
		}
		s.holds("a second one")
		for _, o := range k.Log() {
			if o.Obj.NS != "/ns/5bb" && !strings.Contains(o.String(), "10.1.0.3") && !strings.Contains(o.String(), "02:42:0a:01:00:03") {
				t.Errorf("a port of its own was asked for, and this was done: %s", o)
			}
		}

		s.write(remote(front, "e8", "10.1.0.8"), remote(front, "e9", "10.1.0.9"))
		pass(time.Millisecond)
		s.holds("endpoints of another host")
		moved := remote(front, "e8", "10.1.0.18")
		s.write(moved)
		pass(time.Millisecond)
		s.holds("an endpoint with another address")
		moved.Running, moved.Addrs = false, nil
		s.write(moved)
		pass(time.Millisecond)
		s.holds("one that stopped")

		s.set(b)
		if err := s.do(t.Context(), back, ""); err != nil {
			t.Fatal(err)
		}
		if err := s.do(t.Context(), front, ""); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.holds("a sandbox that left, and a network with it")
		s.set()
		pass(2 * resyncEvery)
		s.holds("all gone")
	})
}

func TestARestartedLoopTouchesNothingThatIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		a := box("a", in(front, "e1", "10.1.0.2"), in(back, "e2", "10.2.0.2"))
		first := newSite(t, w, k, a)
		first.write(hosts()...)
		first.write(network(front, "10.1.0.0/24"), network(back, "10.2.0.0/24"), remote(front, "e9", "10.1.0.9"))
		pass(2 * resyncEvery)
		first.holds("the first life")
		first.stop()
		k.Log()

		second := newSite(t, w, k, a)
		defer second.stop()
		pass(2 * resyncEvery)
		second.holds("the second life")
		if log := k.Log(); len(log) > 0 {
			t.Errorf("the second life did %v", log)
		}
		k.Lose(func(o kernel.Object) bool { return o.Kind == kernel.KindFDB || o.Kind == kernel.KindTable })
		pass(resyncEvery + time.Second)
		second.holds("what others took away is put back")

		second.stop()
		third := newSite(t, w, k) // its journal knows of no sandbox
		defer third.stop()
		pass(resyncEvery)
		third.holds("orphans of an older life")
	})
}

// Whatever comes and goes, and whatever fails meanwhile, the kernel ends up as the picture and the sandboxes say.
func TestTheLoopConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 6), 1, 25).Draw(rt, "steps")
		seeds := rapid.SliceOfN(rapid.IntRange(0, 5), len(steps), len(steps)).Draw(rt, "seeds")
		synctest.Test(t, func(t *testing.T) {
			w, k := memory.New(), fake.New(testDir)
			s := newSite(t, w, k)
			defer s.stop()
			s.write(hosts()...)
			s.write(network(front, "10.1.0.0/24"), network(back, "10.2.0.0/24"))
			up := map[int]*record.Sandbox{}
			for i, step := range steps {
				n, net, subnet := seeds[i], front, 1
				if n%2 == 1 {
					net, subnet = back, 2
				}
				addr := fmt.Sprintf("10.%d.0.%d", subnet, 2+n)
				switch step {
				case 0, 1:
					up[n] = box(fmt.Sprint("b", n), in(net, record.EndpointID(fmt.Sprint("e", n)), addr))
				case 2:
					delete(up, n)
				case 3:
					s.write(remote(net, record.EndpointID(fmt.Sprint("r", n)), fmt.Sprintf("10.%d.0.%d", subnet, 100+n)))
				case 4:
					gone := remote(net, record.EndpointID(fmt.Sprint("r", n)), addr)
					gone.Running, gone.Addrs = false, nil
					s.write(gone)
				case 5:
					k.Fail(fake.Fault{Op: func(o kernel.Op) bool { return int(o.Obj.Kind) == n+2 }, After: n, Times: 2, Err: syscall.EBUSY, Done: n > 3})
				case 6:
					k.Lose(func(o kernel.Object) bool { return int(o.Kind) == n+3 })
				}
				var bs []*record.Sandbox
				for _, b := range up {
					bs = append(bs, b)
				}
				s.set(bs...)
				_ = s.do(t.Context(), net, "") // what fails is tried again
				pass(time.Duration(n) * 10 * time.Millisecond)
			}
			pass(2*resyncEvery + lastRetry)
			s.holds(fmt.Sprint(steps, seeds))
		})
	})
}
