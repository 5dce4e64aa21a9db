package kernel_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"weft/kernel"
	"weft/kernel/netnstest"
)

// nft runs f with a connection of another program to a namespace's tables.
func nft(t *testing.T, ns string, f func(*nftables.Conn) error) {
	t.Helper()
	netnstest.In(t, ns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		return f(c)
	})
}

func tables(t *testing.T, ns string) (names []string) {
	t.Helper()
	nft(t, ns, func(c *nftables.Conn) error {
		ts, err := c.ListTables()
		for _, t := range ts {
			names = append(names, t.Name)
		}
		return err
	})
	return names
}

// Every field, verdict, hook and type of set: what is put is what is read.
func TestTablesAreReadAsTheyWerePut(t *testing.T) {
	rule := func(v kernel.Verdict, ms ...kernel.Match) kernel.Rule { return kernel.Rule{If: ms, Verdict: v} }
	match := func(f kernel.Field, v string) kernel.Match { return kernel.Match{Field: f, Value: v} }
	not := func(f kernel.Field, v string) kernel.Match { return kernel.Match{Field: f, Not: true, Value: v} }
	sets := table().Sets
	for _, c := range []struct {
		link  string
		table kernel.Table
	}{
		{"inet weft", kernel.Table{}},
		{"inet weft", kernel.Table{Sets: sets}},
		{"inet weft-x", kernel.Table{Sets: sets, Chains: []kernel.Chain{
			{Name: "pre", Type: "filter", Hook: "prerouting", Priority: -300, Rules: []kernel.Rule{rule(kernel.Accept, match(kernel.InLink, "weft*"), not(kernel.OutLink, "eth0"))}},
			{Name: "fwd", Type: "filter", Hook: "forward", Priority: -5, Rules: []kernel.Rule{
				rule(kernel.Drop, match(kernel.SourceAddr, "@prefixes"), not(kernel.DestAddr, "@addrs")), rule(kernel.Accept, match(kernel.Established, "")), rule(kernel.Drop),
			}},
			{Name: "in", Type: "filter", Hook: "input", Rules: []kernel.Rule{rule(kernel.Drop, match(kernel.UDPDest, "4789"))}},
			{Name: "post", Type: "nat", Hook: "postrouting", Priority: 100, Rules: []kernel.Rule{rule(kernel.Masquerade, match(kernel.SourceAddr, "@prefixes"))}},
		}}},
		{"bridge weft", kernel.Table{Sets: sets, Chains: []kernel.Chain{{Name: "own", Type: "filter", Hook: "prerouting", Priority: -300, Rules: []kernel.Rule{
			rule(kernel.Accept, match(kernel.EtherType, "ip"), match(kernel.SourcePort, "@ports")),
			rule(kernel.Accept, match(kernel.EtherType, "arp"), match(kernel.ARPPort, "@ports"), match(kernel.ARPSender, "@ports")),
		}}}}},
	} {
		t.Run(fmt.Sprint(c.link, " ", c.table), func(t *testing.T) {
			ns := netnstest.NS(t, "host")
			dir := t.TempDir()
			k := open(t, ns, dir)
			t.Cleanup(func() { clearDir(t, dir) })
			want := state(object(kernel.KindTable, kernel.HostNS, c.link, "", c.table))
			for range 2 {
				must(t, k, kernel.Missing(want, nil))
				have, err := k.Read(t.Context(), []string{kernel.HostNS})
				if err != nil {
					t.Fatal(err)
				}
				if ops := kernel.Missing(want, have); len(ops) > 0 {
					t.Errorf("left: %v", ops)
				}
			}
		})
	}
}

func TestWhatCannotBeCompiledIsRefused(t *testing.T) {
	ns := netnstest.NS(t, "host")
	dir := t.TempDir()
	k := open(t, ns, dir)
	t.Cleanup(func() { clearDir(t, dir) })
	chain := func(hook string, r kernel.Rule) kernel.Table {
		return kernel.Table{Chains: []kernel.Chain{{Name: "c", Type: "filter", Hook: hook, Rules: []kernel.Rule{r}}}}
	}
	ok := kernel.Rule{Verdict: kernel.Drop}
	for what, op := range map[string]kernel.Object{
		"no nftables table":   object(kernel.KindTable, kernel.HostNS, "arp weft", "", kernel.Table{}),
		"unknown hook":        object(kernel.KindTable, kernel.HostNS, "inet weft", "", chain("ingress", ok)),
		"unknown verdict":     object(kernel.KindTable, kernel.HostNS, "inet weft", "", chain("input", kernel.Rule{Verdict: "queue"})),
		"unknown field":       object(kernel.KindTable, kernel.HostNS, "inet weft", "", chain("input", kernel.Rule{If: []kernel.Match{{Field: "tcp sport"}}, Verdict: kernel.Drop})),
		"interface name":      object(kernel.KindTable, kernel.HostNS, "inet weft", "", chain("input", kernel.Rule{If: []kernel.Match{{Field: kernel.InLink, Value: strings.Repeat("x", 16)}}, Verdict: kernel.Drop})),
		"protocol":            object(kernel.KindTable, kernel.HostNS, "inet weft", "", chain("input", kernel.Rule{If: []kernel.Match{{Field: kernel.EtherType, Value: "ipx"}}, Verdict: kernel.Drop})),
		"unknown type of set": object(kernel.KindTable, kernel.HostNS, "inet weft", "", kernel.Table{Sets: []kernel.Set{{Name: "s", Type: "port range"}}}),
		"want 3 words":        object(kernel.KindElement, kernel.HostNS, "inet weft s", "ep1 10.0.0.1", kernel.Element{Type: kernel.SetPort}),
		"no IPv4 address":     object(kernel.KindElement, kernel.HostNS, "inet weft s", "2001:db8::1", kernel.Element{Type: kernel.SetAddr}),
	} {
		err := k.Apply(t.Context(), []kernel.Op{{Verb: kernel.Put, Obj: op}})[0]
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if got := tables(t, ns); len(got) > 0 {
		t.Errorf("something was made: %v", got)
	}
}

// What others do to weft's table is found and undone, and its sets keep what they hold meanwhile.
func TestTamperedTablesAreMadeAnew(t *testing.T) {
	tab := &nftables.Table{Family: nftables.TableFamilyINet, Name: "weft"}
	in := &nftables.Chain{Table: tab, Name: "in"}
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	accept := nftables.ChainPolicyAccept
	for name, tamper := range map[string]func(*nftables.Conn) error{
		"a rule is added": func(c *nftables.Conn) error {
			c.InsertRule(&nftables.Rule{Table: tab, Chain: in, Exprs: drop})
			return nil
		},
		"a rule is replaced": func(c *nftables.Conn) error {
			rules, err := c.GetRules(tab, in)
			if err == nil {
				c.ReplaceRule(&nftables.Rule{Table: tab, Chain: in, Handle: rules[0].Handle, Exprs: drop})
			}
			return err
		},
		"a rule is deleted": func(c *nftables.Conn) error {
			rules, err := c.GetRules(tab, in)
			if err != nil {
				return err
			}
			return c.DelRule(rules[0])
		},
		"one chain is flushed": func(c *nftables.Conn) error { c.FlushChain(in); return nil },
		"a chain is added": func(c *nftables.Conn) error {
			c.AddChain(&nftables.Chain{Table: tab, Name: "mine", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &accept})
			return nil
		},
		"a set is added": func(c *nftables.Conn) error {
			return c.AddSet(&nftables.Set{Table: tab, Name: "mine", KeyType: nftables.TypeIPAddr}, nil)
		},
		"the table is deleted": func(c *nftables.Conn) error { c.DelTable(tab); return nil },
		"an element is missing": func(c *nftables.Conn) error {
			set := &nftables.Set{Table: tab, Name: "addrs", KeyType: nftables.TypeIPAddr}
			return c.SetDeleteElements(set, []nftables.SetElement{{Key: []byte{192, 0, 2, 7}}})
		},
		"an element is too many": func(c *nftables.Conn) error {
			set := &nftables.Set{Table: tab, Name: "addrs", KeyType: nftables.TypeIPAddr}
			return c.SetAddElements(set, []nftables.SetElement{{Key: []byte{192, 0, 2, 99}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := netnstest.NS(t, "host")
			dir := t.TempDir()
			k := open(t, ns, dir)
			t.Cleanup(func() { clearDir(t, dir) })
			want := kernel.State{}
			for key, o := range (subject{dir: dir}).every("a", 1) {
				if key.Kind >= kernel.KindTable {
					key.NS = kernel.HostNS
					want.Add(kernel.Object{Key: key, Spec: o.Spec})
				}
			}
			for i := range 1200 { // more than one message of netlink takes
				want.Add(object(kernel.KindElement, kernel.HostNS, "inet weft addrs", fmt.Sprintf("198.18.%d.%d", i/250, i%250), kernel.Element{Type: kernel.SetAddr}))
			}
			must(t, k, kernel.Missing(want, nil))
			nft(t, ns, func(c *nftables.Conn) error {
				if err := tamper(c); err != nil {
					return err
				}
				return c.Flush()
			})
			have, err := k.Read(t.Context(), []string{kernel.HostNS})
			if err != nil {
				t.Fatal(err)
			}
			if len(kernel.Diff(want, have)) == 0 {
				t.Fatal("it was not found")
			}
			for _, op := range kernel.Diff(want, have) { // the table alone keeps the elements
				if op.Obj.Kind == kernel.KindTable || name == "an element is missing" || name == "an element is too many" || name == "the table is deleted" {
					must(t, k, []kernel.Op{op})
				}
			}
			if have, err = k.Read(t.Context(), []string{kernel.HostNS}); err != nil {
				t.Fatal(err)
			}
			maps.DeleteFunc(have, func(k kernel.Key, _ kernel.Object) bool { return k.Kind == kernel.KindSysctl })
			if ops := kernel.Diff(want, have); len(ops) > 0 {
				t.Errorf("left: %v", ops)
			}
		})
	}
}

// Prefixes that overlap what is there are refused, and those beside them are not.
func TestOverlappingPrefixes(t *testing.T) {
	dir := t.TempDir()
	k := open(t, netnstest.NS(t, "host"), dir)
	t.Cleanup(func() { clearDir(t, dir) })
	put := func(p string) kernel.Op {
		return kernel.Op{Verb: kernel.Put, Obj: object(kernel.KindElement, kernel.HostNS, "inet weft prefixes", p, kernel.Element{Type: kernel.SetPrefix})}
	}
	must(t, k, []kernel.Op{{Verb: kernel.Put, Obj: object(kernel.KindTable, kernel.HostNS, "inet weft", "", table())}, put("10.1.0.0/16"), put("10.3.0.0/16")})
	errs := k.Apply(t.Context(), []kernel.Op{put("10.1.0.0/16"), put("10.2.0.0/16"), put("10.0.0.0/8"), put("10.4.0.0/16")})
	for i, bad := range []bool{false, false, true, false} {
		if bad != (errs[i] != nil) {
			t.Errorf("%d: %v", i, errs[i])
		}
	}
	have, err := k.Read(t.Context(), []string{kernel.HostNS})
	if err != nil {
		t.Fatal(err)
	}
	want := state(put("10.1.0.0/16").Obj, put("10.2.0.0/16").Obj, put("10.3.0.0/16").Obj, put("10.4.0.0/16").Obj)
	if ops := kernel.Missing(want, have); len(ops) > 0 {
		t.Errorf("left: %v", ops)
	}
	last := put("240.0.0.0/4")
	must(t, k, []kernel.Op{last})
	if have, err = k.Read(t.Context(), []string{kernel.HostNS}); err != nil || len(kernel.Missing(state(last.Obj), have)) > 0 {
		t.Errorf("the last prefix is read as %v, %v", have, err)
	}
	must(t, k, []kernel.Op{{Verb: kernel.Del, Obj: last.Obj}})
	// Neighbours that touch are told apart.
	must(t, k, []kernel.Op{{Verb: kernel.Del, Obj: put("10.2.0.0/16").Obj}})
	if have, err = k.Read(t.Context(), []string{kernel.HostNS}); err != nil {
		t.Fatal(err)
	}
	delete(want, put("10.2.0.0/16").Obj.Key)
	maps.DeleteFunc(have, func(k kernel.Key, _ kernel.Object) bool { return k.Kind == kernel.KindGuest })
	if ops := kernel.Missing(want, have); len(ops) > 0 || len(have) != 6 { // and two sysctls
		t.Errorf("left: %v of %v", ops, have)
	}
}
