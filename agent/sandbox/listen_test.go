package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// given are the ports that a test has.
var given sync.Map

// freePort is a port of the loopback that nobody listens at, and no other test gets.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		_ = l.Close()
		if _, twice := given.LoadOrStore(port, true); !twice {
			return port
		}
	}
}

func openSet(t *testing.T, b bounds) *portSet {
	t.Helper()
	s := newPortSet(b)
	t.Cleanup(s.close)
	return s
}

func addrPort(a string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(a), port)
}

// tcpServer answers each connection with what f does.
func tcpServer(t *testing.T, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(patience))
				f(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// says is a server's answer: a word, and nothing else.
func says(word string) func(*net.TCPConn) { return func(c *net.TCPConn) { fmt.Fprint(c, word) } }

func dialTCP(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func hears(t *testing.T, c *net.TCPConn) string {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func mustSet(t *testing.T, s *portSet, want ...Forward) {
	t.Helper()
	if err := s.set(want); err != nil {
		t.Fatal(err)
	}
}

// Each side may end what it says, and hear the other's answer after that.
func TestAConnectionIsPassedOnWithBothItsEnds(t *testing.T) {
	t.Parallel()
	server := tcpServer(t, func(c *net.TCPConn) {
		got, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%d bytes", len(got))
	})
	for name, host := range map[string]string{"IPv4": "127.0.0.1", "IPv6, to a target that has none": "::1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openSet(t, usualBounds())
			at := addrPort(host, freePort(t))
			mustSet(t, s, Forward{"tcp", at, server})
			c := dialTCP(t, at)
			if _, err := c.Write(make([]byte, 3<<20)); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := hears(t, c); got != fmt.Sprintf("%d bytes", 3<<20) {
				t.Errorf("the answer is %q", got)
			}
		})
	}
}

func TestNewConnectionsGoToTheNewTarget(t *testing.T) {
	t.Parallel()
	s := openSet(t, usualBounds())
	at := addrPort("127.0.0.1", freePort(t))
	old := tcpServer(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	mustSet(t, s, Forward{"tcp", at, old})
	kept := dialTCP(t, at)
	if _, err := kept.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	mustSet(t, s, Forward{"tcp", at, tcpServer(t, says("new"))})
	if got := hears(t, dialTCP(t, at)); got != "new" {
		t.Errorf("a new connection reads %q", got)
	}
	if _, err := kept.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
		t.Errorf("an old connection did not stay: %v", err)
	}
}

// What cannot be reached is told by a reset, at once.
func TestAnUnreachableTargetResets(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]netip.AddrPort{"nobody there": addrPort("127.0.0.1", freePort(t)), "no target now": {}} {
		s := openSet(t, usualBounds())
		at := addrPort("127.0.0.1", freePort(t))
		mustSet(t, s, Forward{"tcp", at, target})
		c, err := net.Dial("tcp", at.String())
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(patience))
			_, err = c.Read(make([]byte, 1))
			_ = c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
	}
}

func TestAPortIsTakenWhileItIsPublished(t *testing.T) {
	t.Parallel()
	s := openSet(t, usualBounds())
	at := addrPort("127.0.0.1", freePort(t))
	mustSet(t, s, Forward{"tcp", at, addrPort("127.0.0.1", 1)}, Forward{"udp", at, addrPort("127.0.0.1", 1)})
	if l, err := net.Listen("tcp4", at.String()); err == nil {
		_ = l.Close()
		t.Error("the tcp port is free")
	}
	if l, err := net.ListenPacket("udp4", at.String()); err == nil {
		_ = l.Close()
		t.Error("the udp port is free")
	}
	mustSet(t, s, Forward{"udp", at, addrPort("127.0.0.1", 1)})
	l, err := net.Listen("tcp4", at.String())
	if err != nil {
		t.Errorf("the tcp port is still taken: %v", err)
	} else {
		_ = l.Close()
	}
	s.close()
	if err := s.set([]Forward{{"tcp", at, netip.AddrPort{}}}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
	p, err := net.ListenPacket("udp4", at.String())
	if err != nil {
		t.Fatalf("the udp port is still taken: %v", err)
	}
	_ = p.Close()
}

// All that was asked for, or nothing of it.
func TestAPortThatCannotBeHadChangesNothing(t *testing.T) {
	t.Parallel()
	s := openSet(t, usualBounds())
	kept, fresh, other := addrPort("127.0.0.1", freePort(t)), addrPort("127.0.0.1", freePort(t)), addrPort("192.0.2.77", 80)
	target := tcpServer(t, says("hello"))
	mustSet(t, s, Forward{"tcp", kept, target})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	busy := l.Addr().(*net.TCPAddr).AddrPort()
	wide := netip.AddrPortFrom(netip.IPv4Unspecified(), kept.Port()) // what stands in its way is its own
	for _, c := range []struct {
		want   []Forward
		reason string
		index  int
		busy   bool
	}{
		{[]Forward{{"tcp", fresh, target}, {"tcp", busy, target}}, fmt.Sprintf("listen tcp4 %s: bind: address already in use", busy), 1, true},
		{[]Forward{{"tcp", wide, target}, {"tcp", busy, target}}, fmt.Sprintf("listen tcp4 %s: bind: address already in use", busy), 1, true},
		{[]Forward{{"udp", other, target}}, "listen udp4 192.0.2.77:80: bind: cannot assign requested address", 0, false},
		{[]Forward{{"tcp", other, target}}, "listen tcp4 192.0.2.77:80: bind: cannot assign requested address", 0, false},
	} {
		err := s.set(c.want)
		var refused *BindError
		if !errors.As(err, &refused) || *refused != (BindError{c.index, c.busy, c.reason}) {
			t.Errorf("%v: %+v, want %q of number %d", c.want, err, c.reason, c.index)
		}
		if l, err := net.Listen("tcp4", fresh.String()); err != nil {
			t.Errorf("%v: something stayed: %v", c.want, err)
		} else {
			_ = l.Close()
		}
		mustSet(t, s, Forward{"tcp", kept, target}) // it is open again, and aimed
		if got := hears(t, dialTCP(t, kept)); got != "hello" {
			t.Errorf("%v: the old port reads %q", c.want, got)
		}
	}
	mustSet(t, s, Forward{"tcp", wide, target}) // instead of the one that stands in its way
	if got := hears(t, dialTCP(t, kept)); got != "hello" {
		t.Errorf("the wide port reads %q", got)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	b := usualBounds()
	b.conns = 1
	s := openSet(t, b)
	at := addrPort("127.0.0.1", freePort(t))
	mustSet(t, s, Forward{"tcp", at, tcpServer(t, func(c *net.TCPConn) {
		fmt.Fprint(c, "x")
		_, _ = io.Copy(io.Discard, c)
	})})
	first, second := dialTCP(t, at), dialTCP(t, at)
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("two at once are served")
	}
	_ = first.Close()
	_ = second.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(second, make([]byte, 1)); err != nil {
		t.Errorf("the second is not served after the first: %v", err)
	}
}

// A side that has ended its own part does not wait for ever for one that says nothing.
func TestAHalfOpenConnectionEnds(t *testing.T) {
	t.Parallel()
	b := usualBounds()
	b.halfClose = 20 * time.Millisecond
	s := openSet(t, b)
	at := addrPort("127.0.0.1", freePort(t))
	ended := make(chan struct{})
	mustSet(t, s, Forward{"tcp", at, tcpServer(t, func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c) // the client's end
		_, err := c.Read(make([]byte, 1))
		for ; err == nil || errors.Is(err, io.EOF); _, err = c.Write([]byte("x")) { // now and then a byte, until the proxy has had enough
			if errors.Is(err, io.EOF) {
				<-time.After(200 * time.Millisecond)
			}
		}
		close(ended)
	})})
	c := dialTCP(t, at)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err == nil {
		t.Error("the connection ended by itself")
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the target's side is still there")
	}
}

// udpServer answers each datagram with itself and a word.
func udpServer(t *testing.T, word string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(append(buf[:n:n], word...), from)
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func dialUDP(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// asks sends a word and returns the answer.
func asks(t *testing.T, c *net.UDPConn, word string) string {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(word)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatalf("no answer to %.20q: %v", word, err)
	}
	return string(buf[:n])
}

func (s *portSet) sessions(f Forward) int {
	s.mu.Lock()
	p := s.open[f.name()].(*udpPort)
	s.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sessions)
}

func TestDatagramsFindTheirWayBack(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("b", 60_000)
	for name, hosts := range map[string][2]string{ // where the port is, and where a client sends to
		"an address":                        {"127.0.0.1", "127.0.0.1"},
		"all, by one that is not the first": {"0.0.0.0", "127.0.0.9"},
		"IPv6":                              {"::1", "::1"},
		"all of IPv6":                       {"::", "::1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openSet(t, usualBounds())
			port := freePort(t)
			f := Forward{"udp", addrPort(hosts[0], port), udpServer(t, "!")}
			mustSet(t, s, f)
			to := addrPort(hosts[1], port)
			a, b := dialUDP(t, to), dialUDP(t, to)
			for _, c := range []struct {
				c    *net.UDPConn
				word string
			}{{a, "one"}, {b, "two"}, {a, "three"}, {b, ""}, {a, big}} {
				if got := asks(t, c.c, c.word); got != c.word+"!" {
					t.Errorf("asked %.20q and got %.20q", c.word, got)
				}
			}
			if n := s.sessions(f); n != 2 {
				t.Errorf("%d sessions, want one for each client", n)
			}
			f.Target = udpServer(t, "?")
			mustSet(t, s, f)
			if got := asks(t, a, "again"); got != "again?" {
				t.Errorf("of the new target: %q", got)
			}
		})
	}
}

func TestClientsAreForgottenAndBounded(t *testing.T) {
	t.Parallel()
	b := usualBounds()
	b.sessions = 2
	s := openSet(t, b)
	f := Forward{"udp", addrPort("127.0.0.1", freePort(t)), udpServer(t, "!")}
	mustSet(t, s, f)
	a := dialUDP(t, f.Host)
	for range 5 { // others come and go; a is not among the silent
		asks(t, a, "a")
		asks(t, dialUDP(t, f.Host), "x")
		if n := s.sessions(f); n > 2 {
			t.Fatalf("%d sessions, want at most 2", n)
		}
	}

	b.udpIdle = 10 * time.Millisecond
	s = openSet(t, b)
	f.Host = addrPort("127.0.0.1", freePort(t))
	mustSet(t, s, f)
	_, _ = dialUDP(t, f.Host).Write([]byte("x"))
	eventually(t, "the silent client is forgotten", func() bool { return s.sessions(f) == 0 })
}

// A target that is not there yet, or not any more, is no reason to forget a client.
func TestAClosedUDPTargetMayComeBack(t *testing.T) {
	t.Parallel()
	s := openSet(t, usualBounds())
	gone, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	target := gone.LocalAddr().(*net.UDPAddr)
	_ = gone.Close()
	f := Forward{"udp", addrPort("127.0.0.1", freePort(t)), target.AddrPort()}
	mustSet(t, s, f)
	c := dialUDP(t, f.Host)
	for range 3 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	back, err := net.ListenUDP("udp4", target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = back.Close() }()
	eventually(t, "a datagram arrives", func() bool {
		_, _ = c.Write([]byte("y"))
		_ = back.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err := back.Read(make([]byte, 1))
		return err == nil
	})
}
