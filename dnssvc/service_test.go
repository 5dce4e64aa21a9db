package dnssvc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"weft/kernel/netnstest"
	"weft/store/record"
)

// lab is a Service with the sandbox "box" in a namespace of its own.
type lab struct {
	*Service
	w       *world
	blue    record.NetworkID
	box     Sandbox
	servers atomic.Pointer[[]netip.AddrPort]
	picture atomic.Pointer[record.Snapshot]
}

func newLab(t testing.TB, before ...func(*lab)) *lab {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	l := &lab{w: newWorld(t)}
	l.blue = l.w.network("blue")
	l.w.ep(l.blue, "web 10.0.0.2 www")
	l.show()
	l.ask()
	l.Service = New(Config{Picture: l.picture.Load, Upstreams: func() []netip.AddrPort { return *l.servers.Load() }})
	l.box = Sandbox{ID: "box", Netns: netnstest.NS(t, "box"), Networks: []Network{{ID: l.blue}}}
	t.Cleanup(func() {
		l.Close()
		goleak.VerifyNone(t, leaks)
	})
	for _, change := range before {
		change(l)
	}
	l.set(t)
	return l
}

// show makes the world's picture the service's.
func (l *lab) show() { l.picture.Store(l.w.pic) }

// ask names the servers of the host; the service may know the last ones for a moment longer.
func (l *lab) ask(servers ...netip.AddrPort) {
	l.servers.Store(&servers)
	if l.Service != nil {
		l.hosts.mu.Lock()
		l.hosts.at = time.Time{}
		l.hosts.mu.Unlock()
	}
}

func (l *lab) set(t testing.TB) {
	t.Helper()
	if err := l.Set(t.Context(), l.box); err != nil {
		t.Fatal(err)
	}
}

// dialIn connects to the resolver from inside the sandbox.
func dialIn(t testing.TB, ns, network string) *dns.Conn {
	t.Helper()
	var c net.Conn
	netnstest.In(t, ns, func() (err error) {
		c, err = net.DialTimeout(network, "127.0.0.11:53", 5*time.Second)
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &dns.Conn{Conn: c, UDPSize: 65535}
}

func query(name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	for _, c := range change {
		c(m)
	}
	return m
}

func edns(size uint16) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(size, false) } }

func askOver(t testing.TB, c *dns.Conn, m *dns.Msg) *dns.Msg {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // for this question: a slow machine is no lost question
	if err := c.WriteMsg(m); err != nil {
		t.Fatal(err)
	}
	a, err := c.ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	if a.Id != m.Id || len(a.Question) != 1 || a.Question[0] != m.Question[0] {
		t.Fatalf("the answer is to another question: %v", a)
	}
	return a
}

func (l *lab) expect(t testing.TB, network, name, want string) *dns.Msg {
	t.Helper()
	a := askOver(t, dialIn(t, l.box.Netns, network), query(name, dns.TypeA))
	if got := shown(a); got != want {
		t.Errorf("%s over %s: got %s, want %s", name, network, got, want)
	}
	return a
}

func TestAnswersInSandbox(t *testing.T) {
	l := newLab(t)
	for _, network := range []string{"udp", "tcp"} {
		l.expect(t, network, "web", "10.0.0.2")
		l.expect(t, network, "WWW.blue", "10.0.0.2")
		l.expect(t, network, "nobody", "NXDOMAIN")      // there is no server to ask
		l.expect(t, network, "example.com", "SERVFAIL") // which another one may know
	}
	l.w.ep(l.blue, "late 10.0.0.3")
	l.show()
	l.expect(t, "udp", "late", "10.0.0.3")
}

func TestSandboxesDoNotShareNames(t *testing.T) {
	l := newLab(t)
	green := l.w.network("green")
	l.w.ep(green, "web 10.0.1.2")
	l.show()
	other := Sandbox{ID: "other", Netns: netnstest.NS(t, "other"), Networks: []Network{{ID: green}}}
	if err := l.Set(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	l.expect(t, "udp", "web", "10.0.0.2")
	if got := shown(askOver(t, dialIn(t, other.Netns, "udp"), query("web", dns.TypeA))); got != "10.0.1.2" {
		t.Errorf("the other sandbox got %s", got)
	}
}

// Answers keep to the size that the asker takes; what does not fit comes over TCP.
func TestAnswerSizes(t *testing.T) {
	l := newLab(t)
	const many = 300
	for i := range many {
		l.w.ep(l.blue, fmt.Sprintf("m%d 10.1.%d.%d many", i, i/250, i%250+1))
	}
	l.show()
	for _, c := range []struct {
		network string
		change  []func(*dns.Msg)
		limit   int
		whole   bool
	}{
		{"udp", nil, 512, false},
		{"udp", []func(*dns.Msg){edns(100)}, 512, false},
		{"udp", []func(*dns.Msg){edns(1232)}, 1232, false},
		{"udp", []func(*dns.Msg){edns(2000)}, 2000, false},
		{"udp", []func(*dns.Msg){edns(65535)}, maxUDPAnswer, false},
		{"tcp", nil, 65535, true},
		{"tcp", []func(*dns.Msg){edns(512)}, 65535, true},
	} {
		q := query("many", dns.TypeA, c.change...)
		a := askOver(t, dialIn(t, l.box.Netns, c.network), q)
		a.Compress = true
		if n := a.Len(); n > c.limit || !c.whole && n < c.limit-16 {
			t.Errorf("%s %v: %d bytes, limit %d", c.network, q.IsEdns0(), n, c.limit)
		}
		if a.Truncated == c.whole || c.whole && len(a.Answer) != many {
			t.Errorf("%s %v: truncated %v, %d records", c.network, q.IsEdns0(), a.Truncated, len(a.Answer))
		}
		if (a.IsEdns0() != nil) != (q.IsEdns0() != nil) {
			t.Errorf("%s %v: OPT %v", c.network, q.IsEdns0(), a.IsEdns0())
		}
	}
	// Sixty fit into what resolvers offer today, and not into what every one takes.
	for i := range 60 {
		l.w.ep(l.blue, fmt.Sprintf("s%d 10.2.0.%d sixty", i, i+1))
	}
	l.show()
	for _, c := range []struct {
		network string
		change  []func(*dns.Msg)
		whole   bool
	}{{"udp", nil, false}, {"udp", []func(*dns.Msg){edns(1232)}, true}, {"tcp", nil, true}} {
		a := askOver(t, dialIn(t, l.box.Netns, c.network), query("sixty", dns.TypeA, c.change...))
		if a.Truncated == c.whole || c.whole && len(a.Answer) != 60 || !c.whole && len(a.Answer) < 20 {
			t.Errorf("of sixty, over %s there are %d, truncated %v", c.network, len(a.Answer), a.Truncated)
		}
	}
	do := askOver(t, dialIn(t, l.box.Netns, "udp"), query("web", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) }))
	if o := do.IsEdns0(); o == nil || !o.Do() || o.UDPSize() != ownUDPSize || shown(do) != "10.0.0.2" {
		t.Errorf("with DO: %v", do)
	}
}

// While the sandbox's knowledge changes all the time, each question is answered, and rightly before or after the change.
func TestSetUnderLoadDropsNothing(t *testing.T) {
	l := newLab(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			sb := l.box
			if i%2 == 0 {
				sb.Networks = append([]Network{{ID: record.NetworkID(digits(77))}}, sb.Networks...)
			}
			if err := l.Set(context.Background(), sb); err != nil {
				t.Error(err)
			}
		}
	})
	for _, network := range []string{"udp", "tcp"} {
		c := dialIn(t, l.box.Netns, network)
		for range 1000 {
			if got := shown(askOver(t, c, query("web", dns.TypeA))); got != "10.0.0.2" {
				t.Fatalf("%s: %s", network, got)
			}
		}
	}
	stop()
	wg.Wait()
}

func TestRemoveClosesEverything(t *testing.T) {
	l := newLab(t)
	l.Remove("box")
	before := goleak.IgnoreCurrent()
	l.set(t)
	idle := dialIn(t, l.box.Netns, "tcp")
	if got := shown(askOver(t, idle, query("web", dns.TypeA))); got != "10.0.0.2" {
		t.Fatal(got)
	}
	l.Remove("box")
	l.Remove("box") // twice is no error
	goleak.VerifyNone(t, before)
	if _, err := idle.ReadMsg(); err == nil {
		t.Error("the connection is still open")
	}
	netnstest.In(t, l.box.Netns, func() error { // the addresses are free again
		u, err := net.ListenPacket("udp4", "127.0.0.11:53")
		if err != nil {
			return err
		}
		s, err := net.Listen("tcp4", "127.0.0.11:53")
		if err != nil {
			return err
		}
		return errors.Join(u.Close(), s.Close())
	})
}

// A sandbox that got another namespace under the same name gets sockets there, and Set refuses what it cannot do.
func TestSetFollowsTheNamespace(t *testing.T) {
	l := newLab(t)
	l.box.Netns = netnstest.NS(t, "again")
	l.set(t)
	l.expect(t, "udp", "web", "10.0.0.2")

	l.box.Netns = l.box.Netns + "-gone"
	if err := l.Set(t.Context(), l.box); err == nil || !strings.Contains(err.Error(), l.box.Netns) {
		t.Errorf("a namespace that is not there: %v", err)
	}
	taken := netnstest.NS(t, "taken")
	var c net.PacketConn
	netnstest.In(t, taken, func() (err error) {
		c, err = net.ListenPacket("udp4", "127.0.0.11:53")
		return err
	})
	l.box.Netns = taken
	if err := l.Set(t.Context(), l.box); err == nil || !strings.Contains(err.Error(), "127.0.0.11:53") {
		t.Errorf("an address that is taken: %v", err)
	}
	_ = c.Close()
	l.set(t)
	l.expect(t, "udp", "web", "10.0.0.2")

	l.Close()
	if err := l.Set(t.Context(), l.box); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Calls for one sandbox from everywhere leave it as the last one said.
func TestSetAndRemoveAtOnce(t *testing.T) {
	l := newLab(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if err := l.Set(context.Background(), l.box); err != nil {
					t.Error(err)
				}
				l.Remove("box")
			}
		})
	}
	wg.Wait()
	l.set(t)
	l.expect(t, "udp", "web", "10.0.0.2")
}
