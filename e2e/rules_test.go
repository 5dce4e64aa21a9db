package e2e

import (
	"fmt"
	"strings"

	"github.com/google/nftables"

	"weft/e2e/lab"
)

// ruleset is what nftables holds in a namespace, as lines that can be compared.
func ruleset(ns string) (string, error) {
	var b strings.Builder
	err := lab.Within(ns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		if err != nil {
			return err
		}
		for _, t := range tables {
			fmt.Fprintf(&b, "table %d %s\n", t.Family, t.Name)
			sets, err := c.GetSets(t)
			if err != nil {
				return err
			}
			for _, s := range sets {
				es, err := c.GetSetElements(s)
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, "  set %s: %d elements\n", s.Name, len(es))
				for _, e := range es {
					fmt.Fprintf(&b, "    %x\n", e.Key)
				}
			}
		}
		chains, err := c.ListChains()
		if err != nil {
			return err
		}
		for _, ch := range chains {
			rules, err := c.GetRules(ch.Table, ch)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "  chain %s: %d rules\n", ch.Name, len(rules))
		}
		return nil
	})
	return b.String(), err
}
