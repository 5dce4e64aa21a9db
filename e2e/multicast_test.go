package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"weft/e2e/lab"
)

const groupPort = 5353

var group = net.IPv4(239, 7, 7, 7)

// ears listens to a group, and to broadcasts, in a sandbox, and counts what comes by its text.
func (b *box) ears() func() map[string]int {
	b.h.c.t.Helper()
	var c net.PacketConn
	err := b.do(func() (err error) {
		if c, err = net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", groupPort)); err != nil {
			return err
		}
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return ipv4.NewPacketConn(c).JoinGroup(eth0, &net.UDPAddr{IP: group})
	})
	if err != nil {
		b.h.c.t.Fatal(err)
	}
	heard := make(chan string, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			heard <- string(buf[:n])
		}
	}()
	b.h.c.t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	return func() map[string]int {
		out := map[string]int{}
		for {
			select {
			case s := <-heard:
				out[s]++
			case <-time.After(unanswered):
				return out
			}
		}
	}
}

// shouts sends a datagram to a group or to all.
func (b *box) shouts(to, text string) {
	b.h.c.t.Helper()
	err := b.do(func() error {
		d := net.Dialer{Control: broadcasting}
		c, err := d.DialContext(context.Background(), "udp4", fmt.Sprintf("%s:%d", to, groupPort))
		if err != nil {
			return err
		}
		_, err = c.Write([]byte(text))
		return errors.Join(err, c.Close())
	})
	if err != nil {
		b.h.c.t.Fatal(err)
	}
}

func TestMulticastReachesAllMembersOnce(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "-o", "weft.multicast=true", "loud")
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.2.0.0/24", "-o", "weft.multicast=true", "other")
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.3.0.0/24", "quiet")
	a, a2, b, d, d2 := h1.box("a", "loud"), h1.box("a2", "loud"), h2.box("b", "loud"), h3.box("d", "loud"), h3.box("d2", "loud")
	members := map[*box]func() map[string]int{a2: a2.ears(), b: b.ears(), d: d.ears(), d2: d2.ears()}
	others := []func() map[string]int{h2.box("o", "other").ears(), h3.box("q3", "quiet").ears()}
	q1 := h1.box("q1", "quiet")
	for _, to := range []*box{a2, b, d, d2} {
		eventually(t, settle, func() error { return a.pings(to.addr("loud"), 8, soon) })
	}

	words := map[string]string{"multicast": group.String(), "broadcast": "10.1.0.255", "to all": "255.255.255.255"}
	for text, to := range words {
		a.shouts(to, text)
	}
	q1.shouts(group.String(), "quiet")
	for m, ears := range members {
		got := ears()
		for text := range words {
			if got[text] != 1 {
				t.Errorf("%s heard %q %d times, want once", m.name, text, got[text])
			}
		}
		if len(got) != len(words) {
			t.Errorf("%s heard %v", m.name, got)
		}
	}
	for i, ears := range others {
		if got := ears(); len(got) > 0 {
			t.Errorf("sandbox %d of another network heard %v", i, got)
		}
	}
	b.shouts(group.String(), "from b") // what others hear of b has come through the tunnel, and goes into none again
	for _, m := range []*box{a2, d, d2} {
		if got := members[m](); got["from b"] != 1 || len(got) != 1 {
			t.Errorf("%s heard %v of b", m.name, got)
		}
	}

	vteps := func(want ...*host) error {
		var addrs []string
		for _, h := range want {
			addrs = append(addrs, h.Addr.String())
		}
		got, err := h1.floods("loud")
		slices.Sort(addrs)
		if err != nil || !slices.Equal(got, addrs) {
			return fmt.Errorf("host1 sends what is for all to %v, %w; want %v", got, err, addrs)
		}
		return nil
	}
	eventually(t, settle, func() error { return vteps(h2, h3) })
	h3.weft("rm", "-f", "d")
	eventually(t, settle, func() error { return a.finds("d") })
	if err := vteps(h2, h3); err != nil {
		t.Errorf("with one sandbox left on host3: %v", err)
	}
	a.shouts(group.String(), "still")
	if got := members[d2](); got["still"] != 1 {
		t.Errorf("d2 heard %v", got)
	}
	h3.weft("stop", "-t", "0", "d2")
	eventually(t, settle, func() error { return vteps(h2) })
	h3.weft("start", "d2")
	eventually(t, settle, func() error { return vteps(h2, h3) })
	h1.kill()
	h1.up()
	h1.awaitJoined()
	if err := vteps(h2, h3); err != nil {
		t.Errorf("after the agent's restart: %v", err)
	}
}

func TestMulticastIsForOverlayNetworks(t *testing.T) {
	t.Parallel()
	c := up(t)
	c.hosts[0].refuses(1, "a bridge delivers multicast and broadcast to all its sandboxes anyway", "network", "create", "-o", "weft.multicast=true", "b")
	c.hosts[0].refuses(1, "it must be true or false", "network", "create", "-d", "overlay", "-o", "weft.multicast=maybe", "b")
}

// floods lists the VTEPs that this host sends a network's multicast to.
func (h *host) floods(network string) ([]string, error) {
	id := h.weft("network", "inspect", "-f", "{{.Id}}", network)
	var out []string
	spaces, err := os.ReadDir(h.RunDir() + "/netns")
	if err != nil {
		return nil, err
	}
	for _, s := range spaces {
		if !strings.HasSuffix(s.Name(), id[:12]) {
			continue
		}
		err = lab.Within(h.RunDir()+"/netns/"+s.Name(), func() error {
			l, err := netlink.LinkByName("vx0")
			if err != nil {
				return err
			}
			ns, err := netlink.NeighList(l.Attrs().Index, unix.AF_BRIDGE)
			for _, n := range ns {
				if n.HardwareAddr.String() == "00:00:00:00:00:00" {
					a, _ := netip.AddrFromSlice(n.IP)
					out = append(out, a.Unmap().String())
				}
			}
			return err
		})
	}
	slices.Sort(out)
	return out, err
}
