package kernel_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/overlay"
	"weft/port"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch listens to what changes in a namespace, and returns a function that names the changes since, but for those of link "mark".
func watch(t *testing.T, ns string) func() []string {
	t.Helper()
	fd := -1
	netnstest.In(t, ns, func() (err error) {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_NEIGH | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE)
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	tv := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	return func() []string {
		t.Helper()
		netnstest.In(t, ns, func() error { // a change of the test's own comes last
			l, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.LinkSetAlias(l, "mark")
		})
		var seen []string
		b := make([]byte, 64<<10)
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b[:n]), "mark") {
				return seen
			}
			seen = append(seen, fmt.Sprintf("message type %d: %q", uint16(b[4])|uint16(b[5])<<8, b[16:n]))
		}
	}
}

func TestPuttingWhatIsThereIsSilent(t *testing.T) {
	s := newSite(t)
	for i := range 5 {
		s.net.Endpoints = append(s.net.Endpoints, s.remote(i+10))
	}
	must(t, s.k, kernel.Diff(s.want(), s.read(t, s.k)))
	changes := map[string]func() []string{}
	for _, ns := range []string{s.ns, s.space(), s.net.Ports[0].Netns} {
		changes[ns] = watch(t, ns)
	}
	must(t, s.k, kernel.Missing(s.want(), nil))
	for ns, seen := range changes {
		if got := seen(); len(got) > 0 {
			t.Errorf("in %s: %s", ns, strings.Join(got, "\n"))
		}
	}
}

func TestAnotherLifeFindsAllInOrder(t *testing.T) {
	s := newSite(t)
	s.net.Endpoints = append(s.net.Endpoints, s.remote(10))
	must(t, s.k, kernel.Diff(s.want(), s.read(t, s.k)))
	if err := s.k.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, s.ns, s.set.NetnsDir)
	if ops := kernel.Diff(s.want(), s.read(t, again)); len(ops) > 0 {
		t.Errorf("would do again: %v", ops)
	}
}

// edit changes a namespace with libraries of others.
type edit struct {
	name string
	do   func(s *site) error
}

func link(name string, f func(netlink.Link) error) func(*site) error {
	return in(func(s *site) string { return s.space() }, name, f)
}

func far(f func(netlink.Link) error) func(*site) error {
	return in(func(s *site) string { return s.net.Ports[0].Netns }, "eth0", f)
}

func in(where func(*site) string, name string, f func(netlink.Link) error) func(*site) error {
	return func(s *site) error {
		return netnstest.Try(where(s), func() error {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return f(l)
		})
	}
}

func cidr(s string) *net.IPNet {
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	n.IP = ip
	return n
}

func TestDriftIsFoundAndRepaired(t *testing.T) {
	port := func() string { return "ep000000000001" }
	hw := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for _, e := range []edit{
		{"the bridge is deleted", link("br0", netlink.LinkDel)},
		{"the tunnel is deleted", link("vx0", netlink.LinkDel)},
		{"a pair is deleted", link(port(), netlink.LinkDel)},
		{"a pair is deleted from its far end", far(netlink.LinkDel)},
		{"the uplink is deleted", link("up0", netlink.LinkDel)},
		{"the bridge is down", link("br0", netlink.LinkSetDown)},
		{"the tunnel is down", link("vx0", netlink.LinkSetDown)},
		{"a far end is down", far(netlink.LinkSetDown)},
		{"a far end has another hardware address", far(func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, hw) })},
		{"a far end has another name", far(func(l netlink.Link) error { return netlink.LinkSetName(l, "other0") })},
		{"a port has lost its alias", link(port(), func(l netlink.Link) error { return netlink.LinkSetAlias(l, "") })},
		{"a far end has lost its alias", far(func(l netlink.Link) error { return netlink.LinkSetAlias(l, "") })},
		{"the bridge has another hardware address", link("br0", func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, hw) })},
		{"the bridge has another MTU", link("br0", func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1300) })},
		{"a port has left the bridge", link(port(), netlink.LinkSetNoMaster)},
		{"a port learns", link(port(), func(l netlink.Link) error { return netlink.LinkSetLearning(l, true) })},
		{"the tunnel floods", link("vx0", func(l netlink.Link) error { return netlink.LinkSetFlood(l, true) })},
		{"the bridge speaks STP", link("br0", spanning)},
		{"a port is marked to be deleted", link(port(), func(l netlink.Link) error { return netlink.LinkSetGroup(l, 0x77656674) })},
		{"a gateway is missing", link("br0", func(l netlink.Link) error { return netlink.AddrDel(l, &netlink.Addr{IPNet: cidr("10.1.0.1/16")}) })},
		{"an address too many", link("br0", func(l netlink.Link) error { return netlink.AddrAdd(l, &netlink.Addr{IPNet: cidr("10.77.0.1/16")}) })},
		{"a sandbox's address is missing", far(func(l netlink.Link) error { return netlink.AddrDel(l, &netlink.Addr{IPNet: cidr("10.1.0.3/16")}) })},
		{"a sandbox's route is missing", far(func(l netlink.Link) error {
			return netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(10, 1, 0, 1)})
		})},
		{"a route leads elsewhere", far(func(l netlink.Link) error {
			return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(10, 1, 0, 99), Protocol: kernel.Proto})
		})},
		{"a route is there twice", far(func(l netlink.Link) error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(10, 1, 0, 1), Protocol: kernel.Proto, Priority: 9})
		})},
		{"a neighbour is missing", link("br0", func(l netlink.Link) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_INET, IP: net.IPv4(10, 1, 0, 12)})
		})},
		{"a neighbour has another hardware address", link("br0", func(l netlink.Link) error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_INET, IP: net.IPv4(10, 1, 0, 12), State: unix.NUD_PERMANENT, HardwareAddr: hw})
		})},
		{"a tunnel's entry leads elsewhere", link("vx0", func(l netlink.Link) error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT | unix.NUD_NOARP,
				IP: net.IPv4(192, 0, 2, 99), HardwareAddr: net.HardwareAddr{2, 0x42, 10, 1, 0, 12}})
		})},
		{"a sysctl is changed", func(s *site) error {
			return netnstest.Try(s.space(), func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0o644) })
		}},
		{"the network's namespace is gone", func(s *site) error { return kernel.RemoveNetns(s.space()) }},
		{"the sandbox was started anew under its name, and its old namespace lives on", func(s *site) error {
			ns := s.net.Ports[0].Netns
			if err := unix.Mount(ns, keep(s), "none", unix.MS_BIND, ""); err != nil {
				return err
			}
			if err := kernel.RemoveNetns(ns); err != nil {
				return err
			}
			return kernel.MakeNetns(ns)
		}},
	} {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.net.Endpoints = append(s.net.Endpoints, s.remote(10))
			must(t, s.k, kernel.Diff(s.want(), s.read(t, s.k)))
			t.Cleanup(func() { _ = unix.Unmount(keep(s), unix.MNT_DETACH) })
			if err := e.do(s); err != nil {
				t.Fatal(err)
			}
			ops := kernel.Diff(s.want(), s.read(t, s.k))
			if len(ops) == 0 {
				t.Fatal("it was not found")
			}
			repair(t, s)
		})
	}
}

// spanning turns a bridge's STP on.
func spanning(l netlink.Link) error {
	q := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(l.Attrs().Index)
	q.AddData(m)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(1))
	q.AddData(info)
	_, err := q.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// keep is a file that a namespace can be bound to once more.
func keep(s *site) string {
	path := filepath.Join(filepath.Dir(s.set.NetnsDir), "keep")
	if f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444); err == nil {
		_ = f.Close()
	}
	return path
}

// repair brings a site in line. A VNI may be held for a moment by a namespace that is gone.
func repair(t *testing.T, s *site) {
	t.Helper()
	var errs []string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		ops := kernel.Diff(s.want(), s.read(t, s.k))
		if len(ops) == 0 {
			return
		}
		errs = nil
		for i, err := range s.k.Apply(context.Background(), ops) {
			if err != nil {
				errs = append(errs, fmt.Sprintf("%v: %v", ops[i], err))
			}
		}
	}
	t.Errorf("left: %v\n%s", kernel.Diff(s.want(), s.read(t, s.k)), strings.Join(errs, "\n"))
}

// The socket of a VXLAN device in a network's namespace is in the host's, where its packets come and go.
func TestTheTunnelsSocketIsTheHosts(t *testing.T) {
	s := newSite(t)
	for ns, want := range map[string]bool{s.ns: true, s.space(): false} {
		netnstest.In(t, ns, func() error {
			b, err := os.ReadFile("/proc/thread-self/net/udp")
			if got := strings.Contains(string(b), fmt.Sprintf(":%04X ", s.set.VXLANPort)); got != want {
				t.Errorf("in %s: %t, want %t", ns, got, want)
			}
			return err
		})
	}
}

// A bridge without a hardware address of its own takes the lowest of its ports', and flushes even permanent neighbours when that changes.
func TestPortsDoNotDisturbTheBridge(t *testing.T) {
	s := newSite(t)
	s.net.Endpoints = append(s.net.Endpoints, s.remote(10), s.remote(11))
	must(t, s.k, kernel.Diff(s.want(), s.read(t, s.k)))
	before := s.read(t, s.k)
	for i := range 20 {
		p := s.port(t, 100+i)
		s.net.Ports = append(s.net.Ports, p)
		must(t, s.k, s.attach(p))
	}
	after := s.read(t, s.k)
	for k, o := range before {
		if a, ok := after[k]; !ok || !a.Spec.Equal(o.Spec) && k.Kind != kernel.KindTable {
			t.Errorf("%v was %v and is %v", k, o.Spec, a.Spec)
		}
	}
	if ops := kernel.Diff(s.want(), after); len(ops) > 0 {
		t.Errorf("left: %v", ops)
	}
}

// A sandbox's namespace ends with its sandbox, and its port goes with it: no socket keeps it.
func TestASandboxesNamespaceIsNotKept(t *testing.T) {
	s := newSite(t)
	s.read(t, s.k)
	if err := kernel.RemoveNetns(s.net.Ports[0].Netns); err != nil {
		t.Fatal(err)
	}
	key := kernel.Key{Kind: kernel.KindVeth, NS: s.space(), Link: "ep000000000001"}
	for end := time.Now().Add(10 * time.Second); ; {
		if _, ok := s.read(t, s.k)[key]; !ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("its port is still there")
		}
	}
}

// A file that no namespace is bound to, as a reboot leaves it, has nothing in it; weft's own is made anew.
func TestAFileWithoutANamespace(t *testing.T) {
	s := newSite(t)
	own, sandbox := filepath.Join(s.set.NetnsDir, "weft-left"), filepath.Join(t.TempDir(), "netns")
	for _, path := range []string{own, sandbox} {
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	have, err := s.k.Read(t.Context(), []string{own, sandbox})
	if err != nil || len(have) != 1 {
		t.Fatalf("read %v, %v", have, err)
	}
	key := kernel.Key{Kind: kernel.KindNetns, NS: own}
	must(t, s.k, []kernel.Op{{Verb: kernel.Del, Obj: object(kernel.KindAddr, sandbox, "eth0", "10.0.0.1/24", kernel.Addr{})}})
	want := kernel.State{key: kernel.Object{Key: key, Spec: kernel.Netns{}}}
	must(t, s.k, kernel.Diff(want, have))
	if have, err = s.k.Read(t.Context(), []string{own}); err != nil || len(kernel.Missing(want, have)) > 0 {
		t.Errorf("read %v, %v", have, err)
	}
}

// Many goroutines put and delete ports of the same network and read it meanwhile.
func TestGoroutinesShareAKernel(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const workers = 6
	fails := make(chan error, workers)
	for w := range workers {
		ports := []port.Port{s.port(t, 100+10*w), s.port(t, 101+10*w)}
		go func() {
			fails <- func() error {
				for range 3 {
					for _, p := range ports {
						ops := s.attach(p)
						for i, err := range s.k.Apply(ctx, ops) {
							if err != nil {
								return fmt.Errorf("%v: %w", ops[i], err)
							}
						}
						if have, err := s.k.Read(ctx, []string{s.space(), p.Netns}); err != nil || len(kernel.Missing(kernel.State{ops[0].Obj.Key: ops[0].Obj}, have)) > 0 {
							return fmt.Errorf("%v is not there: %w", ops[0].Obj, err)
						}
						del := kernel.Diff(nil, overlay.RenderPort(s.set, s.net, p))
						for i, err := range s.k.Apply(ctx, del) {
							if err != nil {
								return fmt.Errorf("%v: %w", del[i], err)
							}
						}
					}
				}
				return nil
			}()
		}()
	}
	for range workers {
		if err := <-fails; err != nil {
			t.Error(err)
		}
	}
	if ops := kernel.Diff(s.want(), s.read(t, s.k)); len(ops) > 0 {
		t.Errorf("left: %v", ops)
	}
}
