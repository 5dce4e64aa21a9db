package storetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/kernel/netnstest"
	"weft/store/storetest/server"
)

// Dial makes a client's connections.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// lab is an underlay with servers, one host each, and hosts of clients. Nothing of it is in the test's own network namespace.
type lab struct {
	kind    server.Kind
	mu      sync.Mutex // guards the underlay's making of hosts
	net     *netnstest.Underlay
	control netnstest.Host // where the test asks from whether servers are well; never cut off
	hosts   []netnstest.Host
}

// newLab has hosts for so many servers.
func newLab(t *testing.T, kind server.Kind, servers int) *lab {
	t.Helper()
	l := &lab{kind: kind, net: netnstest.NewUnderlay(t)}
	for range servers {
		l.hosts = append(l.hosts, l.host(t))
	}
	l.control = l.host(t)
	for _, h := range l.hosts {
		l.reached(t, h)
	}
	return l
}

// host plugs another host in.
func (l *lab) host(t *testing.T) netnstest.Host {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.net.Host(t)
	if l.control.Addr.IsValid() {
		l.reached(t, h)
	}
	return h
}

// reached waits until frames pass: a bridge takes its time over a new port, and what is sent meanwhile would be sent again a second later.
func (l *lab) reached(t *testing.T, h netnstest.Host) {
	t.Helper()
	poll(t, patience, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		conn, err := dialFrom(h)(ctx, "tcp", net.JoinHostPort(l.control.Addr.String(), "1"))
		if err == nil {
			return conn.Close()
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		return err
	})
}

// firstPort is that of a lab's servers, which have their addresses for themselves.
const firstPort = 4000

// start starts one server on each host.
func (l *lab) start(t *testing.T, dir string) *server.Cluster {
	t.Helper()
	return l.startWith(t, server.Options{Dir: dir})
}

func (l *lab) startWith(t *testing.T, o server.Options) *server.Cluster {
	t.Helper()
	var addrs []string
	at := map[string]netnstest.Host{}
	for i, h := range l.hosts {
		addrs = append(addrs, h.Addr.String())
		at[fmt.Sprintf("m%d", i)] = h
	}
	o.Kind, o.Size, o.Hosts, o.Port, o.Dial = l.kind, len(addrs), addrs, firstPort, dialFrom(l.control)
	// A process belongs to the namespace of the thread that starts it.
	o.Start = func(m *server.Member, cmd *exec.Cmd) error { return netnstest.Try(at[m.Name].NS, cmd.Start) }
	c, err := server.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			tellLogs(t, c)
		}
	})
	return c
}

// tellLogs prints the ends of what the servers said.
func tellLogs(t *testing.T, c *server.Cluster) {
	const tail = 3000
	for _, m := range c.Members {
		raw, err := os.ReadFile(m.Dir + ".log")
		t.Logf("%s (%v):\n%s", m.Name, err, raw[max(0, len(raw)-tail):])
	}
}

// of is the host of a member.
func (l *lab) of(c *server.Cluster, m *server.Member) netnstest.Host {
	for i, x := range c.Members {
		if x == m {
			return l.hosts[i]
		}
	}
	panic("no such member")
}

// others are the hosts of all members but one.
func (l *lab) others(c *server.Cluster, m *server.Member) []netip.Addr {
	var out []netip.Addr
	for i, x := range c.Members {
		if x != m {
			out = append(out, l.hosts[i].Addr)
		}
	}
	return out
}

// dialFrom dials from a host. A socket belongs to the namespace of the thread that opens it, also when it is used elsewhere.
func dialFrom(h netnstest.Host) Dial {
	var d net.Dialer
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = netnstest.Try(h.NS, func() (err error) {
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}
