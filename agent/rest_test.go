package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weft/kernel"
	"weft/kernel/fake"
	"weft/store/memory"
)

// counted counts how often the whole kernel is read.
type counted struct {
	kernel.Executor
	reads atomic.Int64
}

func (c *counted) Read(ctx context.Context, namespaces []string) (kernel.State, error) {
	c.reads.Add(1)
	return c.Executor.Read(ctx, namespaces)
}

// since returns how many reads there were since it was asked last.
func (c *counted) since() int { return int(c.reads.Swap(0)) }

// An agent at rest reads the kernel once a minute, and one whose sandbox changes its own interface all the time once in two seconds at most.
func TestTheKernelIsReadSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Given a host in an overlay network, with other hosts' endpoints
		w, k := memory.New(), fake.New(testDir)
		reads := &counted{}
		s := newSiteOn(t, w, k, func(e kernel.Executor) kernel.Executor { reads.Executor = e; return reads })
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"), remote(front, "e8", "10.1.0.8"))
		s.set(box("a", in(front, "e1", "10.1.0.2")))
		if err := s.do(t.Context(), front, "e1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.holds("at first")
		// When nothing happens
		reads.since()
		pass(10 * time.Minute)
		if n := reads.since(); n < 9 || n > 10 {
			t.Errorf("at rest it was read %d times in ten minutes", n)
		}
		// When what is others' changes
		for range 600 {
			s.changes <- []kernel.Change{{Key: kernel.Key{Kind: kernel.KindAddr, Link: "eth0", Dst: "192.0.2.7/24"}}}
			pass(100 * time.Millisecond)
		}
		if n := reads.since(); n > 1 {
			t.Errorf("while others changed what is theirs it was read %d times in a minute", n)
		}
		// When a sandbox takes its own address away, again and again
		addr := kernel.Key{Kind: kernel.KindAddr, NS: "/ns/" + string(box("a").ID), Link: "eth0", Dst: "10.1.0.2/24"}
		lost := 0
		for range 3000 {
			k.Lose(func(o kernel.Object) bool {
				if o.Key == addr {
					lost++
				}
				return o.Key == addr
			})
			s.changes <- []kernel.Change{{Key: addr}}
			pass(20 * time.Millisecond)
		}
		if n := reads.since(); n < 25 || n > 40 || lost < 25 {
			t.Errorf("while a sandbox fought it was read %d times in a minute, and put back %d times", n, lost)
		}
		// Then it is at rest again
		pass(suspectCalm)
		s.holds("when it has given up")
		reads.since()
		pass(10 * time.Minute)
		if n := reads.since(); n > 10 {
			t.Errorf("at rest again it was read %d times in ten minutes", n)
		}
	})
}
