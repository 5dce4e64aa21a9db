package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// applyTable replaces a table, with its sets' elements kept, in one transaction; or deletes it. Each time has a connection of its own: what
// an error left queued, or unread, must not meet the next one's.
func applyTable(ctx context.Context, c *conn, o Op) error {
	t, err := tableOf(o.Obj.Link)
	if err != nil {
		return err
	}
	n, err := c.tables()
	if err != nil {
		return err
	}
	defer func() { _ = n.CloseLasting() }()
	if o.Verb == Del {
		n.DelTable(t)
		if err := n.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete nftables table: %w", err)
		}
		return nil
	}
	if b, ok := o.Obj.Spec.(Balance); ok {
		there, err := elementsIn(ctx, c, tableID{uint8(t.Family), t.Name}, nil)
		if err != nil {
			return err
		}
		return putBalance(c, t, b, there != nil)
	}
	spec := o.Obj.Spec.(Table)
	kept, err := elementsIn(ctx, c, tableID{uint8(t.Family), t.Name}, spec.Sets)
	if err != nil {
		return err
	}
	if kept != nil { // only then: closing the connection waits for what a delete in it leaves to the kernel, about 10 ms
		n.DelTable(t)
	}
	if err = queueTable(n, t, spec, kept); err == nil {
		err = n.Flush()
	}
	if err != nil {
		return fmt.Errorf("replace nftables table: %w", err)
	}
	return nil
}

// tables opens a connection for one transaction.
func (c *conn) tables() (*nftables.Conn, error) {
	n, err := nftables.New(nftables.WithNetNSFd(int(c.ns.Fd())), nftables.AsLasting(), nftables.WithSockOptions(func(s *netlink.Conn) error {
		raw, err := s.SyscallConn()
		if err != nil {
			return err
		}
		return errors.Join(raw.Control(func(fd uintptr) { err = c.mine.addSocket(int(fd)) }), err)
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return n, nil
}

// ruleComment is what `nft list` shows beside every rule as its comment: a type (0), a length and a string.
var ruleComment = []byte("\x00\x05weft\x00")

func queueTable(n *nftables.Conn, t *nftables.Table, spec Table, kept map[string][]element) error {
	n.AddTable(t)
	for i, s := range spec.Sets {
		if err := queueSet(n, t, s, uint32(i+1), kept[s.Name]); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	n.AddChain(&nftables.Chain{Table: t, Name: spec.mark()})
	chains := make([]*nftables.Chain, len(spec.Chains))
	for i, c := range spec.Chains { // all of them, before a rule jumps to one
		var err error
		if chains[i], err = chainOf(t, c); err != nil {
			return err
		}
		n.AddChain(chains[i])
	}
	compile := newCompiler(t, spec)
	for i, c := range spec.Chains {
		for _, r := range c.Rules {
			es, err := compile.rule(r)
			if err != nil {
				return err
			}
			n.AddRule(&nftables.Rule{Table: t, Chain: chains[i], Exprs: es, UserData: ruleComment})
		}
	}
	return nil
}

// queueSet takes the set's number in its transaction: without one, AddSet takes it from a variable that all goroutines write.
func queueSet(n *nftables.Conn, t *nftables.Table, s Set, id uint32, kept []element) error {
	set, err := setOf(t, s)
	if err != nil {
		return err
	}
	set.ID = id
	if err := n.AddSet(set, nil); err != nil {
		return err
	}
	for from := 0; from < len(kept); from += elementsMax {
		var es []nftables.SetElement
		for _, e := range kept[from:min(from+elementsMax, len(kept))] {
			es = append(es, nftables.SetElement{Key: e.key, Val: e.data, IntervalEnd: e.end})
		}
		if err := n.SetAddElements(set, es); err != nil {
			return err
		}
	}
	return nil
}

// applyElements adds or deletes elements of one set, all at once; where that fails, one by one, to find out which.
func applyElements(c *conn, ops []Op) []error {
	errs := make([]error, len(ops))
	err := changeElements(c, ops, false)
	if err == nil {
		return errs
	}
	if len(ops) == 1 {
		switch {
		case ops[0].Verb == Del && gone(err):
			err = nil
		case ops[0].Verb == Put && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST)) && ops[0].Obj.Spec.(Element).Value != "":
			err = changeElements(c, ops, true)
		}
		errs[0] = err
		return errs
	}
	for i := range ops {
		errs[i] = applyElements(c, ops[i:i+1])[0]
	}
	return errs
}

// changeElements adds or deletes elements in one transaction; over: after those of their keys, which have other values, were deleted in it.
func changeElements(c *conn, ops []Op, over bool) error {
	t, err := tableOf(ops[0].Obj.Link)
	if err != nil {
		return err
	}
	name := ops[0].Obj.Link[strings.LastIndexByte(ops[0].Obj.Link, ' ')+1:]
	var es []element
	for _, o := range ops {
		spec, ok := o.Obj.Spec.(Element)
		if !ok {
			return fmt.Errorf("no element: %v", o)
		}
		e, err := elementsOf(spec.Type, o.Obj.Dst, spec.Value)
		if err != nil {
			return err
		}
		es = append(es, e...)
	}
	s, err := c.filters()
	if err != nil {
		return err
	}
	at := setPlace{uint8(t.Family), t.Name, name}
	msgs := at.messages(ops[0].Verb, es)
	if over {
		msgs = append(at.messages(Del, es), msgs...)
	}
	msgs = transaction(msgs)
	errs := make([]error, len(msgs))
	err = errors.Join(s.send(msgs, len(msgs)-2, errs, nil), errors.Join(errs...))
	if err != nil {
		return fmt.Errorf("change nftables set %s: %w", name, err)
	}
	return nil
}
