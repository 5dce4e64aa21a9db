package kernel_test

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/kernel"
	"weft/kernel/netnstest"
)

// run runs a program in a namespace, as a user or another daemon would, and returns what it prints.
func run(t *testing.T, ns string, args ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + ns}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// dockerUser makes the chain as Docker does, with a rule of the user's.
func dockerUser(t *testing.T, ns, iptables string) {
	t.Helper()
	for _, args := range [][]string{
		{"-N", "DOCKER-USER"}, {"-A", "DOCKER-USER", "-i", "eth9", "-m", "comment", "--comment", "mine", "-j", "DROP"}, {"-A", "DOCKER-USER", "-j", "RETURN"},
		{"-I", "FORWARD", "-j", "DOCKER-USER"}, {"-P", "FORWARD", "DROP"},
	} {
		run(t, ns, append([]string{iptables}, args...)...)
	}
}

func guest(family string) kernel.Object {
	return object(kernel.KindGuest, kernel.HostNS, family+" filter DOCKER-USER", kernel.GuestName, kernel.Guest{Mark: 0x20000000})
}

func TestAGuestsRule(t *testing.T) {
	for family, iptables := range map[string]string{"ip": "iptables-nft", "ip6": "ip6tables-nft"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			ns, dir := netnstest.NS(t, "host"), t.TempDir()
			k := open(t, ns, dir)
			t.Cleanup(func() { clearDir(t, dir) })
			want := state(guest(family))
			read := func() kernel.State {
				t.Helper()
				have, err := k.Read(t.Context(), []string{kernel.HostNS})
				if err != nil {
					t.Fatal(err)
				}
				for key := range have {
					if key.Kind == kernel.KindSysctl {
						delete(have, key)
					}
				}
				return have
			}
			rules := func() []string {
				return slices.DeleteFunc(strings.Split(run(t, ns, iptables, "-S"), "\n"), func(s string) bool { return s == "" })
			}

			must(t, k, kernel.Missing(want, nil)) // no chain yet: nothing to do, and no error
			if ops := append(kernel.Diff(want, read()), kernel.Diff(nil, read())...); len(ops) > 0 {
				t.Errorf("without the chain: %v", ops)
			}
			must(t, k, kernel.Diff(nil, want))

			dockerUser(t, ns, iptables)
			before := rules()
			for range 2 {
				must(t, k, kernel.Missing(want, nil))
				if ops := kernel.Diff(want, read()); len(ops) > 0 {
					t.Fatalf("left: %v", ops)
				}
			}
			const mine = `-A DOCKER-USER -m mark --mark 0x20000000/0x20000000 -m comment --comment "weft: what its own rules let pass" -j ACCEPT`
			at := slices.Index(before, `-A DOCKER-USER -i eth9 -m comment --comment mine -j DROP`)
			if at < 0 {
				t.Fatalf("the check itself does not work: %q", before)
			}
			if got, want := rules(), slices.Insert(slices.Clone(before), at, mine); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}

			run(t, ns, iptables, "-F", "DOCKER-USER")
			if ops := kernel.Diff(want, read()); len(ops) != 1 {
				t.Errorf("after a flush: %v", ops)
			}
			must(t, k, kernel.Diff(want, read()))
			if got := rules(); !slices.Contains(got, mine) {
				t.Errorf("it was not put back: %q", got)
			}
			must(t, k, []kernel.Op{{Verb: kernel.Put, Obj: object(kernel.KindGuest, kernel.HostNS, family+" filter DOCKER-USER", kernel.GuestName, kernel.Guest{Mark: 0x10})}})
			if ops := kernel.Diff(want, read()); len(ops) != 1 {
				t.Errorf("with another mark: %v", ops)
			}
			must(t, k, kernel.Diff(want, read()))
			must(t, k, kernel.Diff(nil, read()))
			if got := strings.Join(rules(), "\n"); strings.Contains(got, "weft") {
				t.Errorf("it is still there: %s", got)
			}
		})
	}
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
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan []kernel.Change), make(chan error, 1)
	go func() { done <- k.Watch(ctx, changes) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	bridge := object(kernel.KindBridge, kernel.HostNS, "br-mine", "", kernel.Bridge{MAC: "06:00:00:00:00:06", MTU: 1400, Owner: "0123"})
	want := state(bridge, object(kernel.KindAddr, kernel.HostNS, "br-mine", "10.11.0.1/24", kernel.Addr{}), object(kernel.KindTable, kernel.HostNS, "inet weft", "", table()),
		object(kernel.KindRoute, kernel.HostNS, "br-mine", "10.12.0.0/24", kernel.Route{}), guest("ip"))
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

	dockerUser(t, ns, "iptables-nft")
	changed(t, changes, key(kernel.KindGuest, "ip filter DOCKER-USER"))
	must(t, k, kernel.Missing(want, nil))
	must(t, k, []kernel.Op{{Verb: kernel.Put, Obj: object(kernel.KindElement, kernel.HostNS, "inet weft addrs", "192.0.2.7", kernel.Element{Type: kernel.SetAddr})}})
	run(t, ns, "ip", "link", "delete", "sign0")
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
	run(t, ns, "ip", "link", "set", "br-mine", "down")
	changed(t, changes, key(kernel.KindVeth, "br-mine"))
	run(t, ns, "ip", "link", "delete", "br-mine")
	changed(t, changes, key(kernel.KindVeth, "br-mine"))
	run(t, ns, "nft", "flush", "ruleset")
	changed(t, changes, key(kernel.KindTable, "inet weft"))
}
