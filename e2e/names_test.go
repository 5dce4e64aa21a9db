package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// upstream is a DNS server of a host's neighbourhood that writes down all that it is asked, and knows every name.
type upstream struct {
	addr string

	mu    sync.Mutex // guards asked
	asked []string
}

// upstream starts one in the host's namespace.
func (h *host) upstream() *upstream {
	h.c.t.Helper()
	u := &upstream{addr: h.Addr.String()}
	var p net.PacketConn
	var l net.Listener
	err := h.Do(func() (err error) {
		if p, err = net.ListenPacket("udp4", net.JoinHostPort(u.addr, "53")); err != nil {
			return err
		}
		l, err = net.Listen("tcp4", net.JoinHostPort(u.addr, "53"))
		return err
	})
	must(h.c.t, err)
	var wg sync.WaitGroup
	for _, s := range []*dns.Server{{PacketConn: p, Handler: u}, {Listener: l, Handler: u}} {
		wg.Go(func() { _ = s.ActivateAndServe() })
	}
	h.c.t.Cleanup(func() { _, _ = p.Close(), l.Close(); wg.Wait() })
	return u
}

func (u *upstream) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	u.mu.Lock()
	u.asked = append(u.asked, strings.ToLower(q.Question[0].Name)+" "+dns.TypeToString[q.Question[0].Qtype])
	u.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(203, 0, 113, 9)})
	}
	_ = w.WriteMsg(m)
}

// heard returns what it was asked since the last call, but for its users' probes.
func (u *upstream) heard() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []string
	for _, q := range u.asked {
		if !strings.HasPrefix(q, ". ") {
			out = append(out, q)
		}
	}
	u.asked = nil
	return out
}

// asks puts a question to the sandbox's resolver.
func (b *box) asks(network, name string, qtype uint16) (*dns.Msg, error) {
	c, err := b.dial(network, "127.0.0.11:53", soon)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return nil, err
	}
	conn := &dns.Conn{Conn: c, UDPSize: 4096}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)); err != nil {
		return nil, err
	}
	return conn.ReadMsg()
}

func TestNoQuestionAboutAnOwnNameLeavesTheHost(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	u := h1.upstream()
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "front")
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.2.0.0/24", "--internal", "shut")

	// Given names of every kind: of sandboxes that run and that do not, on this host and another, aliases of both kinds, links
	web := h2.box("web", "front", "--hostname", "Webhost", "--network-alias", "www", "--network-alias", "api,mode=vip")
	h2.box("gone", "front", "--network-alias", "old")
	h2.weft("stop", "-t", "0", "gone")
	asker := h1.box("asker", "front", "--dns", u.addr, "--link", "web:w", "--link", "never:nobody")
	eventually(t, settle, func() error { return asker.finds("web", web.addr("front")) })
	ip4 := netip.MustParseAddr(web.addr("front")).As4()
	names := []string{
		"web", "WEB", "web.front", "www", "www.front", "api", "api.front", "webhost", "webhost.front", web.id[:12], web.id[:12] + ".front", "asker",
		"gone", "gone.front", "old", "old.front", "w", "w.front", "nobody", "nobody.front",
		fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa", ip4[3], ip4[2], ip4[1], ip4[0]), "254.0.1.10.in-addr.arpa",
	}
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX, dns.TypeSRV, dns.TypeANY, dns.TypeHTTPS, dns.TypeTXT, dns.TypeNS, dns.TypeSOA, dns.TypePTR}
	if _, err := asker.asks("udp", "example.com", dns.TypeA); err != nil {
		t.Fatal(err)
	}
	if got := u.heard(); len(got) != 1 || got[0] != "example.com. A" {
		t.Fatalf("of a name of others, the server heard %q", got)
	}

	// When they are asked for, with whatever type, the sandbox has an answer, and nobody else hears of it
	for _, name := range names {
		for _, qtype := range types {
			for _, network := range []string{"udp", "tcp"} {
				m, err := asker.asks(network, name, qtype)
				if err != nil {
					t.Fatalf("%s %s over %s: %v", name, dns.TypeToString[qtype], network, err)
				}
				if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError || !m.Authoritative {
					t.Errorf("%s %s: %v", name, dns.TypeToString[qtype], m.MsgHdr)
				}
			}
		}
	}
	if got := u.heard(); len(got) > 0 {
		t.Errorf("the server heard of names of the cluster: %q", got)
	}

	// When a sandbox is in internal networks alone, nothing at all is asked elsewhere
	inside := h1.box("inside", "shut", "--dns", u.addr)
	for _, name := range []string{"example.com", "nobody", "web", "web.front", "9.9.9.9.in-addr.arpa"} {
		m, err := inside.asks("udp", name, dns.TypeA)
		if err != nil || m.Rcode != dns.RcodeNameError {
			t.Errorf("%s in an internal network: %v, %v", name, m, err)
		}
	}
	if got := u.heard(); len(got) > 0 {
		t.Errorf("from an internal network the server heard %q", got)
	}

	// When an unknown name has one label, it is asked for like others; and where nobody answers, the answer is no, within a second
	if _, err := asker.asks("udp", "intranet", dns.TypeA); err != nil {
		t.Error(err)
	}
	if got := u.heard(); len(got) != 1 {
		t.Errorf("of an unknown name the server heard %q", got)
	}
	silent := h1.box("silent", "front", "--dns", "192.0.2.250")
	for range 2 { // the second time it is known that nobody is there
		start := time.Now()
		m, err := silent.asks("udp", "intranet", dns.TypeA)
		if took := time.Since(start); err != nil || m.Rcode != dns.RcodeNameError || took > 1500*time.Millisecond {
			t.Errorf("with a silent server the answer is %v, %v after %s", m, err, took)
		}
	}
}

// supervisor is the process that holds a sandbox's own: its parent.
func (b *box) supervisor() int {
	b.h.c.t.Helper()
	pid := inspect[struct{ State struct{ Pid int } }](b.h, "inspect", b.name).State.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b.h.c.t, err)
	var state string
	var parent int
	if _, err := fmt.Sscan(string(text[strings.LastIndexByte(string(text), ')')+1:]), &state, &parent); err != nil || parent < 2 {
		b.h.c.t.Fatalf("the parent of %d is %d: %v", pid, parent, err)
	}
	return parent
}

// An alias of several loses each of them however it goes, on all hosts.
func TestAnAliasLosesWhatDies(t *testing.T) {
	t.Parallel()
	c, _ := upWithStore(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "web")
	left := map[string]string{}
	for name, h := range map[string]*host{"m1": h1, "m2": h1, "m3": h2, "m4": h2, "m5": h3} {
		left[name] = h.box(name, "web", "--network-alias", "www").addr("web")
	}
	clients := []*box{h1.box("c1", "web"), h2.box("c2", "web")}
	finds := func(limit time.Duration) {
		t.Helper()
		var want []string
		for _, a := range left {
			want = append(want, a)
		}
		for _, client := range clients {
			eventually(t, limit, func() error { return client.finds("www", want...) })
		}
	}
	finds(settle)
	// When a process, of either host, and then a supervisor is killed
	for _, name := range []string{"m1", "m3"} {
		b := &box{h: map[string]*host{"m1": h1, "m3": h2}[name], name: name}
		must(t, syscall.Kill(inspect[struct{ State struct{ Pid int } }](b.h, "inspect", name).State.Pid, syscall.SIGKILL))
		delete(left, name)
		finds(settle)
	}
	m4 := &box{h: h2, name: "m4"}
	must(t, syscall.Kill(m4.supervisor(), syscall.SIGKILL))
	delete(left, "m4")
	finds(settle)
	// When a host is lost
	must(t, h3.PowerOff(within(t, patience)))
	delete(left, "m5")
	finds(hostLoss)
	// When all are gone, the name is nobody's
	h1.weft("rm", "-f", "m2")
	for _, client := range clients {
		eventually(t, settle, func() error { return errors.Join(client.finds("www"), client.finds("m1"), client.finds("m5")) })
	}
}
