package kernel_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/kernel"
	"weft/kernel/netnstest"
)

// Whatever its name, a bridge or link of the host that is not weft's is neither taken, changed nor deleted; not even where it was planned.
func TestForeignBridgesOfTheHostStay(t *testing.T) {
	ns, dir := netnstest.NS(t, "host"), t.TempDir()
	k := open(t, ns, dir)
	t.Cleanup(func() { clearDir(t, dir) })
	run(t, ns, "ip", "link", "add", "docker0", "type", "bridge")
	run(t, ns, "ip", "link", "add", "br-0123456789ab", "type", "bridge", "mcast_snooping", "1")
	run(t, ns, "ip", "link", "set", "br-0123456789ab", "alias", "weft 0123 and more")
	run(t, ns, "ip", "link", "add", "ep0123456789ab", "type", "veth", "peer", "name", "far0")
	run(t, ns, "ip", "link", "set", "ep0123456789ab", "master", "docker0", "up")
	run(t, ns, "ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
	run(t, ns, "ip", "link", "add", "weftuser", "type", "bridge")
	run(t, ns, "ip", "addr", "add", "172.29.0.1/16", "dev", "weftuser")
	run(t, ns, "bridge", "fdb", "add", "02:42:0a:0b:00:02", "dev", "ep0123456789ab", "master", "static")
	before := run(t, ns, "ip", "-d", "addr") + run(t, ns, "bridge", "fdb")
	have, err := k.Read(t.Context(), []string{kernel.HostNS})
	if err != nil {
		t.Fatal(err)
	}
	for key := range have {
		if key.Kind != kernel.KindSysctl && key.Kind != kernel.KindGuest {
			t.Errorf("%v is taken for weft's", key)
		}
	}
	mine := object(kernel.KindBridge, kernel.HostNS, "br-0123456789ab", "", kernel.Bridge{MAC: "06:00:00:00:00:06", MTU: 1400, Owner: "0123"})
	port := object(kernel.KindVeth, kernel.HostNS, "ep0123456789ab", "", kernel.Veth{MAC: "06:00:00:00:00:07", MTU: 1400, Peer: kernel.Peer{NS: netnstest.NS(t, "box"), Name: "eth0", MAC: "02:42:0a:0b:00:02"}})
	for _, o := range []kernel.Object{mine, port} {
		err := k.Apply(t.Context(), []kernel.Op{{Verb: kernel.Put, Obj: o}})[0]
		if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "it is not weft's") {
			t.Errorf("put %s: %v", o.Link, err)
		}
		must(t, k, []kernel.Op{{Verb: kernel.Del, Obj: o}})
	}
	if after := run(t, ns, "ip", "-d", "addr") + run(t, ns, "bridge", "fdb"); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
}

// An agent may die between a link's first message and the one with its alias: the next one takes it up, or away.
func TestHalfMadeLinksOfTheHostAreWefts(t *testing.T) {
	ns, dir := netnstest.NS(t, "host"), t.TempDir()
	k := open(t, ns, dir)
	t.Cleanup(func() { clearDir(t, dir) })
	const making = 0x7765666d
	for _, wanted := range []bool{true, false} {
		netnstest.In(t, ns, func() error {
			return errors.Join(
				netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-half", Group: making}}),
				netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ephalf", Group: making}, PeerName: "far0"}),
			)
		})
		want := kernel.State{}
		if wanted {
			box := netnstest.NS(t, "box")
			want = state(
				object(kernel.KindBridge, kernel.HostNS, "br-half", "", kernel.Bridge{MAC: "06:00:00:00:00:06", MTU: 1400, Owner: "0123"}),
				object(kernel.KindVeth, kernel.HostNS, "ephalf", "", kernel.Veth{
					MAC: "06:00:00:00:00:07", MTU: 1400, At: kernel.Port{Master: "br-half"}, Peer: kernel.Peer{NS: box, Name: "eth0", MAC: "02:42:0a:0b:00:02"},
				}))
		}
		have, err := k.Read(t.Context(), []string{kernel.HostNS})
		if err != nil {
			t.Fatal(err)
		}
		must(t, k, kernel.Diff(want, have))
		if have, err = k.Read(t.Context(), []string{kernel.HostNS}); err != nil {
			t.Fatal(err)
		}
		if ops := kernel.Missing(want, have); len(ops) > 0 {
			t.Errorf("left: %v", ops)
		}
		must(t, k, kernel.Diff(nil, have))
		if got := run(t, ns, "ip", "-br", "link"); strings.Contains(got, "half") {
			t.Errorf("wanted %v: still there: %s", wanted, got)
		}
	}
}
