package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FirstTable and LastTable are the routing tables that are weft's own: a route in one of them is known by its protocol like any other.
const (
	FirstTable = 0x77000000 // "w"
	LastTable  = 0x77ffffff
)

// Policy is a policy rule of protocol Proto: what comes from an address is routed by a table. All of it is the key: two rules of which either
// differs are two rules to the kernel.
type Policy struct{}

// Equal compares nothing: the rule itself is the key.
func (s Policy) Equal(o Spec) bool { return o == Spec(s) }
func (s Policy) String() string    { return "rule" }

// SourceRule is the rule that what comes from an address is routed by a table; lower priorities are asked first.
func SourceRule(ns string, from netip.Addr, table uint32, priority int) Object {
	return Object{Key: Key{Kind: KindRule, NS: ns, Dst: fmt.Sprintf("from %s table %d priority %d", from, table, priority)}, Spec: Policy{}}
}

type ruleInfo struct {
	from     netip.Addr
	table    uint32
	priority uint32
	protocol uint8
	plain    bool // a lookup by source address and nothing else
}

// parseRuleKey reads what SourceRule has written.
func parseRuleKey(dst string) (r ruleInfo, err error) {
	f := strings.Fields(dst)
	if len(f) != 6 || f[0] != "from" || f[2] != "table" || f[4] != "priority" {
		return r, fmt.Errorf("no rule: %q", dst)
	}
	table, err := strconv.ParseUint(f[3], 10, 32)
	if err != nil {
		return r, fmt.Errorf("no rule: %q: %w", dst, err)
	}
	priority, err := strconv.ParseUint(f[5], 10, 32)
	if err != nil {
		return r, fmt.Errorf("no rule: %q: %w", dst, err)
	}
	r.table, r.priority = uint32(table), uint32(priority)
	if r.from, err = netip.ParseAddr(f[1]); err != nil {
		return r, fmt.Errorf("no rule: %q: %w", dst, err)
	}
	return r, nil
}

// fibRuleHdr is struct fib_rule_hdr.
type fibRuleHdr struct{ family, srcLen uint8 }

func (h fibRuleHdr) Len() int { return 12 }

func (h fibRuleHdr) Serialize() []byte {
	b := make([]byte, h.Len())
	b[0], b[2], b[7] = h.family, h.srcLen, frActToTable
	return b
}

// Of linux/fib_rules.h; x/sys has no names for them.
const (
	frActToTable  = 1
	fraSrc        = 2
	fraPriority   = 6
	fraTable      = 15
	fraSuppressPL = 14
	fraProtocol   = 21
)

func ruleMsg(verb Verb, k Key) (*nl.NetlinkRequest, error) {
	r, err := parseRuleKey(k.Dst)
	if err != nil {
		return nil, err
	}
	q := nl.NewNetlinkRequest(unix.RTM_NEWRULE, exclusive)
	if verb == Del {
		q = nl.NewNetlinkRequest(unix.RTM_DELRULE, 0)
	}
	q.AddData(fibRuleHdr{family: family(r.from), srcLen: uint8(r.from.BitLen())})
	q.AddData(nl.NewRtAttr(fraSrc, r.from.AsSlice()))
	q.AddData(nl.NewRtAttr(fraTable, nl.Uint32Attr(r.table)))
	q.AddData(nl.NewRtAttr(fraPriority, nl.Uint32Attr(r.priority)))
	q.AddData(nl.NewRtAttr(fraProtocol, []byte{Proto}))
	return q, nil
}

// parseRule reads a rule that was dumped.
func parseRule(m []byte) (r ruleInfo, ok bool) {
	const header = 12
	if len(m) < header {
		return r, false
	}
	r.table = uint32(m[4])
	r.plain = m[1] == 0 && m[3] == 0 && m[7] == frActToTable && binary.NativeEndian.Uint32(m[8:])&^0x10000 == 0 // FIB_RULE_UNRESOLVED aside
	for typ, v := range attributes(m[header:]) {
		switch typ {
		case fraSrc:
			r.from, _ = netip.AddrFromSlice(v)
		case fraTable:
			r.table = u32(v)
		case fraPriority:
			r.priority = u32(v)
		case fraProtocol:
			if len(v) > 0 {
				r.protocol = v[0]
			}
		case fraSuppressPL: // all ones where nothing is suppressed
			r.plain = r.plain && u32(v) == ^uint32(0)
		}
	}
	r.plain = r.plain && r.from.IsValid() && int(m[2]) == r.from.BitLen()
	return r, true
}

// readRules adds the rules of protocol Proto. One that weft would never make so is left alone: it cannot be told from what others make.
func readRules(ctx context.Context, c *conn, s scope, out State) error {
	for _, f := range families6 {
		msgs, err := c.dump(ctx, unix.RTM_GETRULE, fibRuleHdr{family: f})
		if err != nil {
			return err
		}
		for _, m := range msgs {
			if r, ok := parseRule(m); ok && r.protocol == Proto && r.plain {
				out.Add(SourceRule(s.ns, r.from, r.table, int(r.priority)))
			}
		}
	}
	return nil
}
