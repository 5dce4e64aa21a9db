package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/e2e/lab"
)

// outside6 is an IPv6 address that the hosts reach by their default route only (RFC 3849).
const outside6 = "2001:db8:ffff::1"

// host6 is a host's IPv6 address on the underlay; 0 is outside.
func host6(number int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: byte(16 + number)})
}

// underlay6 gives the lab's underlay IPv6 too.
func underlay6(c *cluster) {
	c.t.Helper()
	give := func(n *lab.Node, a netip.Addr, more ...string) {
		c.t.Helper()
		err := n.Do(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
			for _, m := range more {
				addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(m), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}
				if err := netlink.AddrAdd(lo, addr); err != nil {
					return err
				}
			}
			if len(more) > 0 {
				return nil
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}, Gw: host6(0).AsSlice()})
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	give(c.lab.Outside(), host6(0), outside6)
	for i, h := range c.hosts {
		give(h.Node, host6(i+1))
	}
}

// echo6 answers on TCP and UDP in IPv6 as echo does in IPv4; to each TCP connection it says on one line who asks, and no more.
func echo6(c *cluster, ns string) {
	c.t.Helper()
	var l net.Listener
	var p net.PacketConn
	err := lab.Within(ns, func() (err error) {
		if l, err = net.Listen("tcp6", ":"+echoPort); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp6", ":"+echoPort)
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
			_, _ = fmt.Fprintln(conn, host)
			_ = conn.Close()
		}
	})
	wg.Go(func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(buf[:n], from)
		}
	})
	c.t.Cleanup(func() {
		_ = errors.Join(l.Close(), p.Close())
		wg.Wait()
	})
}

func (b *box) echo6() *box {
	b.h.c.t.Helper()
	echo6(b.h.c, b.netns)
	return b
}

// greeting6 connects by TCP, and returns who the other side says this is.
func (b *box) greeting6(addr string, patience time.Duration) (string, error) {
	c, err := b.dial("tcp6", net.JoinHostPort(addr, echoPort), patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// reaches6 is what two sandboxes that share a network do in IPv6: TCP, and datagrams of which one fills a packet.
func (b *box) reaches6(addr string) error {
	if _, err := b.greeting6(addr, soon); err != nil {
		return err
	}
	for _, size := range []int{8, 1400 - 48} {
		c, err := b.dial("udp6", net.JoinHostPort(addr, echoPort), soon)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(soon))
		_, err = c.Write(make([]byte, size))
		if err == nil {
			_, err = c.Read(make([]byte, 2000))
		}
		if err = errors.Join(err, c.Close()); err != nil {
			return fmt.Errorf("%d bytes to %s: %w", size, addr, err)
		}
	}
	return nil
}

// addr6 is the sandbox's IPv6 address in a network.
func (b *box) addr6(network string) string {
	b.h.c.t.Helper()
	a := b.view6().NetworkSettings.Networks[network].GlobalIPv6Address
	if _, err := netip.ParseAddr(a); err != nil {
		b.h.c.t.Fatalf("%s has no IPv6 address in %s: %v", b.name, network, err)
	}
	return a
}

// view6 is what of `weft inspect` tests of IPv6 read.
type view6 struct {
	NetworkSettings struct {
		Networks map[string]struct {
			IPAddress, Gateway, IPv6Gateway, GlobalIPv6Address, MacAddress string
			IPPrefixLen, GlobalIPv6PrefixLen                               int
		}
	}
}

func (b *box) view6() view6 {
	b.h.c.t.Helper()
	return inspect[view6](b.h, "inspect", b.name)
}

// finds6 is nil where a name has this IPv6 address and no other.
func (b *box) finds6(name, want string) error {
	c, err := b.dial("udp4", "127.0.0.11:53", soon)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return err
	}
	conn := &dns.Conn{Conn: c}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeAAAA)); err != nil {
		return err
	}
	m, err := conn.ReadMsg()
	if err != nil {
		return err
	}
	if len(m.Answer) == 1 {
		if a, ok := m.Answer[0].(*dns.AAAA); ok && a.AAAA.String() == want {
			return nil
		}
	}
	return fmt.Errorf("%s looks %s up and finds %v, want %s", b.name, name, m.Answer, want)
}

// broadcasting lets a socket send to all.
func broadcasting(_, _ string, raw syscall.RawConn) error {
	var err error
	return errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }), err)
}
