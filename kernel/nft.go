package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Table is one nftables table: chains with their rules, and sets. What a set holds are objects of their own (KindElement), so that one more
// costs as little as it should. Key.Link is "family name", and the family is inet or bridge.
//
// A table is replaced whole, in one transaction that keeps its sets' elements. That it is what it should be is known by a digest, which an
// empty chain carries in its name together with the number of sets, chains and rules: an agent without memory need not understand rules
// to compare them, and neither counters nor handles make a table differ.
type Table struct {
	Sets   []Set
	Chains []Chain
}

// Set is a set of a table.
type Set struct {
	Name string
	Type SetType
}

// SetType says what a set's elements are, and how Key.Dst writes them.
type SetType string

// The types of sets.
const (
	SetAddr   SetType = "addr"   // 192.0.2.1
	SetPrefix SetType = "prefix" // 10.0.0.0/24; they do not overlap
	SetPort   SetType = "port"   // ep0123456789ab 02:42:0a:00:00:02 10.0.0.2: interface, hardware address, address
)

// Chain is a chain at a hook.
type Chain struct {
	Name     string
	Type     string // filter or nat
	Hook     string // prerouting, input, forward, postrouting
	Priority int
	Rules    []Rule
}

// Rule does its verdict where all its matches hold.
type Rule struct {
	If      []Match
	Verdict Verdict
}

// Verdict is what a rule does.
type Verdict string

// The verdicts.
const (
	Accept     Verdict = "accept"
	Drop       Verdict = "drop"
	Masquerade Verdict = "masquerade"
)

// Match compares a field of the packet. Value is a value, "prefix*" for interfaces, or "@set".
type Match struct {
	Field Field
	Not   bool
	Value string
}

// Field is what a Match looks at.
type Field string

// The fields.
const (
	InLink      Field = "iifname"
	OutLink     Field = "oifname"
	EtherType   Field = "ether type"         // ip or arp
	SourceAddr  Field = "ip saddr"           //
	DestAddr    Field = "ip daddr"           //
	UDPDest     Field = "udp dport"          //
	Established Field = "ct state"           // established,related
	SourcePort  Field = "port ip saddr"      // SetPort: interface, Ethernet source, IP source
	ARPPort     Field = "port arp saddr"     // SetPort: interface, Ethernet source, ARP sender's address
	ARPSender   Field = "port arp saddr arp" // SetPort: interface, ARP sender's hardware address, ARP sender's address
)

// Equal compares by what is to be in the kernel; a table that was read has a digest alone.
func (t Table) Equal(o Spec) bool {
	switch o := o.(type) {
	case Table:
		return t.String() == o.String()
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
			for _, m := range r.If {
				not := ""
				if m.Not {
					not = "!= "
				}
				fmt.Fprintf(&b, " %s %s%s", m.Field, not, m.Value)
			}
			fmt.Fprintf(&b, " %s;", r.Verdict)
		}
		b.WriteString(" } ")
	}
	return b.String()
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
const tableVersion = "2"

// mark is the name of the empty chain that tells what a table is.
func (t Table) mark() string {
	sum := sha256.Sum256([]byte(tableVersion + t.String()))
	return fmt.Sprintf("%s%s-%d", markPrefix, hex.EncodeToString(sum[:8]), t.parts())
}

const markPrefix = "digest-"

// readTable is a table as it was found: by its mark, "" where it was tampered with.
type readTable struct{ mark string }

func (r readTable) Equal(o Spec) bool {
	t, ok := o.(Table)
	return ok && t.mark() == r.mark
}

func (r readTable) String() string { return "table " + r.mark }

// Element is in a set; Key.Link is "family table set", Key.Dst the element as its SetType writes it.
type Element struct{ Type SetType }

// Equal compares types: the element itself is the key.
func (e Element) Equal(o Spec) bool { return o == Spec(e) }
func (e Element) String() string    { return "element" }
