package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"weft/kernel"
	"weft/kernel/fake"
	"weft/kernel/netnstest"
)

// subject is an Executor, the directory of its own namespaces, and a sandbox's namespace.
type subject struct {
	kernel.Executor
	dir, sandbox string
}

func (s subject) space(name string) string { return filepath.Join(s.dir, "weft-"+name) }

func (s subject) read(t *testing.T) kernel.State {
	t.Helper()
	spaces, err := s.Namespaces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	have, err := s.Read(t.Context(), append(spaces, kernel.HostNS, s.sandbox))
	if err != nil {
		t.Fatal(err)
	}
	return have
}

func object(kind kernel.Kind, ns, link, dst string, spec kernel.Spec) kernel.Object {
	return kernel.Object{Key: kernel.Key{Kind: kind, NS: ns, Link: link, Dst: dst}, Spec: spec}
}

// every returns a state with every kind of object.
func (s subject) every(name string, vni uint32) kernel.State {
	ns := s.space(name)
	vtep, gateway := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.9.0.1")
	vx := object(kernel.KindVXLAN, ns, "vx0", "", kernel.VXLAN{
		VNI: vni, Local: vtep, Port: 4789, MAC: "06:00:00:00:00:02", MTU: 1450, At: kernel.Port{Master: "br0", NeighSuppress: true, NoFlood: true, Multicast: true},
	})
	vx.Holds = kernel.HoldsVNI(vni, 4789)
	far := "eth" + name
	out := kernel.State{}
	for _, o := range []kernel.Object{
		object(kernel.KindNetns, ns, "", "", kernel.Netns{}),
		object(kernel.KindSysctl, ns, "net/ipv4/conf/all/send_redirects", "", kernel.Sysctl{Value: "0"}),
		object(kernel.KindBridge, ns, "br0", "", kernel.Bridge{MAC: "06:00:00:00:00:01", MTU: 1450}),
		vx,
		object(kernel.KindVeth, ns, "ep1", "", kernel.Veth{
			MAC: "06:00:00:00:00:03", MTU: 1450, At: kernel.Port{Master: "br0", Isolated: true}, Peer: kernel.Peer{NS: s.sandbox, Name: far, MAC: "02:42:0a:09:00:02"},
		}),
		object(kernel.KindVeth, ns, "up0", "", kernel.Veth{
			MAC: "06:00:00:00:00:04", MTU: 1450, Peer: kernel.Peer{NS: kernel.HostNS, Name: "weft" + name, MAC: "06:00:00:00:00:05"},
		}),
		object(kernel.KindBridge, kernel.HostNS, "br-"+name, "", kernel.Bridge{MAC: "06:00:00:00:00:06", MTU: 1400, Owner: "0123456789abcdef"}),
		object(kernel.KindVeth, kernel.HostNS, "ep2"+name, "", kernel.Veth{
			MAC: "06:00:00:00:00:07", MTU: 1400, At: kernel.Port{Master: "br-" + name, Hairpin: true}, Peer: kernel.Peer{NS: s.sandbox, Name: "in" + name, MAC: "02:42:0a:0b:00:02"},
		}),
		object(kernel.KindAddr, kernel.HostNS, "br-"+name, "10.11.0.1/24", kernel.Addr{}),
		object(kernel.KindNeigh, kernel.HostNS, "br-"+name, "10.11.0.2", kernel.Neigh{MAC: "02:42:0a:0b:00:02"}),
		object(kernel.KindFDB, kernel.HostNS, "ep2"+name, "02:42:0a:0b:00:02", kernel.FDB{}),
		object(kernel.KindAddr, ns, "br0", "10.9.0.1/24", kernel.Addr{}),
		object(kernel.KindAddr, s.sandbox, far, "10.9.0.2/24", kernel.Addr{}),
		object(kernel.KindRoute, s.sandbox, far, "0.0.0.0/0", kernel.Route{Via: gateway, Src: netip.MustParseAddr("10.9.0.2"), Metric: 7}),
		object(kernel.KindRoute, kernel.HostNS, "weft"+name, "10.9.0.0/24", kernel.Route{}),
		object(kernel.KindConf, s.sandbox, far, "ipv6/conf/accept_ra", kernel.Conf{Value: "0"}),
		object(kernel.KindConf, s.sandbox, far, "ipv4/conf/log_martians", kernel.Conf{Value: "1"}),
		object(kernel.KindConf, kernel.HostNS, "weft"+name, "ipv6/conf/accept_dad", kernel.Conf{Value: "0"}),
		object(kernel.KindAddr, ns, "br0", "fd00:9::1/64", kernel.Addr{}),
		object(kernel.KindAddr, s.sandbox, far, "fd00:9::2/64", kernel.Addr{}),
		object(kernel.KindRoute, s.sandbox, far, "::/0", kernel.Route{Via: netip.MustParseAddr("fd00:9::1")}),
		object(kernel.KindRoute, s.sandbox, far, "fd00:a::/64", kernel.Route{Via: netip.MustParseAddr("fd00:9::1"), Metric: 9}),
		object(kernel.KindRoute, kernel.HostNS, "weft"+name, "fd00:9::/64", kernel.Route{Via: netip.MustParseAddr("fe80::77:2")}),
		object(kernel.KindRoute, s.sandbox, far, "0.0.0.0/0 table 1996488705", kernel.Route{Via: gateway}),
		object(kernel.KindRoute, s.sandbox, far, "10.9.0.0/24 table 1996488705", kernel.Route{}),
		object(kernel.KindRoute, s.sandbox, far, "::/0 table 1996488705", kernel.Route{Via: netip.MustParseAddr("fd00:9::1")}),
		kernel.SourceRule(s.sandbox, netip.MustParseAddr("10.9.0.2"), kernel.FirstTable+1, 32000),
		kernel.SourceRule(s.sandbox, netip.MustParseAddr("fd00:9::2"), kernel.FirstTable+1, 32000),
		object(kernel.KindNeigh, ns, "br0", "fd00:9::3", kernel.Neigh{MAC: "02:42:0a:09:00:03"}),
		object(kernel.KindNeigh, kernel.HostNS, "weft"+name, "fe80::77:2", kernel.Neigh{MAC: "06:00:00:00:00:04"}),
		object(kernel.KindNeigh, ns, "br0", "10.9.0.3", kernel.Neigh{MAC: "02:42:0a:09:00:03"}),
		object(kernel.KindNeigh, kernel.HostNS, "weft"+name, "10.9.0.1", kernel.Neigh{MAC: "06:00:00:00:00:04"}),
		object(kernel.KindFDB, ns, "ep1", "02:42:0a:09:00:02", kernel.FDB{}),
		object(kernel.KindFDB, ns, "vx0", "02:42:0a:09:00:03", kernel.FDB{}),
		object(kernel.KindFDB, ns, "vx0", kernel.FloodDst(netip.MustParseAddr("192.0.2.2")), kernel.FDB{VTEP: netip.MustParseAddr("192.0.2.2")}),
		object(kernel.KindFDB, ns, "vx0", kernel.FloodDst(netip.MustParseAddr("192.0.2.3")), kernel.FDB{VTEP: netip.MustParseAddr("192.0.2.3")}),
		object(kernel.KindFDB, ns, "vx0", "02:42:0a:09:00:03 self", kernel.FDB{VTEP: netip.MustParseAddr("192.0.2.2")}),
		object(kernel.KindTable, ns, "inet weft", "", table()),
		object(kernel.KindElement, ns, "inet weft addrs", "192.0.2.7", kernel.Element{Type: kernel.SetAddr}),
		object(kernel.KindElement, ns, "inet weft prefixes", "10.9.0.0/24", kernel.Element{Type: kernel.SetPrefix}),
		object(kernel.KindElement, ns, "inet weft prefixes", "10.9.1.0/24", kernel.Element{Type: kernel.SetPrefix}),
		object(kernel.KindElement, ns, "inet weft ports", "ep1 02:42:0a:09:00:02 10.9.0.2", kernel.Element{Type: kernel.SetPort}),
		object(kernel.KindElement, ns, "inet weft open", "tcp 8080", kernel.Element{Type: kernel.MapService, Value: "10.9.0.2 80"}),
	} {
		out.Add(o)
	}
	return out
}

func table() kernel.Table {
	return kernel.Table{
		Sets: []kernel.Set{{Name: "addrs", Type: kernel.SetAddr}, {Name: "prefixes", Type: kernel.SetPrefix}, {Name: "ports", Type: kernel.SetPort}, {Name: "open", Type: kernel.MapService}},
		Chains: []kernel.Chain{{Name: "in", Type: "filter", Hook: "input", Priority: 0, Rules: []kernel.Rule{
			{If: []kernel.Match{{Field: kernel.UDPDest, Value: "4789"}, {Field: kernel.SourceAddr, Not: true, Value: "@addrs"}}, Verdict: kernel.Drop},
			{If: []kernel.Match{{Field: kernel.InLink, Value: "weft*"}}, Verdict: kernel.Accept},
		}}},
	}
}

func TestExecutors(t *testing.T) {
	contract := map[string]func(*testing.T, subject){
		"what was put is read back, and put again changes nothing":    putIsRead,
		"what was deleted is gone, and deleting it again is no error": delIsGone,
		"a failure does not stop what does not depend on it":          partialFailure,
		"own namespaces are listed, and no others":                    listsNamespaces,
		"a namespace that is gone has nothing":                        goneHasNothing,
		"work that broke off anywhere is taken up":                    anywhere,
		"two holders swap what is exclusive":                          swapHolds,
		"a map's key gets another value":                              otherValue,
		"a link's place goes to another kind of link":                 otherKind,
		"a cancelled call does nothing and says so":                   cancelled,
		"a closed executor says so":                                   closed,
	}
	for name, check := range contract {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("real", func(t *testing.T) {
				t.Parallel()
				host, dir := netnstest.NS(t, "host"), filepath.Join(t.TempDir(), "netns")
				k := open(t, host, dir)
				t.Cleanup(func() { clearDir(t, dir) })
				check(t, subject{k, dir, netnstest.NS(t, "sandbox")})
			})
			t.Run("fake", func(t *testing.T) {
				k := fake.New("/run/weft/netns")
				k.AddNamespace("/run/sandbox")
				check(t, subject{k, "/run/weft/netns", "/run/sandbox"})
			})
		})
	}
}

func putIsRead(t *testing.T, s subject) {
	want := s.every("a", 4096)
	for range 2 {
		must(t, s, kernel.Missing(want, nil))
		have := s.read(t)
		if ops := kernel.Diff(want, have); len(ops) > 0 {
			t.Fatalf("left: %v", ops)
		}
		for k, o := range want {
			if have[k].Holds != o.Holds {
				t.Errorf("%v holds %q", k, have[k].Holds)
			}
		}
	}
}

func delIsGone(t *testing.T, s subject) {
	want := s.every("a", 4096)
	must(t, s, kernel.Missing(want, nil))
	del := kernel.Diff(nil, want)
	// Each by itself first, without the namespace, whose end would take all with it.
	for _, op := range del {
		if op.Obj.Kind != kernel.KindNetns {
			must(t, s, []kernel.Op{op})
			if _, ok := s.read(t)[op.Obj.Key]; ok {
				t.Errorf("%v is still there", op.Obj.Key)
			}
		}
	}
	must(t, s, del)
	must(t, s, del)
	for k := range s.read(t) {
		if k.Kind != kernel.KindSysctl && k.Kind != kernel.KindConf && k.Kind != kernel.KindGuest { // a place for a guest that is not there
			t.Errorf("%v is still there", k)
		}
	}
}

func partialFailure(t *testing.T, s subject) {
	want := s.every("a", 4096)
	ops := kernel.Missing(want, nil)
	bad := []kernel.Op{
		{Verb: kernel.Put, Obj: object(kernel.KindNeigh, s.space("a"), "none0", "10.9.0.9", kernel.Neigh{MAC: "02:42:0a:09:00:09"})},
		{Verb: kernel.Put, Obj: object(kernel.KindAddr, s.space("b"), "br0", "10.9.9.1/24", kernel.Addr{})},
		{Verb: kernel.Put, Obj: object(kernel.KindElement, s.space("a"), "inet weft-none addrs", "192.0.2.9", kernel.Element{Type: kernel.SetAddr})},
	}
	var mixed []kernel.Op
	for _, op := range ops {
		mixed = append(mixed, op)
		if op.Obj.Kind >= kernel.KindNeigh {
			mixed = append(mixed, bad...)
		}
	}
	for i, err := range s.Apply(t.Context(), mixed) {
		failed := slices.ContainsFunc(bad, func(b kernel.Op) bool { return b.Obj.Key == mixed[i].Obj.Key })
		if failed != (err != nil) {
			t.Errorf("%v: %v", mixed[i], err)
		}
	}
	if ops := kernel.Diff(want, s.read(t)); len(ops) > 0 {
		t.Errorf("left: %v", ops)
	}
}

func listsNamespaces(t *testing.T, s subject) {
	for _, name := range []string{"b", "a"} {
		must(t, s, []kernel.Op{{Verb: kernel.Put, Obj: object(kernel.KindNetns, s.space(name), "", "", kernel.Netns{})}})
	}
	got, err := s.Namespaces(t.Context())
	if want := []string{s.space("a"), s.space("b")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func goneHasNothing(t *testing.T, s subject) {
	have, err := s.Read(t.Context(), []string{s.space("none"), "/nowhere/netns"})
	if err != nil || len(have) > 0 {
		t.Errorf("got %v, %v", have, err)
	}
}

// An agent may die anywhere: whatever was done by then is taken up.
func anywhere(t *testing.T, s subject) {
	want := s.every("a", 4096)
	ops := kernel.Missing(want, nil)
	for n := range ops {
		must(t, s, ops[:n])
		must(t, s, kernel.Diff(want, s.read(t)))
		if left := kernel.Diff(want, s.read(t)); len(left) > 0 {
			t.Errorf("after %d steps, left: %v", n, left)
		}
		must(t, s, kernel.Diff(nil, s.read(t)))
	}
}

func swapHolds(t *testing.T, s subject) {
	both := func(a, b uint32) kernel.State {
		out := s.every("a", a)
		for k, o := range s.every("b", b) {
			if k.NS == s.space("b") && (k.Kind == kernel.KindNetns || k.Kind == kernel.KindBridge || k.Link == "vx0") {
				out[k] = o
			}
		}
		return out
	}
	before := both(4096, 4097)
	must(t, s, kernel.Diff(before, s.read(t)))
	after := both(4097, 4096)
	must(t, s, kernel.Diff(after, s.read(t)))
	if ops := kernel.Diff(after, s.read(t)); len(ops) > 0 {
		t.Errorf("left: %v", ops)
	}
}

func otherValue(t *testing.T, s subject) {
	want := s.every("a", 4096)
	must(t, s, kernel.Missing(want, nil))
	for i, value := range []string{"10.9.0.3 80", "10.9.0.3 81"} {
		want.Add(object(kernel.KindElement, s.space("a"), "inet weft open", "tcp 8080", kernel.Element{Type: kernel.MapService, Value: value}))
		want.Add(object(kernel.KindElement, s.space("a"), "inet weft open", fmt.Sprint("udp ", i), kernel.Element{Type: kernel.MapService, Value: value}))
		ops := kernel.Diff(want, s.read(t))
		if len(ops) != 2 {
			t.Errorf("it takes %v", ops)
		}
		must(t, s, ops)
		if ops := kernel.Diff(want, s.read(t)); len(ops) > 0 {
			t.Errorf("left: %v", ops)
		}
	}
}

func otherKind(t *testing.T, s subject) {
	want := s.every("a", 4096)
	must(t, s, kernel.Diff(want, nil))
	ns := s.space("a")
	delete(want, kernel.Key{Kind: kernel.KindVeth, NS: ns, Link: "up0"})
	for k := range want {
		if k.NS == kernel.HostNS {
			delete(want, k)
		}
	}
	want.Add(object(kernel.KindBridge, ns, "up0", "", kernel.Bridge{MAC: "06:00:00:00:00:09", MTU: 1400}))
	want.Add(object(kernel.KindAddr, ns, "up0", "10.10.0.1/24", kernel.Addr{}))
	must(t, s, kernel.Diff(want, s.read(t)))
	if ops := kernel.Diff(want, s.read(t)); len(ops) > 0 {
		t.Errorf("left: %v", ops)
	}
}

func cancelled(t *testing.T, s subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i, err := range s.Apply(ctx, kernel.Missing(s.every("a", 4096), nil)) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("step %d: %v", i, err)
		}
	}
	if spaces, err := s.Namespaces(t.Context()); err != nil || len(spaces) > 0 {
		t.Errorf("something was done: %v, %v", spaces, err)
	}
}

func closed(t *testing.T, s subject) {
	must(t, s, kernel.Missing(s.every("a", 4096), nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(t.Context(), []string{kernel.HostNS})
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	op := kernel.Op{Verb: kernel.Put, Obj: object(kernel.KindAddr, s.space("a"), "br0", "10.9.7.1/24", kernel.Addr{})}
	if err := s.Apply(t.Context(), []kernel.Op{op})[0]; !errors.Is(err, os.ErrClosed) {
		t.Errorf("put: %v", err)
	}
}
