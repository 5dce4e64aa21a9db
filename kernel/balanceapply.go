package kernel

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Chains of a Balance.
const (
	balanceChain = "balance" // at the place of destination NAT: each connection's first packet
	refuseChain  = "refuse"  // after it: what still goes to a virtual address has no member
)

// putBalance replaces a table: all of it but its mark; then forgets the connections that it leaves; and then marks it.
func putBalance(c *conn, t *nftables.Table, b Balance, there bool) error {
	err := inTxn(c, func(n *nftables.Conn) error {
		if there {
			n.DelTable(t)
		}
		return queueBalance(n, t, b)
	})
	if err != nil {
		return fmt.Errorf("replace nftables table: %w", err)
	}
	if err := forget(c, b, there); err != nil {
		return err
	}
	err = inTxn(c, func(n *nftables.Conn) error {
		n.AddChain(&nftables.Chain{Table: t, Name: b.mark()})
		return nil
	})
	if err != nil {
		return fmt.Errorf("mark nftables table: %w", err)
	}
	return nil
}

// inTxn does one transaction, on a connection of its own.
func inTxn(c *conn, queue func(*nftables.Conn) error) error {
	n, err := nftables.New(nftables.WithNetNSFd(int(c.ns.Fd())), nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	if err = queue(n); err == nil {
		err = n.Flush()
	}
	return errors.Join(err, n.CloseLasting())
}

func queueBalance(n *nftables.Conn, t *nftables.Table, b Balance) error {
	n.AddTable(t)
	policy := nftables.ChainPolicyAccept
	balance := n.AddChain(&nftables.Chain{
		Table: t, Name: balanceChain, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest, Policy: &policy,
	})
	refuse := n.AddChain(&nftables.Chain{
		Table: t, Name: refuseChain, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	id := uint32(0)
	for i, s := range b.VIPs {
		if len(s.Members) == 0 {
			continue
		}
		id++
		m, err := queueMembers(n, t, id, fmt.Sprintf("members%d", i), s)
		if err != nil {
			return err
		}
		n.AddRule(&nftables.Rule{Table: t, Chain: balance, UserData: ruleComment, Exprs: append(destIs(s.Addr.Is6(), &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: s.Addr.AsSlice()}),
			&expr.Numgen{Register: reg, Modulus: uint32(len(s.Members)), Type: unix.NFT_NG_RANDOM},
			&expr.Lookup{SourceRegister: reg, DestRegister: reg, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nfFamily(s.Addr.Is6())), RegAddrMin: reg},
		)})
	}
	for _, six := range []bool{false, true} {
		all := b.of(six)
		if len(all) == 0 {
			continue
		}
		id++
		set, err := queueServices(n, t, id, six, all)
		if err != nil {
			return err
		}
		// An unreachable that meets connect() on its way is only noted, and the next one comes with a retransmission: a reset ends it at once.
		lookup := &expr.Lookup{SourceRegister: reg, SetName: set.Name, SetID: set.ID}
		n.AddRule(&nftables.Rule{Table: t, Chain: refuse, UserData: ruleComment, Exprs: append(destIs(six, lookup),
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		)})
		n.AddRule(&nftables.Rule{Table: t, Chain: refuse, UserData: ruleComment, Exprs: append(destIs(six, lookup),
			&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH},
		)})
	}
	return nil
}

// queueMembers makes the map from numbers to a service's members. It is constant: its elements are part of the table, and of its mark.
func queueMembers(n *nftables.Conn, t *nftables.Table, id uint32, name string, s VIP) (*nftables.Set, error) {
	m := &nftables.Set{Table: t, ID: id, Name: name, Constant: true, IsMap: true, KeyType: nftables.TypeMark, DataType: addrType(s.Addr.Is6())}
	var es []nftables.SetElement
	for i, a := range s.Members {
		if a.Is6() != s.Addr.Is6() {
			return nil, fmt.Errorf("member %s is not of the family of %s", a, s.Addr)
		}
		es = append(es, nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: a.AsSlice()})
	}
	return m, queueConstant(n, m, es)
}

func queueServices(n *nftables.Conn, t *nftables.Table, id uint32, six bool, all []VIP) (*nftables.Set, error) {
	set := &nftables.Set{Table: t, ID: id, Name: "services4", Constant: true, KeyType: addrType(six)}
	if six {
		set.Name = "services6"
	}
	var es []nftables.SetElement
	for _, s := range all {
		es = append(es, nftables.SetElement{Key: s.Addr.AsSlice()})
	}
	return set, queueConstant(n, set, es)
}

func queueConstant(n *nftables.Conn, set *nftables.Set, es []nftables.SetElement) error {
	if err := n.AddSet(set, nil); err != nil {
		return err
	}
	for from := 0; from < len(es); from += elementsMax {
		if err := n.SetAddElements(set, es[from:min(from+elementsMax, len(es))]); err != nil {
			return err
		}
	}
	return nil
}

// destIs loads a packet's destination, of a packet of that family only, and does test with it.
func destIs(six bool, test expr.Any) []expr.Any {
	at := &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	if six {
		at.Offset, at.Len = 24, 16
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{nfFamily(six)}}, at, test,
	}
}

func nfFamily(six bool) byte {
	if six {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func addrType(six bool) nftables.SetDatatype {
	if six {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}
