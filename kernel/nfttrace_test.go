package kernel_test

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/kernel"
	"weft/kernel/netnstest"
)

// What the rules say is what becomes of packets: published ports and filters are tried in package bridge; here is what that does not use.
func TestPacketsGoWhereRulesSay(t *testing.T) {
	ns, dir := netnstest.NS(t, "host"), t.TempDir()
	k := open(t, ns, dir)
	t.Cleanup(func() { clearDir(t, dir) })
	run(t, ns, "ip", "route", "add", "192.0.2.0/24", "dev", "lo", "src", "127.0.0.1")
	element := func(set, dst string, typ kernel.SetType, value string) kernel.Object {
		return object(kernel.KindElement, kernel.HostNS, "inet weft "+set, dst, kernel.Element{Type: typ, Value: value})
	}
	must(t, k, kernel.Missing(state(
		object(kernel.KindTable, kernel.HostNS, "inet weft", "", kernel.Table{
			Sets: []kernel.Set{{Name: "members", Type: kernel.MapMember}},
			Chains: []kernel.Chain{
				{Name: "out", Type: "nat", Hook: "output", Priority: -100, Rules: []kernel.Rule{
					{If: []kernel.Match{is(kernel.DestAddr, "192.0.2.50")}, Verdict: kernel.DNAT, By: kernel.Random, Of: 2, To: "@members"},
					{If: []kernel.Match{is(kernel.DestAddr, "192.0.2.51"), is(kernel.TCPDest, "80")}, Verdict: kernel.DNAT, To: "127.0.0.2:9"},
				}},
				{Name: "mark", Type: "filter", Hook: "output", Priority: -50, Rules: []kernel.Rule{
					{If: []kernel.Match{is(kernel.TCPDest, "10")}, Verdict: kernel.SetMark, To: "0x30/0xff"},
					{If: []kernel.Match{is(kernel.TCPDest, "10")}, Verdict: kernel.SetMark, To: "0/0x10"},
					{If: []kernel.Match{is(kernel.TCPDest, "11")}, Verdict: kernel.SetCTMark, To: "0x7"},
					{If: []kernel.Match{is(kernel.Mark, "0x20/0xff")}, Verdict: kernel.Jump, To: "refuse"},
					{If: []kernel.Match{is(kernel.CTMark, "0x7"), is(kernel.Established, "new")}, Verdict: kernel.Reject},
				}},
				{Name: "refuse", Rules: []kernel.Rule{{Verdict: kernel.Reject}}},
			},
		}),
		element("members", "0", kernel.MapMember, "127.0.0.2"), element("members", "1", kernel.MapMember, "127.0.0.3"),
	), nil))
	for _, at := range []string{"127.0.0.2:9", "127.0.0.3:9", "127.0.0.1:10", "127.0.0.1:11"} {
		greet(t, ns, at)
	}
	seen := map[string]int{}
	for range 40 {
		who, err := greeted(ns, "192.0.2.50:9")
		if err != nil {
			t.Fatal(err)
		}
		seen[who]++
	}
	if len(seen) != 2 || seen["127.0.0.2:9"] < 5 || seen["127.0.0.3:9"] < 5 {
		t.Errorf("the members got %v of 40", seen)
	}
	if who, err := greeted(ns, "192.0.2.51:80"); err != nil || who != "127.0.0.2:9" {
		t.Errorf("another address and port: %q, %v", who, err)
	}
	for what, at := range map[string]string{"by the packet's mark": "127.0.0.1:10", "by the connection's mark": "127.0.0.1:11"} {
		if who, err := greeted(ns, at); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("refused %s: %q, %v", what, who, err)
		}
	}
}

// greet tells each who connects where it is.
func greet(t *testing.T, ns, at string) {
	t.Helper()
	var l net.Listener
	netnstest.In(t, ns, func() (err error) {
		l, err = net.Listen("tcp", at)
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(at))
			_ = c.Close()
		}
	}()
}

func greeted(ns, at string) (string, error) {
	var who string
	err := netnstest.Try(ns, func() error {
		c, err := net.DialTimeout("tcp", at, 2*time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		b := make([]byte, 64)
		n, err := c.Read(b)
		who = string(b[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		return nil
	})
	return who, err
}
