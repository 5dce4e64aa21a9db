package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/e2e/lab"
)

// tells answers on TCP, at port 7 of a namespace's IPv6 addresses, with the address of who asks, until the test ends.
func tells(c *cluster, ns string) {
	c.t.Helper()
	var l net.Listener
	err := lab.Within(ns, func() (err error) {
		l, err = net.Listen("tcp6", "[::]:"+echoPort)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			fmt.Fprint(conn, host)
			_ = conn.Close()
		}
	})
	c.t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

// told is who the other side says this is.
func (c caller) told(addr, want string) error {
	conn, err := c.dial("tcp6", addr)
	if err != nil {
		return fmt.Errorf("%s calls %s: %w", c.name, addr, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(soon))
	got, err := io.ReadAll(conn)
	if err == nil && strings.TrimSpace(string(got)) != want {
		err = fmt.Errorf("%s calls %s and is taken for %q, not %s", c.name, addr, got, want)
	}
	return err
}

// addIPv6 gives a node of the lab an address more.
func addIPv6(c *cluster, ns, addr string) {
	c.t.Helper()
	err := lab.Within(ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		return netlink.AddrAdd(l, a)
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// A sandbox that has IPv6 is reached by it as who calls; one that has not, through the proxy.
func TestPublishedPortsOfBothFamilies(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	const host, out = "2001:db8::11", "2001:db8::1"
	addIPv6(c, h.Path, host+"/64")
	addIPv6(c, c.lab.Outside().Path, out+"/64")
	h.weft("network", "create", "--ipv6", "--subnet", "fd00:30::/64", "dual")
	h.weft("network", "create", "plain")
	a := h.box("a", "dual", "-p", "8080:7", "-p", "["+host+"]:8082:7", "-p", "[::1]:8083:7")
	tells(c, a.netns)
	b, d := h.box("b", "plain", "-p", "8081:7").echo(), h.box("d", "dual")
	outside, own := c.outside(), h.caller()
	eventually(t, settle, func() error { return outside.told("["+host+"]:8080", out) })
	c.all(
		own.told("["+host+"]:8080", host), outside.told("["+host+"]:8082", out), outside.shut("["+host+"]:8083"),
		outside.reached("["+host+"]:8081", ""), b.caller().reached(h.at("8081"), ""),
	)
	for _, addr := range []string{"[::1]:8080", "[::1]:8083"} { // the proxy's own address is of the network's
		c.all(own.told(addr, "fd00:30::1"))
	}
	for _, from := range []*box{a, d} {
		if _, err := from.caller().dial("tcp6", "["+host+"]:8080"); err != nil {
			t.Errorf("%s calls the port of a: %v", from.name, err)
		}
	}
	if got := h.weft("port", "a", "7"); !strings.Contains(got, "["+host+"]:8082") || !strings.Contains(got, "[::1]:8083") {
		t.Errorf("weft port prints %q", got)
	}
}
