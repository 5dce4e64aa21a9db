package dnssvc

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// newForwardLab is a lab whose host has one server.
func newForwardLab(t testing.TB, before ...func(*lab)) (*lab, *elsewhere) {
	t.Helper()
	l := newLab(t, before...)
	e := newElsewhere(t, "127.0.0.1:0")
	l.ask(e.addr)
	return l, e
}

func TestForwards(t *testing.T) {
	l, e := newForwardLab(t, patient)
	for _, network := range []string{"udp", "tcp"} {
		l.expect(t, network, network+".Example.com", "192.0.2.1")
		l.expect(t, network, "host"+network, "192.0.2.1") // a name of one label as well
		l.expect(t, network, "no"+network, "NXDOMAIN")
	}
	if n := e.count(); n != 6 {
		t.Errorf("the server was asked %d times, want 6", n)
	}

	// a name of the cluster never leaves it
	l.expect(t, "udp", "web", "10.0.0.2")
	if a := askOver(t, dialIn(t, l.box.Netns, "udp"), query("web", dns.TypeAAAA)); shown(a) != "empty" {
		t.Errorf("AAAA of a name without: %v", a)
	}
	if n := e.count(); n != 6 {
		t.Errorf("a name of the cluster was forwarded: %d questions", n)
	}

	// an internal sandbox forwards nothing
	l.box.Internal = true
	l.set(t)
	l.expect(t, "udp", "inside.example.com", "NXDOMAIN")
	l.expect(t, "udp", "web", "10.0.0.2")
	if n := e.count(); n != 6 {
		t.Errorf("an internal sandbox's question was forwarded: %d questions", n)
	}
}

// patient lets servers take their time, so that a machine that stalls brings no second try to a test that counts questions.
func patient(l *lab) { l.forward.pool.patience = time.Hour }

// The answer comes from the cache while it is good, in the case of each asker's own question, and for its own EDNS.
func TestForwardsOnce(t *testing.T) {
	l, e := newForwardLab(t, patient)
	c := dialIn(t, l.box.Netns, "udp")
	for _, name := range []string{"a.example", "A.example", "a.EXAMPLE"} {
		if got := askOver(t, c, query(name, dns.TypeA)); shown(got) != "192.0.2.1" || got.IsEdns0() != nil {
			t.Errorf("%s: %v", name, got)
		}
		if got := askOver(t, c, query(name, dns.TypeA, edns(1232))); shown(got) != "192.0.2.1" || got.IsEdns0() == nil {
			t.Errorf("%s with EDNS: %v", name, got)
		}
		if got := askOver(t, c, query("no"+name, dns.TypeA)); shown(got) != "NXDOMAIN" || len(got.Ns) != 1 {
			t.Errorf("no%s: %v", name, got)
		}
	}
	if n := e.count(); n != 2 {
		t.Errorf("the server was asked %d times, want once for each of 2 names", n)
	}
	if a := askOver(t, c, query("a.example", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) })); !a.IsEdns0().Do() {
		t.Errorf("with DO: %v", a)
	}
	if n := e.count(); n != 3 {
		t.Errorf("with DO, the server was asked %d times in all, want 3", n)
	}
}

// Questions for one name that come while it is on its way make one question to the server.
func TestManyAskersOneQuestion(t *testing.T) {
	l, e := newForwardLab(t, patient)
	held := make(chan struct{})
	e.obey(func(w dns.ResponseWriter, _, good *dns.Msg) {
		<-held
		_ = w.WriteMsg(good)
	})
	const askers = 20
	conns := make([]*dns.Conn, askers)
	for i := range conns {
		conns[i] = dialIn(t, l.box.Netns, "udp")
		if err := conns[i].WriteMsg(query("same.example", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool { return l.forwarding() == askers && e.count() > 0 })
	// given that all wait, a name of the cluster is still answered at once
	l.expect(t, "udp", "web", "10.0.0.2")
	if n := e.count(); n != 1 {
		t.Errorf("%d questions to the server, want 1", n)
	}
	close(held)
	for _, c := range conns {
		if a, err := c.ReadMsg(); err != nil || shown(a) != "192.0.2.1" {
			t.Errorf("%v %v", a, err)
		}
	}
}

// forwarding is how many questions of the sandbox are on their way.
func (l *lab) forwarding() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.slots["box"].resolver.forwards)
}

// await waits until something is so.
func await(t testing.TB, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !so() {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to be within 5 s")
		}
		<-tick.C
	}
}

// A sandbox cannot have more questions on their way than its share; the next one is told so at once, and names of the cluster go on.
func TestForwardsAreBounded(t *testing.T) {
	l, e := newForwardLab(t, patient)
	held := make(chan struct{})
	e.obey(func(w dns.ResponseWriter, _, good *dns.Msg) {
		<-held
		_ = w.WriteMsg(good)
	})
	c := dialIn(t, l.box.Netns, "udp")
	for i := range maxForwards {
		if err := c.WriteMsg(query(fmt.Sprintf("n%d.example", i), dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool { return l.forwarding() == maxForwards })
	l.expect(t, "udp", "one.too.many", "SERVFAIL")
	l.expect(t, "tcp", "one.too.many", "SERVFAIL")
	l.expect(t, "udp", "web", "10.0.0.2")
	close(held)
	for range maxForwards {
		if a, err := c.ReadMsg(); err != nil || shown(a) != "192.0.2.1" {
			t.Fatal(a, err)
		}
	}
}

func TestLongAnswersFromElsewhere(t *testing.T) {
	l, _ := newForwardLab(t)
	for _, c := range []struct {
		network string
		change  []func(*dns.Msg)
		records int
		whole   bool
		limit   int
	}{
		{"udp", nil, 20, true, 512},
		{"udp", nil, 100, false, 512},
		{"udp", []func(*dns.Msg){edns(1232)}, 60, true, 1232},
		{"udp", []func(*dns.Msg){edns(4096)}, 200, true, 4096}, // the server's came over TCP
		{"udp", []func(*dns.Msg){edns(4096)}, 300, false, 4096},
		{"tcp", nil, 300, true, 65535},
		{"tcp", nil, 1000, true, 65535}, // and is too long for the cache
	} {
		for _, again := range []bool{false, true} {
			a := askOver(t, dialIn(t, l.box.Netns, c.network), query(fmt.Sprintf("%d.many", c.records), dns.TypeA, c.change...))
			a.Compress = true
			if a.Len() > c.limit || a.Truncated == c.whole || c.whole && len(a.Answer) != c.records {
				t.Errorf("%s, %d records, again %v: %d bytes, truncated %v, %d records", c.network, c.records, again, a.Len(), a.Truncated, len(a.Answer))
			}
		}
	}
}

// What a server does wrong, and what the asker gets.
func TestBadServers(t *testing.T) {
	change := func(f func(m *dns.Msg)) func(w dns.ResponseWriter, q, good *dns.Msg) {
		return func(w dns.ResponseWriter, _, good *dns.Msg) {
			bad := good.Copy()
			bad.Answer[0].(*dns.A).A = net.IPv4(6, 6, 6, 6)
			f(bad)
			_ = w.WriteMsg(bad)
			_ = w.WriteMsg(good)
		}
	}
	for _, c := range []struct {
		what string
		do   func(w dns.ResponseWriter, q, good *dns.Msg)
		want string
	}{
		{"another ID comes first", change(func(m *dns.Msg) { m.Id++ }), "192.0.2.1"},
		{"another name comes first", change(func(m *dns.Msg) { m.Question[0].Name = "bad.example." }), "192.0.2.1"},
		{"another type comes first", change(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }), "192.0.2.1"},
		{"no question comes first", change(func(m *dns.Msg) { m.Question = nil }), "192.0.2.1"},
		{"a question comes first", change(func(m *dns.Msg) { m.Response = false }), "192.0.2.1"},
		{"garbage comes first", func(w dns.ResponseWriter, q, good *dns.Msg) {
			_, _ = w.Write([]byte{byte(q.Id >> 8), byte(q.Id), 0x80, 0, 0, 1})
			_ = w.WriteMsg(good)
		}, "192.0.2.1"},
		{"it fails", func(w dns.ResponseWriter, q, _ *dns.Msg) {
			_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		}, "SERVFAIL"},
		{"it does not know EDNS", func(w dns.ResponseWriter, q, good *dns.Msg) {
			if q.IsEdns0() != nil {
				good = new(dns.Msg)
				good.SetRcode(q, dns.RcodeFormatError)
			}
			_ = w.WriteMsg(good)
		}, "192.0.2.1"},
		{"its first answer is lost", func() func(w dns.ResponseWriter, _, good *dns.Msg) {
			var lost atomic.Bool
			return func(w dns.ResponseWriter, _, good *dns.Msg) {
				if lost.Swap(true) {
					_ = w.WriteMsg(good)
				}
			}
		}(), "192.0.2.1"},
		{"it says that more comes over TCP, and that is cut", func(w dns.ResponseWriter, q, good *dns.Msg) {
			if w.RemoteAddr().Network() == "tcp" {
				_ = w.Close()
				return
			}
			good.Truncated = true
			_ = w.WriteMsg(good)
		}, "192.0.2.1"},
	} {
		t.Run(c.what, func(t *testing.T) {
			l, e := newForwardLab(t)
			e.obey(c.do)
			l.expect(t, "udp", "x.example", c.want)
		})
	}
}

// A forger has to guess an ID and a port for each question.
func TestQuestionsAreHardToForge(t *testing.T) {
	l, e := newForwardLab(t)
	const n = 50
	for i := range n {
		l.expect(t, "udp", fmt.Sprintf("x%d.example", i), "192.0.2.1")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ids, ports := map[uint16]bool{}, map[string]bool{}
	steps := map[uint16]int{}
	for i, m := range e.seen {
		ids[m.Id], ports[e.from[i]] = true, true
		if i > 0 {
			steps[m.Id-e.seen[i-1].Id]++
		}
	}
	if len(ids) < n-5 || len(ports) < n-5 || len(steps) < n-10 {
		t.Errorf("%d IDs with %d differences and %d ports in %d questions", len(ids), len(steps), len(ports), n)
	}
}

// A server that went silent, or is not there, is known to nobody's harm: one label NXDOMAIN within a second and then at once, other names
// SERVFAIL, clearly.
func TestDeadServers(t *testing.T) {
	l, e := newForwardLab(t)
	e.obey(func(dns.ResponseWriter, *dns.Msg, *dns.Msg) {})
	timed := func(name string, limit time.Duration, want string) {
		t.Helper()
		begun := time.Now()
		a := askOver(t, dialIn(t, l.box.Netns, "udp"), query(name, dns.TypeA, edns(1232)))
		if took := time.Since(begun); shown(a) != want || took > limit {
			t.Errorf("%s: %s after %v, want %s within %v", name, shown(a), took, want, limit)
		}
		if o := a.IsEdns0(); want != "192.0.2.1" && (len(o.Option) != 1 || !strings.Contains(o.String(), e.addr.String())) {
			t.Errorf("%s: the answer does not name the server: %v", name, o)
		}
	}
	// the exact times are TestHealth's and TestFailover's; here a stalled machine must not matter, and a wait for the budget must show
	timed("first", 3*time.Second, "NXDOMAIN")
	await(t, func() bool { return l.forward.pool.isDead(l.forward.pool.want(e.addr)) })
	timed("second", singleBudget, "NXDOMAIN")
	timed("other.example", budget/2, "SERVFAIL")
	e.obey(func(w dns.ResponseWriter, _, good *dns.Msg) { _ = w.WriteMsg(good) })
	await(t, func() bool { return !l.forward.pool.isDead(l.forward.pool.want(e.addr)) })
	timed("third", budget, "192.0.2.1")

	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddrPort(c.LocalAddr().String())
	_ = c.Close()
	l.ask(nobody)
	e.addr = nobody
	timed("nobody", singleBudget, "NXDOMAIN")
	timed("nobody.example", budget/2, "SERVFAIL")
}

// A sandbox's own servers are asked instead of the host's; they and their answers are no other sandbox's.
func TestServersOfASandbox(t *testing.T) {
	l, host := newForwardLab(t, patient)
	own := newElsewhere(t, "127.113.27.9:53")
	own.obey(func(w dns.ResponseWriter, _, good *dns.Msg) {
		good.Answer[0].(*dns.A).A = net.IPv4(192, 0, 2, 99)
		_ = w.WriteMsg(good)
	})
	l.expect(t, "udp", "x.example", "192.0.2.1")
	l.box.Servers = []netip.Addr{netip.MustParseAddr(resolverAddr), own.addr.Addr()}
	l.set(t)
	l.expect(t, "udp", "x.example", "192.0.2.99")
	if host.count() != 1 || own.count() != 1 {
		t.Errorf("the host's server was asked %d times and the sandbox's %d, want once each", host.count(), own.count())
	}
	l.box.Servers = nil
	l.set(t)
	l.expect(t, "udp", "x.example", "192.0.2.1")
}

// Remove does not wait for servers that are silent.
func TestRemoveWhileForwarding(t *testing.T) {
	l, e := newForwardLab(t)
	held := make(chan struct{})
	defer close(held)
	e.obey(func(dns.ResponseWriter, *dns.Msg, *dns.Msg) { <-held })
	for _, network := range []string{"udp", "tcp"} {
		if err := dialIn(t, l.box.Netns, network).WriteMsg(query(network+".example", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool { return l.forwarding() == 2 })
	begun := time.Now()
	l.Remove("box")
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %v", took)
	}
}
