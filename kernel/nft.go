package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
)

// Table is one nftables table: chains with their rules, sets and maps. What a set or map holds are objects of their own (KindElement), so
// that one more costs as little as it should. Key.Link is "family name", and the family is inet, ip, ip6 or bridge.
//
// A table is replaced whole, in one transaction that keeps its sets' elements. That it is what it should be is known by a digest, which an
// empty chain carries in its name together with the number of sets, chains and rules: an agent without memory need not understand rules
// to compare them, and neither counters nor handles make a table differ.
type Table struct {
	Sets   []Set
	Chains []Chain
}

// Set is a set or map of a table.
type Set struct {
	Name string
	Type SetType
}

// Chain is a chain at a hook; or, without one, a chain that rules jump to.
type Chain struct {
	Name     string
	Type     string // filter or nat
	Hook     string // prerouting, input, forward, output, postrouting
	Priority int
	Rules    []Rule
}

// Rule does its verdict where all its matches hold.
type Rule struct {
	If      []Match
	Verdict Verdict
	// To is what some verdicts take. DNAT: an address ("10.0.0.2", "10.0.0.2:80", "[fd00::2]:80"), or "@map" that gives one. Jump: a
	// chain. SetMark, SetCTMark: the bits to set and which of them ("0x10/0x10"; without a mask, all).
	To string
	// By is what a DNAT's map is asked for: Service, DestService, DestService6 or Random. Where it has no answer, the next rule is tried.
	By Field
	// Of is how many numbers Random has: 0 to Of-1.
	Of int
}

// Verdict is what a rule does.
type Verdict string

// The verdicts. Those of marks go on with the next rule.
const (
	Accept     Verdict = "accept"
	Drop       Verdict = "drop"
	Reject     Verdict = "reject" // port unreachable; not in family bridge
	Return     Verdict = "return"
	Jump       Verdict = "jump"
	Masquerade Verdict = "masquerade"
	DNAT       Verdict = "dnat"
	NoTrack    Verdict = "notrack"
	SetMark    Verdict = "meta mark set"
	SetCTMark  Verdict = "ct mark set"
)

// Match compares a field of the packet. Value is a value, "prefix*" for interfaces, or "@set".
type Match struct {
	Field Field
	Not   bool
	Value string
}

// Field is what a Match looks at. Those of one address family match no packet of the other, whether Not is set or not.
type Field string

// The fields.
const (
	InLink      Field = "iifname"
	OutLink     Field = "oifname"
	InOut       Field = "iifname . oifname"   // SetLinks
	InDest      Field = "iifname . ip daddr"  // SetLinkAddr
	InDest6     Field = "iifname . ip6 daddr" // SetLinkAddr6
	EtherType   Field = "ether type"          // ip, ip6 or arp
	Family      Field = "meta nfproto"        // ipv4 or ipv6; not in family bridge
	SourceAddr  Field = "ip saddr"            // an address, a prefix, or @set
	DestAddr    Field = "ip daddr"            // as SourceAddr
	SourceAddr6 Field = "ip6 saddr"           // as SourceAddr
	DestAddr6   Field = "ip6 daddr"           // as SourceAddr
	Protocol    Field = "meta l4proto"        // tcp, udp, icmp or icmpv6
	TCPDest     Field = "tcp dport"
	UDPDest     Field = "udp dport"
	ICMP6Type   Field = "icmpv6 type"    // a number
	Established Field = "ct state"       // established,related, or what Value lists
	CTStatus    Field = "ct status"      // dnat or snat
	CTDirection Field = "ct direction"   // original or reply
	DestType    Field = "fib daddr type" // local
	Mark        Field = "meta mark"      // "0x10/0x10": value and mask
	CTMark      Field = "ct mark"        // as Mark

	Service      Field = "meta l4proto . th dport"             // "proto port", or SetService
	DestService  Field = "ip daddr . meta l4proto . th dport"  // "ip proto port"
	DestService6 Field = "ip6 daddr . meta l4proto . th dport" // "ip6 proto port"
	Random       Field = "numgen random"                       // "number"; in By alone

	Asked     Field = "ip saddr . ip daddr . meta l4proto . th dport"   // SetTalk: a packet to a service
	Answered  Field = "ip daddr . ip saddr . meta l4proto . th sport"   // SetTalk: a packet from it
	Asked6    Field = "ip6 saddr . ip6 daddr . meta l4proto . th dport" // SetTalk6
	Answered6 Field = "ip6 daddr . ip6 saddr . meta l4proto . th sport" // SetTalk6

	SourcePort  Field = "port ip saddr"      // SetPort: interface, Ethernet source, IP source
	ARPPort     Field = "port arp saddr"     // SetPort: interface, Ethernet source, ARP sender's address
	ARPSender   Field = "port arp saddr arp" // SetPort: interface, ARP sender's hardware address, ARP sender's address
	SourcePort6 Field = "port ip6 saddr"     // SetPort6: interface, Ethernet source, IPv6 source
	NDTarget    Field = "port nd target"     // SetPort6: interface, Ethernet source, the address that a neighbour advertisement is for
)

// Equal compares by what is to be in the kernel; a table that was read has a digest alone.
func (t Table) Equal(o Spec) bool {
	switch o := o.(type) {
	case Table:
		return reflect.DeepEqual(t, o) || t.String() == o.String() // the texts take long
	case readTable:
		return o.Equal(t)
	}
	return false
}

func (t Table) String() string {
	var b strings.Builder
	for _, s := range t.Sets {
		fmt.Fprintf(&b, "set %s %s; ", s.Name, s.Type)
	}
	for _, c := range t.Chains {
		fmt.Fprintf(&b, "chain %s %s %s %d {", c.Name, c.Type, c.Hook, c.Priority)
		for _, r := range c.Rules {
			fmt.Fprintf(&b, " %s;", r)
		}
		b.WriteString(" } ")
	}
	return b.String()
}

func (r Rule) String() string {
	var b strings.Builder
	for _, m := range r.If {
		fmt.Fprintf(&b, "%s ", m)
	}
	fmt.Fprint(&b, r.Verdict)
	if r.By != "" {
		fmt.Fprintf(&b, " %s", r.By)
	}
	if r.Of != 0 {
		fmt.Fprintf(&b, " mod %d", r.Of)
	}
	if r.To != "" {
		fmt.Fprintf(&b, " %s", r.To)
	}
	return b.String()
}

func (m Match) String() string {
	not := ""
	if m.Not {
		not = "!= "
	}
	return fmt.Sprintf("%s %s%s", m.Field, not, m.Value)
}

// parts is how many sets, chains and rules there are, with the mark.
func (t Table) parts() int {
	n := len(t.Sets) + 1 + len(t.Chains)
	for _, c := range t.Chains {
		n += len(c.Rules)
	}
	return n
}

// tableVersion goes into the digest: a change of how rules are compiled makes every table anew.
const tableVersion = "3"

// mark is the name of the empty chain that tells what a table is.
func (t Table) mark() string {
	sum := sha256.Sum256([]byte(tableVersion + t.String()))
	return fmt.Sprintf("%s%s-%d", markPrefix, hex.EncodeToString(sum[:8]), t.parts())
}

const markPrefix = "digest-"

// readTable is a table as it was found: by its mark, "" where it was tampered with.
type readTable struct{ mark string }

func (r readTable) Equal(o Spec) bool {
	t, ok := o.(interface{ mark() string }) // Table, Balance
	return ok && t.mark() == r.mark
}

func (r readTable) String() string { return "table " + r.mark }

// Element is in a set or map; Key.Link is "family table set", Key.Dst the element, or a map's key, as its SetType writes it.
type Element struct {
	Type  SetType
	Value string // what a map has for the key, as its type writes it
}

// Equal compares types and values: the element itself is the key.
func (e Element) Equal(o Spec) bool { return o == Spec(e) }

func (e Element) String() string {
	if e.Value != "" {
		return "element : " + e.Value
	}
	return "element"
}
