package dnssvc

import (
	"net"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// On one connection an answer that is there goes before one that is slow, and what was asked before the asker closed its side is answered.
func TestPipelining(t *testing.T) {
	l, e := newForwardLab(t)
	held := make(chan struct{})
	e.obey(func(w dns.ResponseWriter, _, good *dns.Msg) {
		<-held
		_ = w.WriteMsg(good)
	})
	c := dialIn(t, l.box.Netns, "tcp")
	for _, name := range []string{"slow.example", "web", "www"} {
		if err := c.WriteMsg(query(name, dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var order []string
	for i := range 3 {
		if i == 2 {
			close(held)
		}
		a, err := c.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, a.Question[0].Name+shown(a))
	}
	if want := []string{"web.10.0.0.2", "www.10.0.0.2", "slow.example.192.0.2.1"}; !slices.Equal(order, want) {
		t.Errorf("answers came as %v, want %v", order, want)
	}
	if _, err := c.ReadMsg(); err == nil {
		t.Error("the connection is still open")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l := newLab(t)
	var open []*dns.Conn
	for range maxConns {
		c := dialIn(t, l.box.Netns, "tcp")
		if got := shown(askOver(t, c, query("web", dns.TypeA))); got != "10.0.0.2" {
			t.Fatal(got)
		}
		open = append(open, c)
	}
	// given that all are taken, the next one waits, UDP goes on, and the end of one lets it in
	next := dialIn(t, l.box.Netns, "tcp")
	q := query("web", dns.TypeA)
	if err := next.WriteMsg(q); err != nil {
		t.Fatal(err)
	}
	l.expect(t, "udp", "web", "10.0.0.2")
	if n := l.connections(); n != maxConns {
		t.Errorf("%d connections are open, want %d", n, maxConns)
	}
	_ = open[0].Close()
	if a, err := next.ReadMsg(); err != nil || shown(a) != "10.0.0.2" {
		t.Error(a, err)
	}
	// what is no question, or too long to be one, ends its connection
	for _, sent := range [][]byte{{0, 3, 1, 2, 3}, {0xff, 0xff, 0}} {
		if _, err := open[1].Conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		if _, err := open[1].ReadMsg(); err == nil {
			t.Errorf("%x was answered", sent)
		}
		open = open[1:]
	}
}

func (l *lab) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.slots["box"].resolver.conns)
}
