package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Guest is a rule of weft's in another's chain, which is there for such: it lets pass what has the bit Mark in its packet mark, that is, what
// weft's own rules have let pass. An accept in weft's tables cannot undo another's drop. Key.Link is "family table chain", one of guestChains;
// Key.Dst is GuestName. It is weft's own by its comment. Where the chain is not there, there is nothing to do, and a put succeeds: Read
// says so by a stand-in that is as good as the rule and never deleted, and its coming is a change that Watch tells. The rule is written as the iptables program writes and reads it.
type Guest struct{ Mark uint32 }

// vacant stands for a rule whose chain is not there.
type vacant struct{}

func (vacant) Equal(Spec) bool { return true }
func (vacant) String() string  { return "no place" }

// GuestName is the Key.Dst of guests.
const GuestName = "weft"

// Equal compares marks.
func (g Guest) Equal(o Spec) bool { return o == Spec(g) }
func (g Guest) String() string    { return fmt.Sprintf("accept mark %#x", g.Mark) }

// guestChains are where Docker calls users' rules before its own, whatever its FORWARD chain's policy is.
var guestChains = map[string]bool{"ip filter DOCKER-USER": true, "ip6 filter DOCKER-USER": true}

// isFirewallTable tells tables whose coming and going says that another firewall has started, ended or flushed everything.
func isFirewallTable(table string) bool {
	return table == "ip filter" || table == "ip6 filter" || table == "inet firewalld"
}

func isOwnTable(name string) bool { return name == ownTable || strings.HasPrefix(name, ownTable+"-") }

func cutTable(s string) (family, name string) {
	family, name, _ = strings.Cut(s, " ")
	return family, name
}

const guestComment = "weft: what its own rules let pass"

// guestData is the comment as rules have it: its type (0), length and text.
var guestData = append([]byte{0, byte(len(guestComment) + 1)}, guestComment+"\x00"...)

// guestRule is a rule that was found in a guest's chain.
type guestRule struct {
	handle uint64
	mark   uint32
}

// guestRules are weft's in a chain; there is false where the chain is not.
func guestRules(ctx context.Context, s *socket, link string) (rules []guestRule, there bool, err error) {
	f := strings.Fields(link)
	if !guestChains[link] || len(f) != 3 {
		return nil, false, fmt.Errorf("no place for guests: %q", link)
	}
	family := uint8(families[f[0]])
	chains, err := s.dump(ctx, nfType(unix.NFT_MSG_GETCHAIN), nfBody(family, 0))
	if err != nil {
		return nil, false, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, m := range chains {
		there = there || attr(m, unix.NFTA_CHAIN_TABLE) == f[1] && attr(m, unix.NFTA_CHAIN_NAME) == f[2]
	}
	if !there {
		return nil, false, nil
	}
	msgs, err := s.dump(ctx, nfType(unix.NFT_MSG_GETRULE), nfBody(family, 0, nfText(unix.NFTA_RULE_TABLE, f[1]), nfText(unix.NFTA_RULE_CHAIN, f[2])))
	if errors.Is(err, unix.ENOENT) { // it has gone meanwhile
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("list the rules of %s: %w", link, err)
	}
	for _, m := range msgs {
		if r, ok := parseGuest(m); ok && attr(m, unix.NFTA_RULE_TABLE) == f[1] && attr(m, unix.NFTA_RULE_CHAIN) == f[2] {
			rules = append(rules, r)
		}
	}
	return rules, true, nil
}

// parseGuest reads a rule that has weft's comment: its mark is 0 where it has not the form that weft gives it.
func parseGuest(m []byte) (r guestRule, ok bool) {
	for typ, v := range nfAttributes(m) {
		switch typ {
		case unix.NFTA_RULE_USERDATA:
			ok = bytes.Equal(v, guestData)
		case unix.NFTA_RULE_HANDLE:
			if len(v) == 8 {
				r.handle = binary.BigEndian.Uint64(v)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			r.mark = markOf(v)
		}
	}
	return r, ok
}

// markOf reads the mark that a rule's first expression, an xtables match, compares.
func markOf(exprs []byte) uint32 {
	for _, e := range attributes(exprs) {
		name, info := "", []byte(nil)
		for typ, v := range attributes(e) {
			if typ != unix.NFTA_EXPR_DATA {
				continue
			}
			for typ, v := range attributes(v) {
				switch typ {
				case unix.NFTA_MATCH_NAME:
					name = text(v)
				case unix.NFTA_MATCH_INFO:
					info = v
				}
			}
		}
		if name != "mark" || len(info) < 9 || u32(info) != u32(info[4:]) || info[8] != 0 {
			return 0
		}
		return u32(info)
	}
	return 0
}

// readGuests adds weft's rules in others' chains.
func readGuests(ctx context.Context, c *conn, ns string, out State) error {
	s, err := c.filters()
	if err != nil {
		return err
	}
	for link := range guestChains {
		rules, there, err := guestRules(ctx, s, link)
		if err != nil {
			return err
		}
		if !there {
			out.Add(Object{Key: Key{Kind: KindGuest, NS: ns, Link: link, Dst: GuestName}, Spec: vacant{}})
		}
		for i, r := range rules {
			o := Object{Key: Key{Kind: KindGuest, NS: ns, Link: link, Dst: GuestName}, Spec: Guest{Mark: r.mark}}
			if i > 0 {
				o.Spec = stale{}
			}
			out.Add(o)
		}
	}
	return nil
}

// applyGuest puts the rule at the head of its chain in place of what weft has there, or takes it away, in one transaction.
func applyGuest(ctx context.Context, c *conn, o Op) error {
	s, err := c.filters()
	if err != nil {
		return err
	}
	old, there, err := guestRules(ctx, s, o.Obj.Link)
	if err != nil || !there || o.Verb == Del && len(old) == 0 {
		return err
	}
	f := strings.Fields(o.Obj.Link)
	t := &nftables.Table{Family: families[f[0]], Name: f[1]}
	chain := &nftables.Chain{Table: t, Name: f[2]}
	n, err := c.tables()
	if err != nil {
		return err
	}
	defer func() { _ = n.CloseLasting() }()
	for _, r := range old {
		if err := n.DelRule(&nftables.Rule{Table: t, Chain: chain, Handle: r.handle}); err != nil {
			return fmt.Errorf("change %s: %w", o.Obj.Link, err)
		}
	}
	if o.Verb == Put {
		mark := binary.NativeEndian.AppendUint32(nil, o.Obj.Spec.(Guest).Mark)
		info := xt.Unknown(append(append(mark, mark...), 0, 0, 0, 0)) // struct xt_mark_mtinfo1: mark, mask, invert
		n.InsertRule(&nftables.Rule{Table: t, Chain: chain, UserData: guestData, Exprs: []expr.Any{
			&expr.Match{Name: "mark", Rev: 1, Info: &info}, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept},
		}})
	}
	if err := n.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("change %s: %w", o.Obj.Link, err)
	}
	return nil
}
