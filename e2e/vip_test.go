package e2e

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"weft/e2e/lab"
)

// answer makes the sandbox say its name, to each datagram and at the begin of each stream, which then stays open.
func (b *box) answer() *box {
	c := b.h.c
	c.t.Helper()
	var l net.Listener
	var p net.PacketConn
	err := b.do(func() (err error) {
		if l, err = net.Listen("tcp", ":"+echoPort); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp", ":"+echoPort)
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
			wg.Go(func() {
				defer conn.Close()
				buf := make([]byte, 1)
				for {
					if _, err := conn.Write([]byte(b.name)); err != nil {
						return
					}
					if _, err := conn.Read(buf); err != nil {
						return
					}
				}
			})
		}
	})
	wg.Go(func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(b.name), from)
		}
	})
	c.t.Cleanup(func() { _, _ = l.Close(), p.Close() }) // the streams end with their clients
	return b
}

// talk is a connection to one that answers.
type talk struct{ net.Conn }

func (b *box) talk(network, addr string) (talk, error) {
	c, err := b.dial(network, net.JoinHostPort(addr, echoPort), soon)
	if err != nil {
		return talk{}, err
	}
	if strings.HasPrefix(network, "tcp") { // who is there says so by itself
		if _, err := (talk{c}).hear(); err != nil {
			return talk{}, errors.Join(err, c.Close())
		}
	}
	return talk{c}, nil
}

func (t talk) hear() (string, error) {
	if err := t.SetDeadline(time.Now().Add(soon)); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := t.Read(buf)
	return string(buf[:n]), err
}

// who asks the other end for its name.
func (t talk) who() (string, error) {
	if err := t.SetDeadline(time.Now().Add(soon)); err != nil {
		return "", err
	}
	if _, err := t.Write([]byte("?")); err != nil {
		return "", err
	}
	return t.hear()
}

// whom opens connections to an address and counts who is there.
func (b *box) whom(network, addr string, times int) (map[string]int, error) {
	got := map[string]int{}
	for range times {
		c, err := b.talk(network, addr)
		if err != nil {
			return got, err
		}
		who, err := c.who()
		_ = c.Close()
		if err != nil {
			return got, err
		}
		got[who]++
	}
	return got, nil
}

// balances is nil where connections to an address lead to just these, and to each of them.
func (b *box) balances(network, addr string, to ...string) error {
	got, err := b.whom(network, addr, 16*len(to)) // of three, one is missed by 48 in three of a thousand million times
	if err != nil {
		return fmt.Errorf("%s: %s to %s after %v: %w", b.name, network, addr, got, err)
	}
	for _, name := range to {
		if got[name] == 0 {
			return fmt.Errorf("%s: %s to %s led to %v, and %s is missing", b.name, network, addr, got, name)
		}
	}
	if len(got) != len(to) {
		return fmt.Errorf("%s: %s to %s led to %v, want %v alone", b.name, network, addr, got, to)
	}
	return nil
}

func (b *box) kill() {
	b.h.c.t.Helper()
	b.h.weft("kill", b.name)
}

// balanceTables are weft's tables in a sandbox, with the numbers of all that is in them.
func (b *box) balanceTables() string {
	b.h.c.t.Helper()
	var out []byte
	err := b.do(func() (err error) {
		out, err = exec.Command("nft", "-a", "list", "ruleset").CombinedOutput()
		return err
	})
	if err != nil {
		b.h.c.t.Fatalf("nft: %v: %s", err, out)
	}
	return string(out)
}

// refuses is nil where connections to an address are refused, and that at once.
func (b *box) refusedAt(addr string) error {
	start := time.Now()
	c, err := b.dial("tcp", net.JoinHostPort(addr, echoPort), soon)
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s is not refused: %v", addr, err)
	}
	if took := time.Since(start); took > time.Second {
		return fmt.Errorf("the refusal took %s", took)
	}
	return nil
}

func TestAnAliasWithAVirtualAddress(t *testing.T) {
	t.Parallel()
	c, _ := upWithStore(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	const virtual = "api,mode=vip"

	// Given a client that was there first, and members on all hosts
	client := h1.box("client", "web")
	m1 := h1.box("m1", "web", "--network-alias", virtual).answer()
	m2 := h2.box("m2", "web", "--network-alias", virtual).answer()
	m3 := h3.box("m3", "web", "--network-alias", virtual).answer()

	// Then all find one address, which is nobody's, and connections to it lead to each of them: from the client, and from the members
	const vip = "10.1.0.254"
	for _, b := range []*box{client, m1, m2, m3} {
		eventually(t, settle, func() error { return b.finds("API", vip) })
		for _, network := range []string{"tcp", "udp"} {
			eventually(t, settle, func() error { return b.balances(network, vip, "m1", "m2", "m3") })
		}
		if err := b.pings(vip, 8, soon); err != nil {
			t.Error(err)
		}
	}
	h2.refuses(125, "alias API has a virtual address in network web", "run", "-d", "--network", "web", "--network-alias", "API", "--", "true")
	h2.refuses(125, "Address already in use: 10.1.0.254 belongs to the alias api", "run", "-d", "--network", "web", "--ip", vip, "--", "true")

	// When an agent ends without a word and the next one comes, nothing is touched that is right
	client.balancesThroughARestart(vip, "m1", "m2", "m3")
	// When another member comes, connections that exist stay where they are; when one is killed, nothing leads to it any more
	client.staysWhileMembersChange(vip, m2, func() *box { return h2.box("m4", "web", "--network-alias", virtual).answer() })
	m4 := &box{h: h2, name: "m4"}

	// When a host is lost, its members are out as soon as it is known
	must(t, h3.PowerOff(within(t, patience)))
	eventually(t, hostLoss, func() error { return client.balances("tcp", vip, "m1", "m4") })
	eventually(t, settle, func() error { return client.balances("udp", vip, "m1", "m4") })

	// When all members that are left stop, what goes to the address is refused at once; it stays the alias' while one of them may come back
	h1.weft("stop", "-t", "0", "m1")
	h2.weft("stop", "-t", "0", "m4")
	eventually(t, settle, func() error { return client.refusedAt(vip) })
	must(t, client.finds("api", vip))
	h2.weft("start", "m4")
	m4.netns = m4.view().NetworkSettings.SandboxKey
	m4.answer()
	eventually(t, settle, func() error { return client.balances("tcp", vip, "m4") })

	h1.weft("store", "check")
}

// balancesThroughARestart kills the agent of the client's host, and looks that the next one touches nothing of what balances.
func (b *box) balancesThroughARestart(vip string, to ...string) {
	t := b.h.c.t
	t.Helper()
	before := b.balanceTables()
	b.h.kill()
	if err := b.balances("tcp", vip, to...); err != nil {
		t.Errorf("without an agent: %v", err)
	}
	b.h.up()
	b.h.awaitJoined()
	if after := b.balanceTables(); after != before || !strings.Contains(before, vip) {
		t.Errorf("the tables were %s\nand are %s", before, after)
	}
}

// streams opens connections until there is one to each of n members.
func (b *box) streams(vip string, n int) map[string]talk {
	t := b.h.c.t
	t.Helper()
	out := map[string]talk{}
	for len(out) < n {
		s, err := b.talk("tcp", vip)
		must(t, err)
		t.Cleanup(func() { _ = s.Close() })
		who, err := s.who()
		must(t, err)
		out[who] = s
	}
	return out
}

// datagrams opens connections until there is one to that member.
func (b *box) datagrams(vip, to string) talk {
	t := b.h.c.t
	t.Helper()
	for {
		s, err := b.talk("udp", vip)
		must(t, err)
		t.Cleanup(func() { _ = s.Close() })
		who, err := s.who()
		must(t, err)
		if who == to {
			return s
		}
	}
}

// staysWhileMembersChange has a fourth member, m4, come to m1, m2 and m3, and then kills m2.
func (b *box) staysWhileMembersChange(vip string, m2 *box, fourth func() *box) {
	t := b.h.c.t
	t.Helper()
	streams, toM2 := b.streams(vip, 3), b.datagrams(vip, m2.name)
	stay := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if who, err := streams[name].who(); err != nil || who != name {
				t.Errorf("the connection to %s is with %s now: %v", name, who, err)
			}
		}
	}
	fourth()
	eventually(t, settle, func() error { return b.balances("tcp", vip, "m1", "m2", "m3", "m4") })
	stay("m1", "m2", "m3")

	m2.kill()
	eventually(t, settle, func() error { return b.balances("tcp", vip, "m1", "m3", "m4") })
	eventually(t, settle, func() error { return b.balances("udp", vip, "m1", "m3", "m4") })
	if who, err := toM2.who(); err != nil || !slices.Contains([]string{"m1", "m3", "m4"}, who) {
		t.Errorf("datagrams of a connection to one that is dead are answered by %q: %v", who, err)
	}
	stay("m1", "m3")
}

// hostLoss is until a host that has lost its power is known as lost: its session with the store ends, with Consul after up to twice its time.
const hostLoss = 2 * patience

func TestVirtualAddressesGoWithTheirLastMember(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, lab.Embedded{})
	c.start()
	h := c.hosts[0]
	for _, driver := range []string{"overlay", "bridge"} {
		// Given a network in which every alias has a virtual address
		h.weft("network", "create", "-d", driver, "-o", "weft.alias_mode=vip", "--subnet", "10.7.0.0/24", "n")
		a := h.box(driver+"a", "n", "--network-alias", "x", "--network-alias", "y").answer()
		client := h.box(driver+"c", "n")
		h.box(driver+"b", "n", "--network-alias", "x").answer()

		// Then each has one, and the names of sandboxes are as ever
		must(t, client.balances("tcp", "10.7.0.254", driver+"a", driver+"b"))
		must(t, client.balances("udp", "10.7.0.253", driver+"a"))
		must(t, a.balances("tcp", "10.7.0.254", driver+"a", driver+"b"))
		must(t, client.finds("x", "10.7.0.254"))
		// And a second network, whose default route is the stronger one, changes nothing of it
		h.weft("network", "create", "-d", driver, "side")
		h.weft("network", "connect", "--gw-priority", "5", "side", driver+"c")
		must(t, client.balances("tcp", "10.7.0.254", driver+"a", driver+"b"))
		must(t, client.balances("udp", "10.7.0.254", driver+"a", driver+"b"))
		must(t, client.finds("y.n", "10.7.0.253"))
		must(t, client.finds(driver+"a", a.addr("n")))

		// When all members go, nothing is left of it: not in the store, not in the client, and the address is free
		h.weft("rm", "-f", driver+"a")
		eventually(t, settle, func() error { return client.finds("y") })
		must(t, client.balances("tcp", "10.7.0.254", driver+"b"))
		h.weft("rm", "-f", driver+"b")
		eventually(t, settle, func() error { return client.finds("x") })
		eventually(t, settle, func() error {
			if rules := client.balanceTables(); strings.Contains(rules, "weft") {
				return fmt.Errorf("left: %s", rules)
			}
			return nil
		})
		h.weft("run", "-d", "--name", "d", "--network", "n", "--ip", "10.7.0.254", "--", "sleep", forever)
		h.weft("store", "check")
		h.weft("rm", "-f", "d", driver+"c")
		h.weft("network", "rm", "n", "side")
	}
	h.refuses(1, "invalid option weft.alias_mode=swarm", "network", "create", "-o", "weft.alias_mode=swarm", "z")
}

// In a network of both families an alias has an address of each.
func TestVirtualAddressesOfBothFamilies(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.8.0.0/24", "--subnet", "fd08::/64", "-o", "weft.alias_mode=vip", "both")
	client := h1.box("client", "both")
	m1 := h1.box("m1", "both", "--network-alias", "x").answer()
	h2.box("m2", "both", "--network-alias", "x").answer()
	h3.box("m3", "both", "--network-alias", "x").answer()
	const vip4, vip6 = "10.8.0.254", "fd08::ffff:ffff:ffff:ffff"
	for _, b := range []*box{client, m1} {
		eventually(t, settle, func() error { return b.finds("x", vip4) })
		eventually(t, settle, func() error { return b.balances("tcp6", vip6, "m1", "m2", "m3") })
		for network, vip := range map[string]string{"tcp4": vip4, "udp4": vip4, "udp6": vip6} {
			if err := b.balances(network, vip, "m1", "m2", "m3"); err != nil {
				t.Error(err)
			}
		}
	}
	m, err := client.asks("udp", "x", dns.TypeAAAA)
	if err != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.AAAA).AAAA.String() != vip6 {
		t.Errorf("AAAA of the alias: %v, %v", m, err)
	}
	h1.weft("store", "check")
}
