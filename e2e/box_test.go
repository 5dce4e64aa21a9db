package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"weft/e2e/lab"
)

// box is a sandbox. What it sends and receives is sent and received by the test itself, through sockets in its namespace: so that any
// moment can be looked at.
type box struct {
	h     *host
	name  string
	id    string
	netns string
}

// sandboxView is what of `weft inspect` the tests read.
type sandboxView struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status   string
		ExitCode int
	}
	LogPath         string
	NetworkSettings struct {
		SandboxKey string
		Networks   map[string]struct {
			IPAddress   string
			IPPrefixLen int
			Gateway     string
			MacAddress  string
			EndpointID  string
			Aliases     []string
			Isolated    string
		}
	}
}

const forever = "1000000"

// box runs a sandbox that does nothing; options go before the network's.
func (h *host) box(name, network string, options ...string) *box {
	h.c.t.Helper()
	args := append([]string{"run", "-d", "--name", name, "--network", network}, options...)
	id := h.weft(append(args, "--", "sleep", forever)...)
	b := &box{h: h, name: name, id: id}
	b.netns = b.view().NetworkSettings.SandboxKey
	return b
}

func (b *box) view() sandboxView {
	b.h.c.t.Helper()
	return inspect[sandboxView](b.h, "inspect", b.name)
}

// addr is the sandbox's address in a network.
func (b *box) addr(network string) string {
	b.h.c.t.Helper()
	a := b.view().NetworkSettings.Networks[network].IPAddress
	if _, err := netip.ParseAddr(a); err != nil {
		b.h.c.t.Fatalf("%s has no address in %s: %v", b.name, network, err)
	}
	return a
}

func (b *box) do(f func() error) error { return lab.Within(b.netns, f) }

func (b *box) dial(network, addr string, patience time.Duration) (c net.Conn, err error) {
	err = b.do(func() (err error) {
		c, err = net.DialTimeout(network, addr, patience)
		return err
	})
	return c, err
}

const (
	echoPort   = "7"
	soon       = 2 * time.Second
	unanswered = 700 * time.Millisecond // long enough for an answer, had there been one
)

// echo answers on TCP and UDP at an address of a namespace, or at all of them, with what it gets, until the test ends; to each TCP
// connection it first says who asks.
func echo(c *cluster, ns, addr string) {
	c.t.Helper()
	var l net.Listener
	var p net.PacketConn
	err := lab.Within(ns, func() (err error) {
		if l, err = net.Listen("tcp4", net.JoinHostPort(addr, echoPort)); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp4", net.JoinHostPort(addr, echoPort))
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards conns
	conns := []io.Closer{l, p}
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() {
				host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
				fmt.Fprintf(conn, "%-15s", host)
				_, _ = io.Copy(conn, conn) // until the other side has enough
				_ = conn.Close()
			})
		}
	})
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(buf[:n], from)
		}
	})
	c.t.Cleanup(func() {
		mu.Lock()
		for _, x := range conns {
			_ = x.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// echo makes the sandbox answer.
func (b *box) echo() *box {
	b.h.c.t.Helper()
	echo(b.h.c, b.netns, "")
	return b
}

// greeting connects by TCP and returns who the other side says this is.
func (b *box) greeting(addr string, patience time.Duration) (string, error) {
	c, err := b.dial("tcp4", net.JoinHostPort(addr, echoPort), patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return readGreeting(c, patience)
}

func readGreeting(c net.Conn, patience time.Duration) (string, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	buf := make([]byte, 15)
	_, err := io.ReadFull(c, buf)
	return strings.TrimSpace(string(buf)), err
}

// says sends by UDP and waits for the echo.
func (b *box) says(addr string, patience time.Duration) error {
	c, err := b.dial("udp4", net.JoinHostPort(addr, echoPort), patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	buf := make([]byte, 10)
	n, err := c.Read(buf)
	if err == nil && string(buf[:n]) != "hello" {
		err = fmt.Errorf("the echo is %q", buf[:n])
	}
	return err
}

// pings sends an ICMP echo request of some size and waits for the reply.
func (b *box) pings(addr string, size int, patience time.Duration) error {
	to := &net.IPAddr{IP: net.ParseIP(addr)}
	var c *icmp.PacketConn
	err := b.do(func() (err error) {
		c, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	id := os.Getpid() & 0xffff
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: make([]byte, size)}}
	raw, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.WriteTo(raw, to); err != nil {
		return err
	}
	buf := make([]byte, 65536)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("no reply from %s: %w", addr, err)
		}
		r, err := icmp.ParseMessage(1, buf[:n])
		if err == nil && r.Type == ipv4.ICMPTypeEchoReply && from.String() == addr {
			return nil
		}
	}
}

// reaches is what two sandboxes that share a network do: TCP, UDP, small and whole packets of ICMP.
func (b *box) reaches(addr string) error {
	_, err := b.greeting(addr, soon)
	return errors.Join(err, b.says(addr, soon), b.pings(addr, 8, soon), b.pings(addr, 1400, soon))
}

// blind is what sandboxes do that share none: nothing comes through.
func (b *box) blind(addr string) error {
	var errs []error
	if who, err := b.greeting(addr, unanswered); err == nil {
		errs = append(errs, fmt.Errorf("TCP to %s was answered, to %s", addr, who))
	}
	if b.says(addr, unanswered) == nil {
		errs = append(errs, fmt.Errorf("UDP to %s was answered", addr))
	}
	if b.pings(addr, 8, unanswered) == nil {
		errs = append(errs, fmt.Errorf("ICMP to %s was answered", addr))
	}
	return errors.Join(errs...)
}

// lookup asks the sandbox's own resolver. It is not Go's that asks, which knows no names of digits alone.
func (b *box) lookup(name string) ([]string, error) {
	c, err := b.dial("udp4", "127.0.0.11:53", soon)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return nil, err
	}
	conn := &dns.Conn{Conn: c}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)); err != nil {
		return nil, err
	}
	m, err := conn.ReadMsg()
	if err != nil {
		return nil, fmt.Errorf("no answer about %s: %w", name, err)
	}
	var out []string
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			out = append(out, a.A.String())
		}
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		err = fmt.Errorf("the answer about %s is %s", name, dns.RcodeToString[m.Rcode])
	}
	return out, err
}

// finds is nil where a name has just these addresses, in whatever order.
func (b *box) finds(name string, want ...string) error {
	got, err := b.lookup(name)
	if err != nil {
		return fmt.Errorf("%s looks %s up: %w", b.name, name, err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s looks %s up and finds %v, want %v", b.name, name, got, want)
	}
	return nil
}

// sees tries to reach an address of a network from a host, with a route through another host.
func (h *host) sees(addr, through string) error {
	dst := &net.IPNet{IP: net.ParseIP(addr).To4(), Mask: net.CIDRMask(32, 32)}
	return h.Do(func() error {
		route := &netlink.Route{Dst: dst, Gw: net.ParseIP(through)}
		if err := netlink.RouteAdd(route); err != nil {
			return err
		}
		defer func() { _ = netlink.RouteDel(route) }()
		c, err := net.DialTimeout("tcp4", net.JoinHostPort(addr, echoPort), unanswered)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}
