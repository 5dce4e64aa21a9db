package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ways are the sandbox's default routes, of both families: "VIA dev LINK".
func (b *box) ways() ([]string, error) {
	var out []string
	err := b.do(func() error {
		for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
			rs, err := netlink.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range rs {
				if r.Dst == nil || r.Dst.IP.IsUnspecified() {
					l, err := netlink.LinkByIndex(r.LinkIndex)
					if err != nil {
						return err
					}
					out = append(out, fmt.Sprintf("%s dev %s", r.Gw, l.Attrs().Name))
				}
			}
		}
		return nil
	})
	return out, err
}

func (b *box) leavesBy(want ...string) error {
	got, err := b.ways()
	if err != nil || !slices.Equal(got, want) {
		return fmt.Errorf("%s leaves by %q, %w; want %q", b.name, got, err, want)
	}
	return nil
}

// greetingFrom connects from one of the sandbox's addresses.
func (b *box) greetingFrom(own, addr string) (string, error) {
	var c net.Conn
	err := b.do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(own)}, Timeout: soon}
		c, err = d.Dial("tcp", net.JoinHostPort(addr, echoPort))
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return "", err
	}
	if net.ParseIP(addr).To4() != nil {
		return readGreeting(c, soon)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func TestASandboxOfSeveralNetworks(t *testing.T) {
	t.Parallel()
	c := up(t)
	underlay6(c)
	outside := c.lab.OutsideAddr().String()
	echo(c, c.lab.Outside().Path, outside)
	echo6(c, c.lab.Outside().Path)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "front")
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.2.0.0/24", "--subnet", "fd00:2::/64", "back")
	h1.weft("network", "create", "-d", "overlay", "--internal", "--subnet", "10.3.0.0/24", "inside")
	a := h1.box("a", "front", "--network", "back", "--network", "inside")
	b := h2.box("b", "back").echo().echo6()
	in := h2.box("in", "inside").echo()

	if err := a.leavesBy("10.1.0.1 dev eth0", "fd00:2::1 dev eth1"); err != nil {
		t.Error(err)
	}
	eventually(t, settle, func() error { return a.reaches(b.addr("back")) })
	eventually(t, settle, func() error { return a.reaches6(b.addr6("back")) })
	eventually(t, settle, func() error { return a.reaches(in.addr("inside")) })

	own := [][2]string{{a.addr("front"), outside}, {a.addr("back"), outside}, {a.addr6("back"), outside6}}
	everyAddress := func() error {
		var errs []error
		for _, p := range own {
			if _, err := a.greetingFrom(p[0], p[1]); err != nil {
				errs = append(errs, fmt.Errorf("from %s: %w", p[0], err))
			}
		}
		return errors.Join(errs...)
	}
	must(t, a.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0o644) })) // the strictest
	eventually(t, settle, everyAddress)                                                                              // each by its own network: elsewhere it would be taken for forged
	h1.kill()
	if err := everyAddress(); err != nil {
		t.Errorf("without an agent: %v", err)
	}
	h1.up()
	h1.awaitJoined()
	if err := errors.Join(everyAddress(), a.leavesBy("10.1.0.1 dev eth0", "fd00:2::1 dev eth1")); err != nil {
		t.Errorf("after the agent's restart: %v", err)
	}

	h1.weft("network", "disconnect", "front", "a")
	if err := a.leavesBy("10.2.0.1 dev eth1", "fd00:2::1 dev eth1"); err != nil {
		t.Error(err)
	}
	eventually(t, settle, func() error { _, err := a.greeting(outside, soon); return err })
	h1.weft("network", "connect", "--gw-priority", "10", "front", "a")
	own[0][0] = a.addr("front")
	if err := a.leavesBy("10.1.0.1 dev eth0", "fd00:2::1 dev eth1"); err != nil {
		t.Error(err)
	}
	eventually(t, settle, everyAddress)
	h1.weft("network", "disconnect", "back", "a")
	h1.weft("network", "disconnect", "inside", "a")
	if err := a.leavesBy("10.1.0.1 dev eth0"); err != nil {
		t.Error(err)
	}
	rules := 0
	must(t, a.do(func() error {
		for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
			rs, err := netlink.RuleList(f)
			if err != nil {
				return err
			}
			rules += len(rs)
		}
		return nil
	}))
	if rules != 5 { // local, main and default; local and main in IPv6
		t.Errorf("with one network there are %d rules, want the kernel's own five", rules)
	}
}

func TestInterfacesAsAskedFor(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.1.0.0/24", "--subnet", "fd00:1::/64", "web")
	const mac = "02:ab:cd:00:00:01"
	a := h1.box("a", "web", "--mac-address", mac, "--ip", "10.1.0.50", "--ip6", "fd00:1::50").echo().echo6()
	b := h2.box("b", "web").echo().echo6()
	asAsked := func() error {
		v := a.view6().NetworkSettings.Networks["web"]
		if v.MacAddress != mac || v.IPAddress != "10.1.0.50" || v.GlobalIPv6Address != "fd00:1::50" {
			return fmt.Errorf("a is %+v", v)
		}
		return errors.Join(b.reaches("10.1.0.50"), b.reaches6("fd00:1::50"))
	}
	eventually(t, settle, asAsked)
	h2.refuses(125, "hardware address "+mac+" belongs to a on host host1", "run", "-d", "--network", "web", "--mac-address", mac, "--", "sleep", "1")
	h2.refuses(125, "x is not a valid mac address", "run", "-d", "--network", "web", "--mac-address", "x", "--", "sleep", "1")
	h2.refuses(125, "goes with the address 10.1.0.77", "run", "-d", "--network", "web", "--mac-address", "02:42:0a:01:00:4d", "--", "sleep", "1")

	h1.weft("stop", "-t", "0", "a")
	h2.refuses(125, "hardware address "+mac+" belongs to a", "run", "-d", "--network", "web", "--mac-address", mac, "--", "sleep", "1")
	again := func() {
		h1.weft("start", "a")
		a.netns = a.view().NetworkSettings.SandboxKey
		a.echo().echo6()
		eventually(t, settle, asAsked)
	}
	again()
	h1.kill()
	h1.up()
	h1.awaitJoined()
	eventually(t, settle, asAsked)
	must(t, h2.Stop(within(t, patience))) // the others go on meanwhile
	h2.up()
	h2.awaitJoined()

	h1.weft("network", "create", "-d", "overlay", "lan")
	h1.weft("network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname=lan7", "--driver-opt", "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1", "lan", "a")
	setting := func() (string, error) {
		var text []byte
		err := a.do(func() (err error) {
			text, err = os.ReadFile("/proc/sys/net/ipv4/conf/lan7/log_martians")
			return err
		})
		return strings.TrimSpace(string(text)), err
	}
	if got, err := setting(); got != "1" {
		t.Errorf("log_martians of lan7 is %q, %v", got, err)
	}
	h1.refuses(1, "driver option bogus is unknown", "network", "connect", "--driver-opt", "bogus=1", "lan", "a")
	h1.kill()
	h1.up()
	h1.awaitJoined()
	if got, err := setting(); got != "1" {
		t.Errorf("after the agent's restart log_martians of lan7 is %q, %v", got, err)
	}
}

// What was asked for is a sandbox's own over the loss of its host's power.
func TestStaticAddressesSurviveAReboot(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.1.0.0/24", "--subnet", "fd00:1::/64", "web")
	const mac = "02:ab:cd:00:00:02"
	a := h2.box("a", "web", "--mac-address", mac, "--ip", "10.1.0.50", "--ip6", "fd00:1::50")
	must(t, h2.PowerOff(within(t, patience)))
	for _, claim := range [][]string{{"--ip", "10.1.0.50"}, {"--ip6", "fd00:1::50"}, {"--mac-address", mac}} {
		args := append(append([]string{"run", "-d", "--network", "web"}, claim...), "--", "sleep", "1")
		h1.refuses(125, "Address already in use", args...)
	}
	h2.up()
	h2.awaitJoined()
	h2.weft("start", "a")
	v := a.view6().NetworkSettings.Networks["web"]
	if v.MacAddress != mac || v.IPAddress != "10.1.0.50" || v.GlobalIPv6Address != "fd00:1::50" {
		t.Errorf("after the reboot a is %+v", v)
	}
}
