package kernel_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

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
