package kernel_test

import (
	"strings"
	"testing"

	"weft/kernel"
	"weft/kernel/netnstest"
)

// What drops by its policy is named with a remedy, and the remedy, done as it says, is enough.
func TestObstaclesAreNamedWithTheirRemedy(t *testing.T) {
	const mark = 0x20000000
	for name, tc := range map[string]struct {
		six  bool
		make []string // what the neighbour does
		want string   // "" for nothing in the way
	}{
		"nobody":                       {make: nil},
		"iptables accepts":             {make: []string{"iptables-nft -P FORWARD ACCEPT"}},
		"iptables drops":               {make: []string{"iptables-nft -P FORWARD DROP"}, want: "chain FORWARD of nftables table ip filter drops"},
		"only what comes in":           {make: []string{"iptables-nft -P INPUT DROP"}},
		"IPv6 does not matter":         {make: []string{"ip6tables-nft -P FORWARD DROP"}},
		"IPv6 matters":                 {make: []string{"ip6tables-nft -P FORWARD DROP"}, six: true, want: "chain FORWARD of nftables table ip6 filter drops"},
		"a table of the user's":        {make: []string{"nft add table inet mine", "nft add chain inet mine ours { type filter hook forward priority 0 ; policy drop ; }"}, want: "chain ours of nftables table inet mine drops"},
		"the old iptables":             {make: []string{"iptables-legacy -P FORWARD DROP"}, want: "chain FORWARD of iptables-legacy drops"},
		"the old iptables accepts":     {make: []string{"iptables-legacy -P INPUT DROP"}},
		"Docker, with a place for all": {make: []string{"iptables-nft -P FORWARD DROP", "iptables-nft -N DOCKER-USER", "guest"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns, dir := netnstest.NS(t, "host"), t.TempDir()
			k := open(t, ns, dir)
			t.Cleanup(func() { clearDir(t, dir) })
			for _, line := range tc.make {
				if line == "guest" {
					must(t, k, []kernel.Op{{Verb: kernel.Put, Obj: guest("ip")}})
					continue
				}
				run(t, ns, strings.Fields(line)...)
			}
			obstacles := func() []string {
				got, err := k.Obstacles(t.Context(), mark, tc.six)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			got := obstacles()
			if tc.want == "" {
				if len(got) > 0 {
					t.Errorf("in the way: %q", got)
				}
				return
			}
			if len(got) != 1 || !strings.HasPrefix(got[0], tc.want) {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
			_, remedy, _ := strings.Cut(got[0], ": ")
			run(t, ns, strings.Fields(remedy)...)
			if got := obstacles(); len(got) > 0 {
				t.Errorf("after %s: %q", remedy, got)
			}
		})
	}
}

func TestHasTable(t *testing.T) {
	ns, dir := netnstest.NS(t, "host"), t.TempDir()
	k := open(t, ns, dir)
	t.Cleanup(func() { clearDir(t, dir) })
	run(t, ns, "nft", "add", "table", "inet", "firewalld")
	for link, want := range map[string]bool{"inet firewalld": true, "ip firewalld": false, "inet firewall": false} {
		if has, err := k.HasTable(t.Context(), link); err != nil || has != want {
			t.Errorf("%s: %v, %v", link, has, err)
		}
	}
}
