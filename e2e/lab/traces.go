package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Traces are what `ip netns`, `ip link` and `nft list ruleset` show on the machine itself, by name.
type Traces struct {
	Namespaces, Links, Tables []string
}

// Look reads the machine's.
func Look() (Traces, error) {
	var t Traces
	es, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return t, fmt.Errorf("list network namespaces: %w", err)
	}
	for _, e := range es {
		t.Namespaces = append(t.Namespaces, e.Name())
	}
	links, err := netlink.LinkList()
	if err != nil {
		return t, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		t.Links = append(t.Links, l.Attrs().Name)
	}
	c, err := nftables.New()
	if err != nil {
		return t, fmt.Errorf("list nftables: %w", err)
	}
	tables, err := c.ListTables()
	if err != nil {
		return t, fmt.Errorf("list nftables: %w", err)
	}
	for _, x := range tables {
		t.Tables = append(t.Tables, fmt.Sprintf("%d %s", x.Family, x.Name))
	}
	return t, nil
}

// Since lists what was not there before.
func (t Traces) Since(before Traces) []string {
	var out []string
	for _, k := range []struct {
		what      string
		now, then []string
	}{{"network namespace", t.Namespaces, before.Namespaces}, {"link", t.Links, before.Links}, {"nftables table", t.Tables, before.Tables}} {
		for _, n := range k.now {
			if !slices.Contains(k.then, n) {
				out = append(out, k.what+" "+n)
			}
		}
	}
	return out
}
