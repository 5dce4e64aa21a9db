package kernel_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weft/kernel"
	"weft/kernel/netnstest"
)

var update = flag.Bool("update", false, "write what nft lists into testdata")

// rules makes a table of one chain with these rules.
func rules(chain kernel.Chain, rs ...kernel.Rule) kernel.Table {
	chain.Rules = rs
	return kernel.Table{
		Sets: []kernel.Set{
			{Name: "a4", Type: kernel.SetAddr}, {Name: "a6", Type: kernel.SetAddr6}, {Name: "p4", Type: kernel.SetPrefix}, {Name: "p6", Type: kernel.SetPrefix6},
			{Name: "links", Type: kernel.SetLink}, {Name: "pairs", Type: kernel.SetLinks}, {Name: "gates4", Type: kernel.SetLinkAddr}, {Name: "gates6", Type: kernel.SetLinkAddr6},
			{Name: "ports4", Type: kernel.SetPort}, {Name: "ports6", Type: kernel.SetPort6}, {Name: "talk4", Type: kernel.SetTalk}, {Name: "talk6", Type: kernel.SetTalk6},
			{Name: "open4", Type: kernel.MapService}, {Name: "open6", Type: kernel.MapService6}, {Name: "bound4", Type: kernel.MapDestService},
			{Name: "bound6", Type: kernel.MapDestService6}, {Name: "members4", Type: kernel.MapMember}, {Name: "members6", Type: kernel.MapMember6},
		},
		Chains: []kernel.Chain{chain, {Name: "own", Rules: []kernel.Rule{{Verdict: kernel.Return}}}},
	}
}

func rule(v kernel.Verdict, ms ...kernel.Match) kernel.Rule { return kernel.Rule{If: ms, Verdict: v} }

func is(f kernel.Field, v string) kernel.Match { return kernel.Match{Field: f, Value: v} }

func isNot(f kernel.Field, v string) kernel.Match { return kernel.Match{Field: f, Not: true, Value: v} }

// listed are tables that have every field and verdict, in every family.
func listed() map[string]kernel.Table {
	filter := kernel.Chain{Name: "c", Type: "filter", Hook: "forward", Priority: -5}
	return map[string]kernel.Table{
		"inet weft": rules(filter,
			rule(kernel.Accept, is(kernel.InLink, "weft*"), isNot(kernel.OutLink, "eth0")), rule(kernel.Drop, is(kernel.InLink, "@links"), isNot(kernel.OutLink, "@links")),
			rule(kernel.Accept, is(kernel.InOut, "@pairs")), rule(kernel.Drop, isNot(kernel.InDest, "@gates4")), rule(kernel.Drop, isNot(kernel.InDest6, "@gates6")),
			rule(kernel.Accept, is(kernel.Family, "ipv4")), rule(kernel.Accept, isNot(kernel.Family, "ipv6")),
			rule(kernel.Accept, is(kernel.SourceAddr, "192.0.2.1"), isNot(kernel.DestAddr, "10.0.0.0/8")), rule(kernel.Accept, is(kernel.SourceAddr, "@p4"), isNot(kernel.DestAddr, "@a4")),
			rule(kernel.Accept, is(kernel.SourceAddr6, "2001:db8::1"), isNot(kernel.DestAddr6, "fe80::/10")), rule(kernel.Accept, is(kernel.SourceAddr6, "@p6"), isNot(kernel.DestAddr6, "@a6")),
			rule(kernel.Accept, is(kernel.Protocol, "tcp")), rule(kernel.Accept, is(kernel.TCPDest, "80")), rule(kernel.Accept, isNot(kernel.UDPDest, "4789")),
			rule(kernel.Accept, is(kernel.ICMP6Type, "135")), rule(kernel.Accept, is(kernel.Established, "")), rule(kernel.Accept, isNot(kernel.Established, "new,untracked")),
			rule(kernel.Accept, is(kernel.CTStatus, "dnat")), rule(kernel.Accept, isNot(kernel.CTStatus, "snat")), rule(kernel.Accept, is(kernel.CTDirection, "reply")),
			rule(kernel.Accept, is(kernel.Mark, "0x10/0x10")), rule(kernel.Accept, isNot(kernel.CTMark, "7")),
			rule(kernel.Accept, is(kernel.Asked, "@talk4")), rule(kernel.Accept, is(kernel.Answered, "@talk4")), rule(kernel.Accept, is(kernel.Asked6, "@talk6")), rule(kernel.Accept, is(kernel.Answered6, "@talk6")),
			kernel.Rule{Verdict: kernel.SetMark, To: "0x10/0x30"}, kernel.Rule{Verdict: kernel.SetCTMark, To: "7"}, kernel.Rule{Verdict: kernel.Jump, To: "own"},
			rule(kernel.Reject), rule(kernel.Drop),
		),
		"inet weft-nat": rules(kernel.Chain{Name: "c", Type: "nat", Hook: "prerouting", Priority: -100},
			kernel.Rule{If: []kernel.Match{is(kernel.DestType, "local")}, Verdict: kernel.DNAT, By: kernel.DestService, To: "@bound4"},
			kernel.Rule{If: []kernel.Match{isNot(kernel.DestType, "local")}, Verdict: kernel.DNAT, By: kernel.DestService6, To: "@bound6"},
			kernel.Rule{Verdict: kernel.DNAT, By: kernel.Service, To: "@open4"}, kernel.Rule{Verdict: kernel.DNAT, By: kernel.Service, To: "@open6"},
			kernel.Rule{Verdict: kernel.DNAT, By: kernel.Random, Of: 3, To: "@members4"}, kernel.Rule{Verdict: kernel.DNAT, By: kernel.Random, Of: 2, To: "@members6"},
			kernel.Rule{Verdict: kernel.DNAT, To: "10.0.0.2"}, kernel.Rule{Verdict: kernel.DNAT, To: "[fd00::2]:80"},
		),
		"ip weft-nat": rules(kernel.Chain{Name: "c", Type: "nat", Hook: "output", Priority: -100}, kernel.Rule{Verdict: kernel.DNAT, To: "10.0.0.2:80"}),
		"ip6 weft":    rules(kernel.Chain{Name: "c", Type: "filter", Hook: "prerouting", Priority: -300}, rule(kernel.NoTrack, is(kernel.SourceAddr6, "@p6"))),
		"ip weft":     rules(kernel.Chain{Name: "c", Type: "nat", Hook: "postrouting", Priority: 100}, rule(kernel.Masquerade, is(kernel.SourceAddr, "@p4"))),
		"bridge weft": rules(kernel.Chain{Name: "c", Type: "filter", Hook: "prerouting", Priority: -300},
			rule(kernel.Accept, is(kernel.EtherType, "ip"), is(kernel.SourcePort, "@ports4")),
			rule(kernel.Accept, is(kernel.EtherType, "ip6"), is(kernel.ICMP6Type, "136"), is(kernel.NDTarget, "@ports6")),
			rule(kernel.Accept, isNot(kernel.EtherType, "arp"), is(kernel.SourcePort6, "@ports6")),
			rule(kernel.Accept, is(kernel.ARPPort, "@ports4"), is(kernel.ARPSender, "@ports4")), rule(kernel.Accept, is(kernel.Asked, "@talk4"), isNot(kernel.SourceAddr, "10.0.0.0/8")),
		),
	}
}

// What is put is what the nft program understands, and what is read back.
func TestTablesAreListedByNft(t *testing.T) {
	for link, table := range listed() {
		name := strings.ReplaceAll(link, " ", "-")
		t.Run(name, func(t *testing.T) {
			ns, dir := netnstest.NS(t, "host"), t.TempDir()
			k := open(t, ns, dir)
			t.Cleanup(func() { clearDir(t, dir) })
			want := state(object(kernel.KindTable, kernel.HostNS, link, "", table))
			for range 2 {
				must(t, k, kernel.Missing(want, nil))
			}
			have, err := k.Read(t.Context(), []string{kernel.HostNS})
			if err != nil {
				t.Fatal(err)
			}
			if ops := kernel.Missing(want, have); len(ops) > 0 {
				t.Errorf("left: %v", ops)
			}
			golden(t, filepath.Join("nft", name+".txt"), nftList(t, ns))
		})
	}
}

// nftList is what the nft program says of a namespace.
func nftList(t *testing.T, ns string) string {
	t.Helper()
	out, err := exec.Command("nsenter", "--net="+ns, "nft", "-n", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list ruleset: %v: %s", err, out)
	}
	return string(out)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
