package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/bridge"
	"weft/ipam"
	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/overlay"
	"weft/port"
	"weft/store/record"
)

// watching watches until the test ends, and has begun when it returns.
func watching(t *testing.T, k *kernel.Kernel, ns string) <-chan []kernel.Change {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan []kernel.Change), make(chan error, 1)
	go func() { done <- k.Watch(ctx, changes) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	run(t, ns, "ip", "link", "add", "sign0", "type", "bridge") // until it is heard, Watch may not have begun
	for began := false; !began; {
		run(t, ns, "ip", "link", "set", "sign0", "up")
		run(t, ns, "ip", "link", "set", "sign0", "down")
		select {
		case cs := <-changes:
			began = slices.ContainsFunc(cs, func(c kernel.Change) bool { return c.Link == "sign0" })
		case <-time.After(50 * time.Millisecond):
		}
	}
	run(t, ns, "ip", "link", "delete", "sign0")
	changed(t, changes, func(c kernel.Change) bool { return c.Link == "sign0" && c.Now == nil })
	return changes
}

// changed waits for a change that is like this one; nothing else than like may be told before.
func changed(t *testing.T, changes <-chan []kernel.Change, like func(kernel.Change) bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		select {
		case cs := <-changes:
			if slices.ContainsFunc(cs, like) {
				return
			}
			t.Logf("besides: %v", cs)
		case <-deadline:
			t.Fatal("nothing was told")
		}
	}
}

func key(kind kernel.Kind, link string) func(kernel.Change) bool {
	return func(c kernel.Change) bool { return c.Kind == kind && c.Link == link }
}

func TestWatchTellsWhatOthersChange(t *testing.T) {
	ns, dir := netnstest.NS(t, "host"), t.TempDir()
	k := open(t, ns, dir)
	t.Cleanup(func() { clearDir(t, dir) })
	changes := watching(t, k, ns)
	bridge := object(kernel.KindBridge, kernel.HostNS, "br-mine", "", kernel.Bridge{MAC: "06:00:00:00:00:06", MTU: 1400, Owner: "0123"})
	want := state(bridge, object(kernel.KindAddr, kernel.HostNS, "br-mine", "10.11.0.1/24", kernel.Addr{}), object(kernel.KindTable, kernel.HostNS, "inet weft", "", table()),
		object(kernel.KindRoute, kernel.HostNS, "br-mine", "10.12.0.0/24", kernel.Route{}), guest("ip"))
	dockerUser(t, ns, "iptables-nft")
	changed(t, changes, key(kernel.KindGuest, "ip filter DOCKER-USER"))
	must(t, k, kernel.Missing(want, nil))
	must(t, k, []kernel.Op{{Verb: kernel.Put, Obj: object(kernel.KindElement, kernel.HostNS, "inet weft addrs", "192.0.2.7", kernel.Element{Type: kernel.SetAddr})}})
	run(t, ns, "ip", "link", "add", "sign0", "type", "bridge")
	quiet := false
	for !quiet { // what weft's own tables and rules were given by itself is not told
		select {
		case cs := <-changes:
			for _, c := range cs {
				quiet = quiet || c.Link == "sign0"
				if c.Kind == kernel.KindTable || c.Kind == kernel.KindGuest || c.Doubt {
					t.Errorf("its own change is told: %v", c)
				}
			}
		case <-time.After(5 * time.Second):
			t.Fatal("nothing was told")
		}
	}

	run(t, ns, "nft", "flush", "chain", "inet", "weft", "in")
	changed(t, changes, key(kernel.KindTable, "inet weft"))
	run(t, ns, "iptables-nft", "-F")
	changed(t, changes, key(kernel.KindGuest, "ip filter DOCKER-USER"))
	run(t, ns, "ip", "route", "del", "10.12.0.0/24")
	changed(t, changes, func(c kernel.Change) bool {
		return c.Key == kernel.Key{Kind: kernel.KindRoute, Link: "br-mine", Dst: "10.12.0.0/24"}
	})
	run(t, ns, "ip", "addr", "del", "10.11.0.1/24", "dev", "br-mine")
	changed(t, changes, func(c kernel.Change) bool {
		return c.Key == kernel.Key{Kind: kernel.KindAddr, Link: "br-mine", Dst: "10.11.0.1/24"}
	})
	run(t, ns, "nft", "flush", "ruleset")
	changed(t, changes, key(kernel.KindTable, "inet weft"))
}

// drifting is a host with an overlay network and a local one, each with a sandbox, and a remote endpoint.
type drifting struct {
	*site
	local   bridge.Network
	wanted  kernel.State
	changes <-chan []kernel.Change
}

func newDrifting(t *testing.T) *drifting {
	d := &drifting{site: newSite(t)}
	d.net.Endpoints = append(d.net.Endpoints, d.remote(9))
	d.net.Ports = append(d.net.Ports, d.port(t, 2))
	n := &record.Network{ID: record.NetworkID(fmt.Sprintf("%064x", 0xdef)), Name: "web", Driver: "bridge", Scope: "local", MTU: 1500, State: record.Active}
	n.Pools = []record.Pool{{Subnet: netip.MustParsePrefix("172.18.0.0/16"), Gateway: netip.MustParseAddr("172.18.0.1")}}
	ep := &record.Endpoint{ID: record.EndpointID(fmt.Sprintf("%064x", 0xe2)), Network: n.ID, Name: "w", Addrs: []netip.Addr{netip.MustParseAddr("172.18.0.2")}, Running: true}
	ep.MAC = record.MAC(ipam.MAC(ep.Addrs[0]))
	d.local = bridge.Network{Record: n, Ports: []port.Port{{Endpoint: ep, Netns: d.net.Ports[1].Netns, IfName: "eth1"}}}
	d.wanted = overlay.Render(d.set, d.net)
	maps.Copy(d.wanted, bridge.Render(d.local))
	maps.Copy(d.wanted, bridge.RenderHost(bridge.Host{
		Locals: []bridge.Network{d.local}, Overlays: []*record.Network{d.net.Record}, Pools: []netip.Prefix{d.net.Record.Pools[0].Subnet, n.Pools[0].Subnet},
		VXLANPort: 4789, VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
	}))
	d.wanted.Add(kernel.SourceRule(d.sandbox(), netip.MustParseAddr("172.18.0.2"), kernel.FirstTable+1, 32000))
	d.changes = watching(t, d.k, d.ns)
	d.repair(t)
	return d
}

func (d *drifting) sandbox() string { return d.net.Ports[1].Netns }

// repair makes everything as it should be, as the loop does.
func (d *drifting) repair(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		var errs []error
		ops := kernel.Diff(d.wanted, d.read(t, d.k))
		if len(ops) == 0 {
			return
		}
		for i, err := range d.k.Apply(t.Context(), ops) {
			if err != nil {
				errs = append(errs, fmt.Errorf("%v: %w", ops[i], err))
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not repaired: %v: %v", ops, errors.Join(errs...))
		}
	}
}

// broken lists what of that which should be there the changes break, as the loop sees it.
func (d *drifting) broken(cs []kernel.Change) (out []string) {
	for _, c := range cs {
		if c.Doubt || c.Kind == kernel.KindTable || c.Kind == kernel.KindGuest {
			out = append(out, fmt.Sprint(c.Key))
			continue
		}
		for k, o := range d.wanted {
			v, pair := o.Spec.(kernel.Veth)
			far := pair && c.Kind == kernel.KindVeth && c.NS == v.Peer.NS && c.Link == v.Peer.Name
			if (k == c.Key || far) && c.Breaks(o) {
				out = append(out, fmt.Sprint(c.Key))
			}
		}
	}
	return out
}

// quiet waits until nothing is told any more, and fails where what is told breaks something.
func (d *drifting) quiet(t *testing.T, why string) {
	t.Helper()
	for {
		select {
		case cs := <-d.changes:
			if broken := d.broken(cs); len(broken) > 0 {
				t.Errorf("%s: it is told that %v are not as they should be", why, broken)
			}
		case <-time.After(200 * time.Millisecond):
			return
		}
	}
}

// Whatever is taken away or changed by others, in whichever namespace, is told at once, and what others have is not.
func TestDriftIsHeardOf(t *testing.T) {
	t.Parallel()
	d := newDrifting(t)
	d.quiet(t, "its own work")
	up, ep := port.UplinkName(d.net.Record.ID), port.Name(d.net.Ports[1].Endpoint.ID)
	local, localPort := d.local.Record.Bridge(), port.Name(d.local.Ports[0].Endpoint.ID)
	mac, other := string(d.net.Endpoints[0].MAC), d.net.Endpoints[0].Addrs[0].String()
	host, space, sandbox := d.ns, d.space(), d.sandbox()
	for name, harm := range map[string]struct{ in, line string }{
		"a pair, in its network's namespace":           {space, "ip link delete " + ep},
		"a pair, in its sandbox":                       {sandbox, "ip link delete eth0"},
		"a pair on a bridge of the host":               {host, "ip link delete " + localPort},
		"an uplink, in the host":                       {host, "ip link delete " + up},
		"an interface in its sandbox, down":            {sandbox, "ip link set eth0 down"},
		"the MTU of one":                               {sandbox, "ip link set eth0 mtu 1300"},
		"the hardware address of one":                  {sandbox, "ip link set eth1 address 02:00:00:00:00:09"},
		"the name of one":                              {sandbox, "ip link set eth1 name lan0"},
		"a port, down":                                 {space, "ip link set " + ep + " down"},
		"a port, out of its bridge":                    {space, "ip link set " + ep + " nomaster"},
		"a port that learns":                           {space, "bridge link set dev " + ep + " learning on"},
		"a port of the host, out of its bridge":        {host, "ip link set " + localPort + " nomaster"},
		"a network's bridge":                           {space, "ip link delete br0"},
		"a network's bridge, down":                     {space, "ip link set br0 down"},
		"a bridge of the host":                         {host, "ip link delete " + local},
		"a bridge of the host, its MTU":                {host, "ip link set " + local + " mtu 1400"},
		"a VXLAN device":                               {space, "ip link delete vx0"},
		"a VXLAN device, down":                         {space, "ip link set vx0 down"},
		"an entry of a bridge":                         {space, "bridge fdb del " + mac + " dev vx0 master"},
		"an entry of a VXLAN device":                   {space, "bridge fdb del " + mac + " dev vx0 self"},
		"an entry of a VXLAN device, elsewhere":        {space, "bridge fdb replace " + mac + " dev vx0 self permanent dst 192.0.2.66"},
		"an entry of a port in the host":               {host, "bridge fdb del " + string(d.local.Ports[0].Endpoint.MAC) + " dev " + localPort + " master"},
		"a neighbour":                                  {space, "ip neigh del " + other + " dev br0"},
		"a neighbour, with another address":            {space, "ip neigh replace " + other + " dev br0 lladdr 02:00:00:00:00:09 nud permanent"},
		"a neighbour in the host":                      {host, "ip neigh flush dev " + local + " nud permanent"},
		"a gateway":                                    {space, "ip addr flush dev br0"},
		"a gateway in the host":                        {host, "ip addr del 172.18.0.1/16 dev " + local},
		"an address in a sandbox":                      {sandbox, "ip addr flush dev eth1"},
		"a route in a sandbox":                         {sandbox, "ip route del default"},
		"a route of the host":                          {host, "ip route flush dev " + up + " proto 119"},
		"a rule":                                       {sandbox, "ip rule del priority 32000"},
		"a sysctl of a network":                        {space, "sysctl -qw net.ipv4.conf.all.send_redirects=1"},
		"a sysctl of the host":                         {host, "sysctl -qw net.ipv4.ip_forward=0"},
		"a setting of an interface":                    {host, "sysctl -qw net.ipv6.conf." + local + ".disable_ipv6=0"},
		"the host's table":                             {host, "nft delete table inet weft"},
		"all rules of the host":                        {host, "nft flush ruleset"},
		"a chain of the host's table":                  {host, "nft flush chain bridge weft own"},
		"an element of the host's table":               {host, "nft delete element bridge weft guarded { " + localPort + " }"},
		"all rules of a network":                       {space, "nft flush ruleset"},
		"an element of a network's":                    {space, "nft delete element bridge weft " + guardOf(d.wanted, space, ep)},
		"a network's namespace":                        {"", "umount -l " + space},
		"a network's namespace, and its file":          {"", "umount -l " + space + " && rm " + space},
		"a bridge of the host, while a user makes one": {host, "ip link delete " + local + " && ip link add user0 type bridge"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			harmIn(t, harm.in, harm.line)
			deadline := time.After(2 * time.Second)
			for told := false; !told; {
				select {
				case cs := <-d.changes:
					told = len(d.broken(cs)) > 0
				case <-deadline:
					t.Fatalf("%s: nothing was told that would be missed; missing is %v", harm.line, kernel.Diff(d.wanted, d.read(t, d.k)))
				}
			}
			t.Logf("told after %v", time.Since(began).Round(time.Millisecond))
			d.repair(t)
			d.quiet(t, "the repair")
		})
	}
}

func harmIn(t *testing.T, ns, line string) {
	t.Helper()
	args := []string{"sh", "-c", line}
	if ns != "" {
		args = append([]string{"nsenter", "--net=" + ns}, args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil { //nolint:gosec // the test's own lines
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// guardOf is an element of a network's table as nft writes it: the set, and the port's element in it.
func guardOf(s kernel.State, ns, link string) string {
	for _, k := range slices.SortedFunc(maps.Keys(s), kernel.Key.Compare) {
		if k.Kind == kernel.KindElement && k.NS == ns && strings.HasPrefix(k.Dst, link+" ") {
			set := k.Link[strings.LastIndex(k.Link, " ")+1:]
			return set + " { " + strings.ReplaceAll(k.Dst, " ", " . ") + " }"
		}
	}
	return "none { }"
}

// What others make and take away beside weft's own is told as no loss, and is still there, or gone, after everything was made as it should be.
func TestWhatIsOthersIsNoDrift(t *testing.T) {
	t.Parallel()
	d := newDrifting(t)
	beside := netnstest.NS(t, "weft-beside")
	for _, line := range []string{
		"ip link add user0 type bridge && ip link set user0 up && ip addr add 172.31.0.1/24 dev user0",
		"ip link add user1 type veth peer name user2 && ip link set user1 up && ip link set user2 up master user0",
		"ip route add 172.30.0.0/24 via 172.31.0.2 && ip rule add from 172.31.0.3 lookup 77",
		"ip link add user3 type vxlan id 4097 dstport 4790 local 172.31.0.1 && bridge fdb add 02:00:00:00:00:09 dev user3 dst 172.31.0.9",
		"ip neigh add 172.31.0.7 dev user0 lladdr 02:00:00:00:00:07 nud permanent",
		"nft add table inet user && nft add set inet user s '{ type ipv4_addr; }' && nft add element inet user s '{ 192.0.2.9 }'",
		"sysctl -qw net.ipv4.conf.user0.rp_filter=2",
	} {
		harmIn(t, d.ns, line)
	}
	harmIn(t, d.sandbox(), "ip link add eth9 type bridge && ip addr add 172.31.1.1/24 dev eth9 && nft add table inet user")
	harmIn(t, beside, "ip link add br0 type bridge && nft add table inet weft && ip link delete br0 && nft flush ruleset")
	d.quiet(t, "others' work")
	d.repair(t)
	for _, c := range []struct{ ns, line, want string }{
		{d.ns, "ip -d link show user3; bridge fdb show dev user3", "02:00:00:00:00:09 dst 172.31.0.9"}, {d.ns, "ip link show user2", "master user0"},
		{d.ns, "ip route; ip rule", "from 172.31.0.3 lookup 77"}, {d.ns, "ip route", "172.30.0.0/24 via 172.31.0.2"}, {d.ns, "ip neigh", "172.31.0.7"},
		{d.ns, "nft list table inet user", "192.0.2.9"}, {d.sandbox(), "ip addr; nft list tables", "172.31.1.1/24"}, {d.sandbox(), "nft list tables", "inet user"},
	} {
		if out, err := exec.Command("nsenter", "--net="+c.ns, "sh", "-c", c.line).CombinedOutput(); err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: no %q in %s, %v", c.line, c.want, out, err)
		}
	}
	harmIn(t, d.ns, "ip link delete user0; ip link delete user3; ip rule del from 172.31.0.3; nft delete table inet user")
	d.quiet(t, "others' clearing up")
}

// Given a watch that is ended the moment it begins, when it has been begun, then it ends, and another can begin: an agent that gives up at its start would
// hang otherwise.
func TestAWatchEndsThatHasJustBegun(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "netns")
	k := open(t, netnstest.NS(t, "host"), dir)
	t.Cleanup(func() { clearDir(t, dir) })
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		done := make(chan error, 1)
		go func() { done <- k.Watch(ended, make(chan []kernel.Change)) }()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it goes on")
		}
	}
}
