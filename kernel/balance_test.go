package kernel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"weft/kernel"
	"weft/kernel/netnstest"
)

// balancing is a namespace with members that say their address to who asks, by TCP and UDP, and a route to where virtual addresses are.
type balancing struct {
	ns string
	k  *kernel.Kernel
}

func newBalancing(t *testing.T, members ...string) balancing {
	t.Helper()
	b := balancing{ns: netnstest.NS(t, "sandbox")}
	dir := t.TempDir()
	b.k = open(t, netnstest.NS(t, "host"), dir)
	t.Cleanup(func() { clearDir(t, dir) })
	netnstest.In(t, b.ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		err = netlink.LinkSetUp(lo)
		for _, m := range append([]string{"10.9.0.1", "fd09::1"}, members...) {
			a := netip.MustParseAddr(m)
			err = errors.Join(err, netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: syscall.IFA_F_NODAD}))
		}
		for _, p := range []string{"10.9.0.0/24", "fd09::/64"} {
			_, dst, _ := net.ParseCIDR(p)
			err = errors.Join(err, netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst}))
		}
		return err
	})
	for _, m := range members {
		serve(t, b.ns, m)
	}
	return b
}

// serve answers at port 80 of an address until the test's end.
func serve(t *testing.T, ns, addr string) {
	t.Helper()
	var wg sync.WaitGroup
	netnstest.In(t, ns, func() error {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, "80"))
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", net.JoinHostPort(addr, "80"))
		if err != nil {
			return errors.Join(err, l.Close())
		}
		t.Cleanup(func() { _, _ = l.Close(), u.Close(); wg.Wait() })
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					b := make([]byte, 1)
					for {
						if _, err := c.Read(b); err != nil {
							_ = c.Close()
							return
						}
						_, _ = io.WriteString(c, addr)
					}
				})
			}
		})
		wg.Go(func() {
			b := make([]byte, 16)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(addr), from)
			}
		})
		return nil
	})
}

// dial opens a connection from the namespace.
func (b balancing) dial(network, addr string) (c net.Conn, err error) {
	err = netnstest.Try(b.ns, func() (err error) {
		c, err = net.DialTimeout(network, net.JoinHostPort(addr, "80"), 3*time.Second)
		return err
	})
	return c, err
}

// ask returns who is at the other end of a connection.
func ask(c net.Conn) (string, error) {
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func (b balancing) put(t *testing.T, s ...kernel.VIP) kernel.State {
	t.Helper()
	want := state(object(kernel.KindTable, b.ns, "inet weft-vip-x", "", kernel.Balance{VIPs: s}))
	must(t, b.k, kernel.Missing(want, nil))
	return want
}

func service(vip string, members ...string) kernel.VIP {
	s := kernel.VIP{Addr: netip.MustParseAddr(vip)}
	for _, m := range members {
		s.Members = append(s.Members, netip.MustParseAddr(m))
	}
	return s
}

func TestConnectionsToAVirtualAddressAreBalanced(t *testing.T) {
	for _, tc := range []struct {
		vip     string
		members []string
	}{
		{"10.9.0.254", []string{"10.9.0.2", "10.9.0.3", "10.9.0.4"}},
		{"fd09::fe", []string{"fd09::2", "fd09::3"}},
	} {
		// Given a virtual address with members
		b := newBalancing(t, tc.members...)
		b.put(t, service(tc.vip, tc.members...))
		// When many connections go there, each member gets about its share of them
		for _, network := range []string{"tcp", "udp"} {
			got := map[string]int{}
			const each = 100
			for range each * len(tc.members) {
				c, err := b.dial(network, tc.vip)
				if err != nil {
					t.Fatal(err)
				}
				who, err := ask(c)
				if err != nil {
					t.Fatal(err)
				}
				got[who]++
				_ = c.Close()
			}
			for _, m := range tc.members {
				if got[m] < each/2 || got[m] > 2*each {
					t.Errorf("%s to %s: %v, want about %d each", network, tc.vip, got, each)
				}
			}
		}
	}
}

func TestConnectionsStayAndDatagramsOfTheDeadMoveOn(t *testing.T) {
	// Given connections to the only member
	b := newBalancing(t, "10.9.0.2", "10.9.0.3")
	const vip = "10.9.0.254"
	b.put(t, service(vip, "10.9.0.2"))
	dial := func(network string) net.Conn {
		c, err := b.dial(network, vip)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if who, err := ask(c); err != nil || who != "10.9.0.2" {
			t.Fatalf("%s answers: %v", who, err)
		}
		return c
	}
	stream, datagrams := dial("tcp"), dial("udp")
	// When another comes, they stay where they are
	b.put(t, service(vip, "10.9.0.2", "10.9.0.3"))
	for range 20 {
		for _, c := range []net.Conn{stream, datagrams} {
			if who, err := ask(c); err != nil || who != "10.9.0.2" {
				t.Fatalf("after another came, %s answers: %v", who, err)
			}
		}
	}
	// When theirs goes, datagrams find the other at once; a stream that its end has not closed goes on
	b.put(t, service(vip, "10.9.0.3"))
	if who, err := ask(datagrams); err != nil || who != "10.9.0.3" {
		t.Errorf("after its member went, %s answers: %v", who, err)
	}
	if who, err := ask(stream); err != nil || who != "10.9.0.2" {
		t.Errorf("a stream that is open is answered by %s: %v", who, err)
	}
	// When no member is left, both kinds are refused at once
	b.put(t, service(vip))
	start := time.Now()
	if _, err := b.dial("tcp", vip); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without members, a connection: %v", err)
	}
	if who, err := ask(datagrams); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EPERM) {
		t.Errorf("without members, a datagram: %s, %v", who, err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the refusals took %v", took)
	}
}

func TestABalanceIsReadAsItWasPut(t *testing.T) {
	for name, services := range map[string][]kernel.VIP{
		"none":         nil,
		"no members":   {service("10.9.0.254")},
		"one":          {service("10.9.0.254", "10.9.0.2")},
		"both kinds":   {service("10.9.0.253", "10.9.0.2", "10.9.0.3"), service("10.9.0.254"), service("fd09::fe", "fd09::2")},
		"many members": {crowd(1200)},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancing(t)
			var want kernel.State
			for range 2 {
				want = b.put(t, services...)
				have := readState(t, b.k, b.ns)
				if ops := kernel.Diff(want, have); len(ops) > 0 {
					t.Errorf("%d steps left", len(ops))
				}
			}
			// When another program changes it, it is put again
			nft(t, b.ns, func(c *nftables.Conn) error {
				tab := &nftables.Table{Family: nftables.TableFamilyINet, Name: "weft-vip-x"}
				c.AddChain(&nftables.Chain{Table: tab, Name: "theirs"})
				return c.Flush()
			})
			if ops := kernel.Missing(want, readState(t, b.k, b.ns)); len(ops) != 1 {
				t.Errorf("after it was changed, %d steps", len(ops))
			}
			// When nobody wants it, it goes
			must(t, b.k, kernel.Diff(nil, readState(t, b.k, b.ns)))
			if have := readState(t, b.k, b.ns); len(have) > 0 {
				t.Errorf("left: %v", have)
			}
		})
	}
}

// A put that was cut short before its mark is done again: what it had to forget may not be forgotten yet.
func TestABalanceWithoutItsMarkIsPutAgain(t *testing.T) {
	b := newBalancing(t)
	want := b.put(t, service("10.9.0.254", "10.9.0.2"))
	nft(t, b.ns, func(c *nftables.Conn) error {
		chains, err := c.ListChains()
		for _, ch := range chains {
			if len(ch.Name) > 7 && ch.Name[:7] == "digest-" {
				c.DelChain(ch)
			}
		}
		return errors.Join(err, c.Flush())
	})
	if ops := kernel.Missing(want, readState(t, b.k, b.ns)); len(ops) != 1 {
		t.Errorf("steps %v, want one put", ops)
	}
}

func readState(t *testing.T, k *kernel.Kernel, ns string) kernel.State {
	t.Helper()
	s, err := k.Read(context.Background(), []string{ns})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func crowd(n int) kernel.VIP {
	s := kernel.VIP{Addr: netip.MustParseAddr("10.9.0.254")}
	for i := range n {
		s.Members = append(s.Members, netip.AddrFrom4([4]byte{10, 10, byte(i >> 8), byte(i)}))
	}
	return s
}

// Whoever sends while the table is replaced is answered by a member right after, also one whose first packet met the old table on its way.
func TestDatagramsThatMeetAChangeMoveOn(t *testing.T) {
	b := newBalancing(t, "10.9.0.2", "10.9.0.3")
	const vip, rounds = "10.9.0.254", 25
	members := []string{"10.9.0.2", "10.9.0.3"}
	b.put(t, service(vip, members[0]))
	for i := range rounds {
		// Given connections that have begun before, and others that begin all the time
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var mu sync.Mutex // guards conns
		var conns []net.Conn
		for range 4 {
			wg.Go(func() {
				var mine []net.Conn
				netnstest.In(t, b.ns, func() error {
					for len(mine) < 100 {
						select {
						case <-stop:
							return nil
						default:
						}
						c, err := net.Dial("udp", vip+":80")
						if err != nil {
							return err
						}
						mine = append(mine, c)
						for _, c := range mine[max(0, len(mine)-3):] {
							_, _ = c.Write([]byte("x"))
						}
					}
					return nil
				})
				mu.Lock()
				defer mu.Unlock()
				conns = append(conns, mine...)
			})
		}
		time.Sleep(2 * time.Millisecond)
		// When the only member goes and another comes
		member := members[(i+1)%2]
		b.put(t, service(vip, member))
		close(stop)
		wg.Wait()
		// Then all are with the new one
		wrong := 0
		for _, c := range conns {
			if who, err := last(c); err != nil || who != member {
				wrong++
				if wrong == 1 {
					t.Errorf("round %d: a connection of %d is with %q: %v", i, len(conns), who, err)
				}
			}
			_ = c.Close()
		}
		if wrong > 0 {
			t.Errorf("round %d: %d of %d connections are with who is no member", i, wrong, len(conns))
		}
	}
}

// last asks who is at the other end, and takes no answer to an earlier question for it.
func last(c net.Conn) (string, error) {
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return "", err
	}
	err = raw.Read(func(fd uintptr) bool {
		for b := make([]byte, 64); err == nil; {
			_, _, err = syscall.Recvfrom(int(fd), b, syscall.MSG_DONTWAIT)
		}
		return true
	})
	if err != nil {
		return "", err
	}
	return ask(c)
}
