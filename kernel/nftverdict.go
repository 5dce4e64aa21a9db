package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// verdict is what a rule does at its end.
func (c compiler) verdict(r Rule) ([]expr.Any, error) {
	switch r.Verdict {
	case Accept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, nil
	case Drop:
		return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}, nil
	case Return:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}, nil
	case Jump:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: r.To}}, nil
	case Reject:
		return []expr.Any{&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}, nil
	case Masquerade:
		return []expr.Any{&expr.Masq{}}, nil
	case NoTrack:
		return []expr.Any{&expr.Notrack{}}, nil
	case DNAT:
		return c.dnat(r)
	case SetMark, SetCTMark:
		return setMark(r)
	}
	return nil, fmt.Errorf("unknown verdict %q", r.Verdict)
}

// dnat sends a connection to another address, and port where one is given.
func (c compiler) dnat(r Rule) ([]expr.Any, error) {
	if set, ok := strings.CutPrefix(r.To, "@"); ok {
		return c.dnatBy(r, set)
	}
	to, err := netip.ParseAddrPort(r.To)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(r.To); err != nil {
			return nil, fmt.Errorf("no address: %w", err)
		}
		to = netip.AddrPortFrom(a, 0)
	}
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg32}
	if to.Addr().Is6() {
		nat.Family = unix.NFPROTO_IPV6
	}
	out := append(c.only(byte(nat.Family)), &expr.Immediate{Register: reg32, Data: to.Addr().AsSlice()})
	if to.Port() > 0 {
		nat.RegProtoMin = reg32 + uint32(len(to.Addr().AsSlice()))/4
		out = append(out, &expr.Immediate{Register: nat.RegProtoMin, Data: binaryutil.BigEndian.PutUint16(to.Port())})
	}
	return append(out, nat), nil
}

// dnatBy asks a map where to.
func (c compiler) dnatBy(r Rule, set string) ([]expr.Any, error) {
	_, words, _ := strings.Cut(string(c.types[set]), " : ")
	value := strings.Fields(words)
	if len(value) == 0 {
		return nil, fmt.Errorf("%s is no map of the table", set)
	}
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg32}
	size := uint32(1)
	if value[0] == "ip6" {
		nat.Family, size = unix.NFPROTO_IPV6, 4
	}
	if slices.Contains(value, "port") {
		nat.RegProtoMin = reg32 + size
	}
	out := c.only(byte(nat.Family))
	if r.By == Random {
		if r.Of < 1 {
			return nil, fmt.Errorf("a random number below %d", r.Of)
		}
		out = append(out, &expr.Numgen{Register: reg32, Modulus: uint32(r.Of), Type: unix.NFT_NG_RANDOM})
	} else {
		k, ok := keys[r.By]
		if !ok {
			return nil, fmt.Errorf("unknown field %q", r.By)
		}
		out = append(out, c.load(k)...)
	}
	return append(out, &expr.Lookup{SourceRegister: reg32, DestRegister: reg32, IsDestRegSet: true, SetName: set}, nat), nil
}

// setMark sets some bits of the packet's or the connection's mark.
func setMark(r Rule) ([]expr.Any, error) {
	value, mask, err := bits32(r.To)
	if err != nil {
		return nil, fmt.Errorf("mark %q: %w", r.To, err)
	}
	load, store := expr.Any(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}), expr.Any(&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg})
	if r.Verdict == SetCTMark {
		load, store = &expr.Ct{Key: expr.CtKeyMARK, Register: reg}, &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: reg}
	}
	keep := &expr.Bitwise{
		SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(^mask), Xor: binaryutil.NativeEndian.PutUint32(value),
	}
	return []expr.Any{load, keep, store}, nil
}
