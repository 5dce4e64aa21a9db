package agent

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"weft/kernel"
	"weft/kernel/fake"
	"weft/store/memory"
	"weft/store/record"
)

// A port that changes hands stays open, in whichever order the news come; and one port more touches nothing but its own.
func TestPortsChangeHands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"))
		s.follower.Follow(front)
		pass(time.Second)
		web := []record.PortBinding{{Proto: "tcp", HostAddr: everywhere[0], HostPort: 8080, Port: 80}, {Proto: "udp", HostAddr: ip("192.0.2.1"), HostPort: 53, Port: 53}}
		a, b := box("a", in(front, "e1", "10.1.0.2")), box("b", in(front, "e2", "10.1.0.3"))
		with := func(s *record.Sandbox, bs []record.PortBinding) *record.Sandbox {
			c := edited(s)
			c.Published = bs
			return c
		}
		change := func(b *record.Sandbox, gone []record.PortBinding) {
			t.Helper()
			want := publishedOf(b, s.sight.Picture().Network)
			if err := s.doPorts(t.Context(), portChange{want: want, gone: gone}); err != nil {
				t.Fatal(err)
			}
		}
		s.set(with(a, web), b)
		for _, r := range []record.EndpointID{"e1", "e2"} {
			if err := s.do(t.Context(), front, r); err != nil {
				t.Fatal(err)
			}
		}
		change(with(a, web), nil)
		s.holds("published")

		k.Log()
		s.set(a, with(b, web)) // b has them before the kernel hears that a has not
		change(with(b, web), nil)
		change(a, web)
		s.holds("in other hands")
		for _, o := range k.Log() {
			if o.Obj.Kind != kernel.KindElement {
				t.Errorf("a port that changes hands does %s", o)
			}
		}
		s.set(a, b)
		change(b, web)
		s.holds("let go")

		// What fails is done later, as a whole.
		k.Fail(fake.Fault{Op: func(o kernel.Op) bool { return o.Obj.Kind == kernel.KindElement }, Times: 1, Err: errors.New("not now")})
		s.set(with(a, web), b)
		if err := s.doPorts(t.Context(), portChange{want: publishedOf(with(a, web), s.sight.Picture().Network)}); err == nil {
			t.Error("what the kernel refused is said to be done")
		}
		pass(lastRetry)
		s.holds("after the kernel's refusal")
	})
}
