package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Balance is a table in a sandbox's namespace that gives each connection from there to a virtual address to one of the address' members, at
// random: in the sandbox itself, since a member on its own subnet answers it directly, and only there the answer meets what translated the
// question. To a virtual address without members, what is sent is refused at once. Key.Link is "inet weft-…".
//
// A put replaces the table whole. Connections that exist stay where they are, with one exception: what is not TCP and goes to an address that is no
// member any more is forgotten, so that the next packet finds another one. The table gets its mark only after that, and one without it is
// put again: so a put that was cut short is made good.
type Balance struct {
	VIPs []VIP // sorted by address
}

// VIP is one virtual address with its members, which are of its family and sorted.
type VIP struct {
	Addr    netip.Addr
	Members []netip.Addr
}

// Equal compares by what is to be in the kernel; a table that was read has a digest alone.
func (b Balance) Equal(o Spec) bool {
	switch o := o.(type) {
	case Balance:
		return b.String() == o.String()
	case readTable:
		return o.mark == b.mark()
	}
	return false
}

func (b Balance) String() string {
	var out strings.Builder
	out.WriteString("balance")
	for _, s := range b.VIPs {
		fmt.Fprintf(&out, " %s to %v;", s.Addr, s.Members)
	}
	return out.String()
}

// balanceVersion goes into the digest: a change of how a Balance is compiled makes every such table anew.
const balanceVersion = "balance-1"

// mark is the name of the empty chain that tells what the table is; see Table.
func (b Balance) mark() string {
	sum := sha256.Sum256([]byte(balanceVersion + b.String()))
	return fmt.Sprintf("%s%s-%d", markPrefix, hex.EncodeToString(sum[:8]), b.parts())
}

// parts is how many sets, chains and rules there are, with the mark: two chains, and for each family that is there the set of its virtual
// addresses and the two rules that refuse; for each service with members a map and a rule.
func (b Balance) parts() int {
	n := 3
	for _, six := range []bool{false, true} {
		if len(b.of(six)) > 0 {
			n += 3
		}
	}
	for _, s := range b.VIPs {
		if len(s.Members) > 0 {
			n += 2
		}
	}
	return n
}

// of returns the services of one family.
func (b Balance) of(six bool) []VIP {
	var out []VIP
	for _, s := range b.VIPs {
		if s.Addr.Is6() == six {
			out = append(out, s)
		}
	}
	return out
}
