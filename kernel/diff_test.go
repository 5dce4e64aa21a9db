package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/kernel"
	"weft/kernel/fake"
)

const (
	here = "/run/weft/netns/weft-a"
	pod  = "/run/sandbox"
)

func bridgeOf(mtu int) kernel.Object {
	return object(kernel.KindBridge, here, "br0", "", kernel.Bridge{MAC: "06:00:00:00:00:01", MTU: mtu})
}

func vxlan(ns string, vni uint32) kernel.Object {
	o := object(kernel.KindVXLAN, ns, "vx0", "", kernel.VXLAN{VNI: vni, Port: 4789})
	o.Holds = kernel.HoldsVNI(vni, 4789)
	return o
}

func veth(mac string) kernel.Object {
	return object(kernel.KindVeth, here, "ep1", "", kernel.Veth{MAC: mac, Peer: kernel.Peer{NS: pod, Name: "eth0"}})
}

func neigh(ns, link, mac string) kernel.Object {
	return object(kernel.KindNeigh, ns, link, "10.0.0.2", kernel.Neigh{MAC: mac})
}

func state(objects ...kernel.Object) kernel.State {
	out := kernel.State{}
	for _, o := range objects {
		out.Add(o)
	}
	return out
}

func TestDiff(t *testing.T) {
	netns := object(kernel.KindNetns, here, "", "", kernel.Netns{})
	sysctl := object(kernel.KindSysctl, here, "net/ipv4/ip_forward", "", kernel.Sysctl{Value: "1"})
	addr := object(kernel.KindAddr, pod, "eth0", "10.0.0.3/24", kernel.Addr{})
	tab := object(kernel.KindTable, here, "inet weft", "", table())
	element := func(set string, typ kernel.SetType, text string) kernel.Object {
		return object(kernel.KindElement, here, "inet weft "+set, text, kernel.Element{Type: typ})
	}
	put := func(o kernel.Object) kernel.Op { return kernel.Op{Verb: kernel.Put, Obj: o} }
	del := func(o kernel.Object) kernel.Op { return kernel.Op{Verb: kernel.Del, Obj: o} }
	for _, c := range []struct {
		name       string
		want, have kernel.State
		ops        []kernel.Op
	}{
		{"nothing to do", state(netns, bridgeOf(1450), tab), state(netns, bridgeOf(1450), tab), nil},
		{"what others stand on is made first", state(neigh(here, "br0", "m"), addr, veth("m"), bridgeOf(1450), netns, sysctl), nil,
			[]kernel.Op{put(netns), put(sysctl), put(bridgeOf(1450)), put(veth("m")), put(addr), put(neigh(here, "br0", "m"))}},
		{"and deleted last; sysctls stay", nil, state(neigh(here, "br0", "m"), addr, veth("m"), bridgeOf(1450), netns, sysctl),
			[]kernel.Op{del(neigh(here, "br0", "m")), del(addr), del(veth("m")), del(bridgeOf(1450)), del(netns)}},
		{"a changed value is put, without a delete", state(neigh(here, "br0", "new")), state(neigh(here, "br0", "old")),
			[]kernel.Op{put(neigh(here, "br0", "new"))}},
		{"a holder goes before the one that takes over", state(vxlan("b", 1)), state(vxlan("a", 1)), []kernel.Op{del(vxlan("a", 1)), put(vxlan("b", 1))}},
		{"holders that swap both go first", state(vxlan("a", 2), vxlan("b", 1)), state(vxlan("a", 1), vxlan("b", 2)),
			[]kernel.Op{del(vxlan("b", 2)), del(vxlan("a", 1)), put(vxlan("a", 2)), put(vxlan("b", 1))}},
		{"a holder that nobody replaces goes last", state(bridgeOf(1450)), state(vxlan("a", 1)), []kernel.Op{put(bridgeOf(1450)), del(vxlan("a", 1))}},
		{"what is on a link that changes is put again", state(bridgeOf(1400), neigh(here, "br0", "m"), neigh(here, "vx0", "m")),
			state(bridgeOf(1450), neigh(here, "br0", "m"), neigh(here, "vx0", "m")), []kernel.Op{put(bridgeOf(1400)), put(neigh(here, "br0", "m"))}},
		{"at a pair's far end too", state(veth("new"), addr), state(veth("old"), addr), []kernel.Op{put(veth("new")), put(addr)}},
		{"a lost namespace loses all", state(netns, sysctl, bridgeOf(1450), neigh(here, "br0", "m")), state(sysctl, bridgeOf(1450), neigh(here, "br0", "m")),
			[]kernel.Op{put(netns), put(sysctl), put(bridgeOf(1450)), put(neigh(here, "br0", "m"))}},
		{"a link's name goes to another kind", state(object(kernel.KindBridge, here, "ep1", "", kernel.Bridge{MTU: 1})), state(veth("m")),
			[]kernel.Op{del(veth("m")), put(object(kernel.KindBridge, here, "ep1", "", kernel.Bridge{MTU: 1}))}},
		{"prefixes that go may overlap those that come", state(tab, element("p", kernel.SetPrefix, "10.0.0.0/8")), state(tab, element("p", kernel.SetPrefix, "10.1.0.0/16")),
			[]kernel.Op{del(element("p", kernel.SetPrefix, "10.1.0.0/16")), put(element("p", kernel.SetPrefix, "10.0.0.0/8"))}},
		{"other elements come before those that go", state(tab, element("s", kernel.SetAddr, "10.0.0.1")), state(tab, element("s", kernel.SetAddr, "10.0.0.2")),
			[]kernel.Op{put(element("s", kernel.SetAddr, "10.0.0.1")), del(element("s", kernel.SetAddr, "10.0.0.2"))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, want := fmt.Sprint(kernel.Diff(c.want, c.have)), fmt.Sprint(c.ops); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// draw makes a random state that the kernel could hold.
func draw(t *rapid.T, label string) kernel.State {
	out := kernel.State{}
	maybe := func() bool { return rapid.Bool().Draw(t, label) }
	number := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
	vnis := rapid.Permutation([]uint32{1, 2, 3}).Draw(t, label)
	for i, name := range []string{"weft-a", "weft-b"} {
		ns := "/run/weft/netns/" + name
		if !maybe() {
			continue
		}
		out.Add(object(kernel.KindNetns, ns, "", "", kernel.Netns{}))
		out.Add(object(kernel.KindBridge, ns, "br0", "", kernel.Bridge{MTU: 1400 + number(2)}))
		if maybe() {
			vx := vxlan(ns, vnis[i])
			out.Add(vx)
			for m := range number(3) {
				out.Add(object(kernel.KindFDB, ns, "vx0", fmt.Sprintf("02:00:00:00:00:%02d", m), kernel.FDB{}))
			}
		}
		for p := range number(3) {
			link, far := fmt.Sprintf("ep%d", p), fmt.Sprintf("eth%d%d", i, p)
			if maybe() {
				out.Add(object(kernel.KindBridge, ns, link, "", kernel.Bridge{}))
				continue
			}
			out.Add(object(kernel.KindVeth, ns, link, "", kernel.Veth{MTU: number(2), At: kernel.Port{Master: "br0"}, Peer: kernel.Peer{NS: pod, Name: far}}))
			out.Add(object(kernel.KindAddr, pod, far, fmt.Sprintf("10.0.%d.%d/24", i, number(2)), kernel.Addr{}))
			out.Add(object(kernel.KindNeigh, ns, "br0", fmt.Sprintf("10.0.%d.%d", i, p), kernel.Neigh{MAC: fmt.Sprint(number(2))}))
		}
		if maybe() {
			tab := table()
			tab.Chains[0].Priority = number(2)
			out.Add(object(kernel.KindTable, ns, "inet weft", "", tab))
			for e := range number(3) {
				out.Add(object(kernel.KindElement, ns, "inet weft addrs", fmt.Sprintf("10.0.0.%d", e), kernel.Element{Type: kernel.SetAddr}))
			}
		}
	}
	return out
}

func newFake() *fake.Kernel {
	k := fake.New("/run/weft/netns")
	k.AddNamespace(pod)
	return k
}

func read(t interface {
	rapid.TB
	Context() context.Context
}, k *fake.Kernel) kernel.State {
	have, err := k.Read(t.Context(), []string{kernel.HostNS, pod, "/run/weft/netns/weft-a", "/run/weft/netns/weft-b"})
	if err != nil {
		t.Fatal(err)
	}
	return have
}

func equal(a, b kernel.State) bool {
	return len(a) == len(b) && len(kernel.Diff(a, b)) == 0
}

// From any state to any other in one go: nothing is refused for its order, and nothing is missing or left.
func TestDiffTurnsAnyStateIntoAnyOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newFake()
		for i := range 3 {
			want := draw(t, fmt.Sprint("state ", i))
			ops := kernel.Diff(want, read(t, k))
			for j, err := range k.Apply(t.Context(), ops) {
				if err != nil {
					t.Fatalf("%v: %v\nof %v", ops[j], err, ops)
				}
			}
			if have := read(t, k); !equal(want, have) {
				t.Fatalf("left: %v\nafter %v", kernel.Diff(want, have), ops)
			}
		}
	})
}

// With faults, losses and outcomes that are not what they seem on the way, it still arrives.
func TestDiffConvergesThroughFaults(t *testing.T) {
	injected := errors.New("injected")
	rapid.Check(t, func(t *rapid.T) {
		k := newFake()
		for i := range 3 {
			want := draw(t, fmt.Sprint("state ", i))
			for range 4 {
				k.Fail(fake.Fault{After: rapid.IntRange(0, 6).Draw(t, "after"), Times: 1, Err: injected, Done: rapid.Bool().Draw(t, "done")})
				k.Apply(t.Context(), kernel.Diff(want, read(t, k)))
				kind := kernel.Kind(rapid.IntRange(0, int(kernel.KindElement)).Draw(t, "lost"))
				k.Lose(func(o kernel.Object) bool { return o.Kind == kind })
			}
			k.Heal()
			k.Apply(t.Context(), kernel.Diff(want, read(t, k)))
			if have := read(t, k); !equal(want, have) {
				t.Fatalf("left: %v", kernel.Diff(want, have))
			}
		}
	})
}

func TestFaults(t *testing.T) {
	injected := errors.New("injected")
	netns := kernel.Op{Verb: kernel.Put, Obj: object(kernel.KindNetns, here, "", "", kernel.Netns{})}
	br := kernel.Op{Verb: kernel.Put, Obj: bridgeOf(1450)}
	ops := []kernel.Op{netns, br, netns, br, netns}
	for _, c := range []struct {
		name   string
		fault  fake.Fault
		failed []int
		left   int
	}{
		{"of every step", fake.Fault{Err: injected}, []int{0, 1, 2, 3, 4}, 0},
		{"of one kind", fake.Fault{Err: injected, Op: func(o kernel.Op) bool { return o.Obj.Kind == kernel.KindBridge }}, []int{1, 3}, 1},
		{"of one key, once", fake.Fault{Err: injected, Times: 1, Op: func(o kernel.Op) bool { return o.Obj.Key == br.Obj.Key }}, []int{1}, 2},
		{"of the third", fake.Fault{Err: injected, After: 2, Times: 1}, []int{2}, 2},
		{"after it was done", fake.Fault{Err: injected, After: 1, Times: 1, Done: true}, []int{1}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFake()
			k.Fail(c.fault)
			var failed []int
			for i, err := range k.Apply(t.Context(), ops) {
				if errors.Is(err, injected) {
					failed = append(failed, i)
				}
			}
			if have := read(t, k); !slices.Equal(failed, c.failed) || len(have) != c.left {
				t.Errorf("failed %v, left %v", failed, have)
			}
		})
	}
	t.Run("of a reading", func(t *testing.T) {
		k := newFake()
		k.Fail(fake.Fault{Reading: true, After: 1, Times: 1, Err: injected})
		read(t, k)
		if _, err := k.Read(t.Context(), nil); !errors.Is(err, injected) {
			t.Errorf("got %v", err)
		}
		read(t, k)
	})
	t.Run("a sandbox's end takes its pairs", func(t *testing.T) {
		k := newFake()
		must(t, k, []kernel.Op{netns, br, {Verb: kernel.Put, Obj: veth("m")}})
		k.EndNamespace(pod)
		if have := read(t, k); len(have) != 2 {
			t.Errorf("left: %v", have)
		}
	})
}
