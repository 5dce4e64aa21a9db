package command

import (
	"strings"
	"testing"

	weftv1 "weft/proto/weft/v1"
)

func TestAliasesAndLinksThatCannotBe(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"network connect --alias ,mode=vip n c":         "the name is empty",
		"network connect --alias a,mode=swarm n c":      `invalid mode "swarm" of alias a`,
		"network connect --alias a,weight=2 n c":        "write NAME, or NAME,mode=vip",
		"network connect --link :x n c":                 "bad format for links: :x",
		"network connect --link x: n c":                 "bad format for links: x:",
		"network connect --link x:y:z n c":              "bad format for links: x:y:z",
		"run --network n --link a:b:c x":                "bad format for links: a:b:c",
		"run --network n --network-alias a,mode=none x": `invalid mode "none"`,
		"run --network name=n,mode=vip x":               "stands before the alias",
	} {
		r := newShell(t).run(strings.Fields(args)...)
		if r.code == 0 || !strings.Contains(r.err, want) {
			t.Errorf("weft %s: exit %d, %s; want %s", args, r.code, r.err, want)
		}
	}
}

func FuzzAlias(f *testing.F) {
	for _, s := range []string{"a", "a,mode=vip", "a,mode=", ",", "a,MODE=VIP", "a,mode=vip,mode=dns"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a := &weftv1.Attachment{}
		if err := addAlias(a, s); err != nil {
			return
		}
		if len(a.Aliases) != 1 || a.Aliases[0] == "" || strings.Contains(a.Aliases[0], ",") {
			t.Errorf("%q is read as %v", s, a.Aliases)
		}
		if len(a.VipAliases) > 1 || len(a.VipAliases) == 1 && a.VipAliases[0] != a.Aliases[0] {
			t.Errorf("%q: virtual are %v of %v", s, a.VipAliases, a.Aliases)
		}
	})
}

func FuzzLink(f *testing.F) {
	for _, s := range []string{"a", "a:b", ":", "a:", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parseLink(s)
		if err == nil && (l.Target == "" || l.Alias == "" || strings.Contains(l.Target+l.Alias, ":")) {
			t.Errorf("%q is read as %v", s, l)
		}
	})
}
