package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// tables returns the namespace's nftables connection.
func (c *conn) tables() (*nftables.Conn, error) {
	if c.nft == nil {
		n, err := nftables.New(nftables.WithNetNSFd(int(c.ns.Fd())), nftables.AsLasting())
		if err != nil {
			return nil, fmt.Errorf("open nftables: %w", err)
		}
		c.nft = n
	}
	return c.nft, nil
}

// broken drops the connection after an error: what it had queued must not go out with the next one's.
func (c *conn) broken() {
	if c.nft != nil {
		_ = c.nft.CloseLasting()
		c.nft = nil
	}
}

// applyTable replaces a table, with its sets' elements kept, in one transaction; or deletes it.
func applyTable(c *conn, o Op) error {
	n, err := c.tables()
	if err != nil {
		return err
	}
	t, err := tableOf(o.Obj.Link)
	if err != nil {
		return err
	}
	if o.Verb == Del {
		n.DelTable(t)
		if err := n.Flush(); err != nil {
			c.broken()
			if !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete nftables table: %w", err)
			}
		}
		return nil
	}
	kept, err := elementsIn(n, t)
	if err != nil {
		c.broken()
		return err
	}
	if err := queueTable(n, t, o.Obj.Spec.(Table), kept); err != nil {
		c.broken()
		return err
	}
	if err := n.Flush(); err != nil {
		c.broken()
		return fmt.Errorf("replace nftables table: %w", err)
	}
	return nil
}

func queueTable(n *nftables.Conn, t *nftables.Table, spec Table, kept map[string][]nftables.SetElement) error {
	n.AddTable(t) // so that the delete finds one
	n.DelTable(t)
	n.AddTable(t)
	for _, s := range spec.Sets {
		set, err := setOf(t, s)
		if err != nil {
			return err
		}
		if err := n.AddSet(set, kept[s.Name]); err != nil {
			return fmt.Errorf("add nftables set %s: %w", s.Name, err)
		}
	}
	n.AddChain(&nftables.Chain{Table: t, Name: spec.mark()})
	for _, c := range spec.Chains {
		chain, err := chainOf(t, c)
		if err != nil {
			return err
		}
		n.AddChain(chain)
		for _, r := range c.Rules {
			es, err := compile(r)
			if err != nil {
				return err
			}
			n.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: es})
		}
	}
	return nil
}

// elementsIn returns what the sets of a table hold, if there is one.
func elementsIn(n *nftables.Conn, t *nftables.Table) (map[string][]nftables.SetElement, error) {
	out := map[string][]nftables.SetElement{}
	there, err := n.ListTableOfFamily(t.Name, t.Family)
	if there == nil || err != nil {
		return out, nil // none: the error says so in words only
	}
	sets, err := n.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("list nftables sets: %w", err)
	}
	for _, s := range sets {
		if out[s.Name], err = n.GetSetElements(s); err != nil {
			return nil, fmt.Errorf("list nftables set %s: %w", s.Name, err)
		}
	}
	return out, nil
}

// applyElements adds or deletes elements of one set, all at once; where that fails, one by one, to find out which.
func applyElements(c *conn, ops []Op) []error {
	errs := make([]error, len(ops))
	err := changeElements(c, ops)
	if err == nil {
		return errs
	}
	if len(ops) == 1 {
		if ops[0].Verb == Del && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)) {
			err = nil
		}
		errs[0] = err
		return errs
	}
	for i := range ops {
		errs[i] = applyElements(c, ops[i:i+1])[0]
	}
	return errs
}

func changeElements(c *conn, ops []Op) error {
	n, err := c.tables()
	if err != nil {
		return err
	}
	t, err := tableOf(ops[0].Obj.Link)
	if err != nil {
		return err
	}
	name := ops[0].Obj.Link[strings.LastIndexByte(ops[0].Obj.Link, ' ')+1:]
	typ := ops[0].Obj.Spec.(Element).Type
	set, err := setOf(t, Set{Name: name, Type: typ})
	if err != nil {
		return err
	}
	var es []nftables.SetElement
	for _, o := range ops {
		e, err := elementsOf(typ, o.Obj.Dst)
		if err != nil {
			return err
		}
		es = append(es, e...)
	}
	if ops[0].Verb == Put {
		err = n.SetAddElements(set, es)
	} else {
		err = n.SetDeleteElements(set, es)
	}
	if err == nil {
		err = n.Flush()
	}
	if err != nil {
		c.broken()
		if ops[0].Verb == Put && typ == SetPrefix && errors.Is(err, unix.EEXIST) {
			return nil // there already
		}
		return fmt.Errorf("change nftables set %s: %w", name, err)
	}
	return nil
}

const ownTable = "weft"

// readTables adds weft's tables and what their sets hold.
func readTables(c *conn, ns string, out State) error {
	n, err := c.tables()
	if err != nil {
		return err
	}
	tables, err := n.ListTables()
	if err != nil {
		c.broken()
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name != ownTable && !strings.HasPrefix(t.Name, ownTable+"-") {
			continue
		}
		if err := readOwnTable(n, t, ns, out); err != nil {
			c.broken()
			return err
		}
	}
	return nil
}

func readOwnTable(n *nftables.Conn, t *nftables.Table, ns string, out State) error {
	family := ""
	for name, f := range families {
		if f == t.Family {
			family = name
		}
	}
	if family == "" {
		return nil
	}
	chains, err := n.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	mark, rules := "", 0
	for _, ch := range chains {
		if ch.Table.Name != t.Name {
			continue
		}
		if strings.HasPrefix(ch.Name, markPrefix) {
			mark = ch.Name
			continue
		}
		rs, err := n.GetRules(t, ch)
		if err != nil {
			return fmt.Errorf("list nftables rules: %w", err)
		}
		rules += len(rs)
	}
	if !strings.HasSuffix(mark, fmt.Sprintf("-%d", rules)) {
		mark = "" // someone flushed or added
	}
	link := family + " " + t.Name
	out.Add(Object{Key: Key{Kind: KindTable, NS: ns, Link: link}, Spec: readTable{mark: mark}})
	sets, err := n.GetSets(t)
	if err != nil {
		return fmt.Errorf("list nftables sets: %w", err)
	}
	for _, s := range sets {
		typ := SetAddr
		if s.Interval {
			typ = SetPrefix
		} else if s.Concatenation || s.KeyType.Bytes > 4 {
			typ = SetPort
		}
		es, err := n.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("list nftables set %s: %w", s.Name, err)
		}
		for _, e := range textOf(typ, es) {
			out.Add(Object{Key: Key{Kind: KindElement, NS: ns, Link: link + " " + s.Name, Dst: e}, Spec: Element{Type: typ}})
		}
	}
	return nil
}
