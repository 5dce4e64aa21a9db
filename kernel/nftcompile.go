package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	reg      = unix.NFT_REG_1 // the first of the 16-byte registers; reg32 are the same in four bytes each
	reg32    = unix.NFT_REG32_00
	ifNameSz = 16
)

var families = map[string]nftables.TableFamily{
	"inet": nftables.TableFamilyINet, "ip": nftables.TableFamilyIPv4, "ip6": nftables.TableFamilyIPv6, "bridge": nftables.TableFamilyBridge,
}

// tableOf reads "family name …".
func tableOf(link string) (*nftables.Table, error) {
	f := strings.Fields(link)
	if len(f) < 2 || families[f[0]] == 0 {
		return nil, fmt.Errorf("no nftables table: %q", link)
	}
	return &nftables.Table{Family: families[f[0]], Name: f[1]}, nil
}

func chainOf(t *nftables.Table, c Chain) (*nftables.Chain, error) {
	if c.Hook == "" {
		return &nftables.Chain{Table: t, Name: c.Name}, nil
	}
	hooks := map[string]*nftables.ChainHook{
		"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
		"output": nftables.ChainHookOutput, "postrouting": nftables.ChainHookPostrouting,
	}
	if hooks[c.Hook] == nil {
		return nil, fmt.Errorf("unknown hook %q", c.Hook)
	}
	policy := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Table: t, Name: c.Name, Type: nftables.ChainType(c.Type), Hooknum: hooks[c.Hook],
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority)), Policy: &policy,
	}, nil
}

// compiler turns the rules of one table into what the kernel runs.
type compiler struct {
	family nftables.TableFamily
	types  map[string]SetType // by the set's name
}

func newCompiler(t *nftables.Table, spec Table) compiler {
	c := compiler{family: t.Family, types: map[string]SetType{}}
	for _, s := range spec.Sets {
		c.types[s.Name] = s.Type
	}
	return c
}

func (c compiler) rule(r Rule) ([]expr.Any, error) {
	var out []expr.Any
	for _, m := range r.If {
		es, err := c.match(m)
		if err != nil {
			return nil, fmt.Errorf("match %v: %w", m, err)
		}
		out = append(out, es...)
	}
	es, err := c.verdict(r)
	if err != nil {
		return nil, fmt.Errorf("rule %v: %w", r, err)
	}
	return append(out, es...), nil
}

// piece loads one part of the packet into a register; size is how many bytes it takes there.
type piece struct {
	size uint32
	load func(reg uint32) expr.Any
}

func payload(base expr.PayloadBase, offset, size uint32) piece {
	return piece{size, func(r uint32) expr.Any { return &expr.Payload{DestRegister: r, Base: base, Offset: offset, Len: size} }}
}

func meta(key expr.MetaKey, size uint32) piece {
	return piece{size, func(r uint32) expr.Any { return &expr.Meta{Key: key, Register: r} }}
}

// The parts of a packet that keys are made of.
var (
	inLink, outLink = meta(expr.MetaKeyIIFNAME, ifNameSz), meta(expr.MetaKeyOIFNAME, ifNameSz)
	l4proto         = meta(expr.MetaKeyL4PROTO, 1)
	source, dest    = payload(expr.PayloadBaseNetworkHeader, 12, 4), payload(expr.PayloadBaseNetworkHeader, 16, 4)
	source6, dest6  = payload(expr.PayloadBaseNetworkHeader, 8, 16), payload(expr.PayloadBaseNetworkHeader, 24, 16)
	sport, dport    = payload(expr.PayloadBaseTransportHeader, 0, 2), payload(expr.PayloadBaseTransportHeader, 2, 2)
	etherSource     = payload(expr.PayloadBaseLLHeader, 6, 6)
	arpMAC, arpAddr = payload(expr.PayloadBaseNetworkHeader, 8, 6), payload(expr.PayloadBaseNetworkHeader, 14, 4)
	ndTarget        = payload(expr.PayloadBaseTransportHeader, 8, 16) // RFC 4861, 4.4
)

// key is what a field looks up in a set, and of which address family a packet has to be for it (0: of any).
type key struct {
	family byte
	pieces []piece
}

var keys = map[Field]key{
	InLink: {0, []piece{inLink}}, OutLink: {0, []piece{outLink}}, InOut: {0, []piece{inLink, outLink}},
	InDest: {unix.NFPROTO_IPV4, []piece{inLink, dest}}, InDest6: {unix.NFPROTO_IPV6, []piece{inLink, dest6}},
	SourceAddr: {unix.NFPROTO_IPV4, []piece{source}}, DestAddr: {unix.NFPROTO_IPV4, []piece{dest}},
	SourceAddr6: {unix.NFPROTO_IPV6, []piece{source6}}, DestAddr6: {unix.NFPROTO_IPV6, []piece{dest6}},
	Service:      {0, []piece{l4proto, dport}},
	DestService:  {unix.NFPROTO_IPV4, []piece{dest, l4proto, dport}},
	DestService6: {unix.NFPROTO_IPV6, []piece{dest6, l4proto, dport}},
	Asked:        {unix.NFPROTO_IPV4, []piece{source, dest, l4proto, dport}},
	Answered:     {unix.NFPROTO_IPV4, []piece{dest, source, l4proto, sport}},
	Asked6:       {unix.NFPROTO_IPV6, []piece{source6, dest6, l4proto, dport}},
	Answered6:    {unix.NFPROTO_IPV6, []piece{dest6, source6, l4proto, sport}},
	SourcePort:   {unix.NFPROTO_IPV4, []piece{inLink, etherSource, source}},
	ARPPort:      {0, []piece{inLink, etherSource, arpAddr}},
	ARPSender:    {0, []piece{inLink, arpMAC, arpAddr}},
	SourcePort6:  {unix.NFPROTO_IPV6, []piece{inLink, etherSource, source6}},
	NDTarget:     {unix.NFPROTO_IPV6, []piece{inLink, etherSource, ndTarget}},
}

// load puts a key into the registers.
func (c compiler) load(k key) []expr.Any {
	out := c.only(k.family)
	at := uint32(reg32)
	for _, p := range k.pieces {
		out = append(out, p.load(at))
		at += (p.size + 3) / 4
	}
	return out
}

// only keeps a rule from reading one address family's header as the other's.
func (c compiler) only(family byte) []expr.Any {
	switch {
	case family == 0, nftables.TableFamily(family) == c.family: // nft 1.0.6 breaks off at a test that the table's family makes needless
		return nil
	case c.family == nftables.TableFamilyBridge:
		typ := uint16(unix.ETH_P_IP)
		if family == unix.NFPROTO_IPV6 {
			typ = unix.ETH_P_IPV6
		}
		return equal(meta(expr.MetaKeyPROTOCOL, 2), binaryutil.BigEndian.PutUint16(typ), false)
	}
	return equal(meta(expr.MetaKeyNFPROTO, 1), []byte{family}, false)
}

func equal(p piece, data []byte, not bool) []expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return []expr.Any{p.load(reg), &expr.Cmp{Op: op, Register: reg, Data: data}}
}

// masked compares some bits.
func masked(p piece, mask, value []byte, not bool) []expr.Any {
	out := equal(p, value, not)
	n := uint32(len(mask))
	and := &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: n, Mask: mask, Xor: make([]byte, n)}
	return []expr.Any{out[0], and, out[1]}
}

func (c compiler) match(m Match) ([]expr.Any, error) {
	if set, ok := strings.CutPrefix(m.Value, "@"); ok {
		k, ok := keys[m.Field]
		if !ok {
			return nil, fmt.Errorf("no field for a set")
		}
		return append(c.load(k), &expr.Lookup{SourceRegister: reg32, SetName: set, Invert: m.Not}), nil
	}
	switch m.Field {
	case InLink, OutLink:
		return matchLink(m)
	case SourceAddr, DestAddr, SourceAddr6, DestAddr6:
		return c.matchAddr(m)
	case EtherType:
		return matchNumber(m, meta(expr.MetaKeyPROTOCOL, 2), map[string]uint32{"ip": unix.ETH_P_IP, "ip6": unix.ETH_P_IPV6, "arp": unix.ETH_P_ARP})
	case Family:
		return matchNumber(m, meta(expr.MetaKeyNFPROTO, 1), map[string]uint32{"ipv4": unix.NFPROTO_IPV4, "ipv6": unix.NFPROTO_IPV6})
	case Protocol:
		p, err := parseProtocol(m.Value)
		return equal(l4proto, p, m.Not), err
	case TCPDest, UDPDest:
		proto := byte(unix.IPPROTO_TCP)
		if m.Field == UDPDest {
			proto = unix.IPPROTO_UDP
		}
		port, err := parseService(m.Value)
		return append(equal(l4proto, []byte{proto}, false), equal(dport, port, m.Not)...), err
	case ICMP6Type:
		n, err := strconv.ParseUint(m.Value, 10, 8)
		return append(equal(l4proto, []byte{unix.IPPROTO_ICMPV6}, false), equal(payload(expr.PayloadBaseTransportHeader, 0, 1), []byte{byte(n)}, m.Not)...), err
	case Established, CTStatus, CTDirection, DestType, Mark, CTMark:
		return matchState(m)
	}
	return nil, fmt.Errorf("unknown field")
}

func matchLink(m Match) ([]expr.Any, error) {
	p := inLink
	if m.Field == OutLink {
		p = outLink
	}
	name, err := parseLinkName(m.Value)
	if prefix, wild := strings.CutSuffix(m.Value, "*"); wild {
		name = []byte(prefix) // the kernel compares as many bytes as there are
	}
	return equal(p, name, m.Not), err
}

func (c compiler) matchAddr(m Match) ([]expr.Any, error) {
	p, err := netip.ParsePrefix(m.Value)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(m.Value); err != nil {
			return nil, err
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	k := keys[m.Field]
	if p.Addr().Is4() != (k.family == unix.NFPROTO_IPV4) || p != p.Masked() {
		return nil, fmt.Errorf("no address or prefix of its family")
	}
	mask := make([]byte, len(p.Addr().AsSlice()))
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return append(c.only(k.family), masked(k.pieces[0], mask, p.Addr().AsSlice(), m.Not)...), nil
}

// matchNumber compares a field with what a word stands for.
func matchNumber(m Match, p piece, known map[string]uint32) ([]expr.Any, error) {
	n, ok := known[m.Value]
	if !ok {
		return nil, fmt.Errorf("unknown protocol")
	}
	data := binary.BigEndian.AppendUint32(nil, n)[4-p.size:]
	return equal(p, data, m.Not), nil
}

// matchState matches what the kernel knows of a packet's connection, way and mark.
func matchState(m Match) ([]expr.Any, error) {
	ct := func(key expr.CtKey) piece {
		return piece{4, func(r uint32) expr.Any { return &expr.Ct{Key: key, Register: r} }}
	}
	switch m.Field {
	case Established, CTStatus:
		known := map[string]uint32{
			"invalid": expr.CtStateBitINVALID, "established": expr.CtStateBitESTABLISHED, "related": expr.CtStateBitRELATED, "new": expr.CtStateBitNEW,
			"untracked": expr.CtStateBitUNTRACKED,
		}
		p, value := ct(expr.CtKeySTATE), m.Value
		if m.Field == CTStatus { // IPS_SRC_NAT and IPS_DST_NAT of enum ip_conntrack_status
			p, known = ct(expr.CtKeySTATUS), map[string]uint32{"snat": 1 << 4, "dnat": 1 << 5}
		} else if value == "" {
			value = "established,related"
		}
		mask := uint32(0)
		for s := range strings.SplitSeq(value, ",") {
			if known[s] == 0 {
				return nil, fmt.Errorf("unknown state %q", s)
			}
			mask |= known[s]
		}
		return masked(p, binaryutil.NativeEndian.PutUint32(mask), make([]byte, 4), !m.Not), nil // one of them is enough
	case CTDirection:
		dir, ok := map[string]byte{"original": 0, "reply": 1}[m.Value]
		if !ok {
			return nil, fmt.Errorf("unknown direction")
		}
		return equal(ct(expr.CtKeyDIRECTION), []byte{dir}, m.Not), nil
	case DestType:
		if m.Value != "local" {
			return nil, fmt.Errorf("unknown type of address")
		}
		fib := piece{4, func(r uint32) expr.Any { return &expr.Fib{Register: r, ResultADDRTYPE: true, FlagDADDR: true} }}
		return equal(fib, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL), m.Not), nil
	}
	value, mask, err := bits32(m.Value)
	p := meta(expr.MetaKeyMARK, 4)
	if m.Field == CTMark {
		p = ct(expr.CtKeyMARK)
	}
	return masked(p, binaryutil.NativeEndian.PutUint32(mask), binaryutil.NativeEndian.PutUint32(value), m.Not), err
}

// bits32 reads "value/mask".
func bits32(s string) (value, mask uint32, err error) {
	v, m, some := strings.Cut(s, "/")
	n, err := strconv.ParseUint(v, 0, 32)
	if err != nil || !some {
		return uint32(n), ^uint32(0), err
	}
	all, err := strconv.ParseUint(m, 0, 32)
	if err == nil && n&^all != 0 {
		err = fmt.Errorf("%s has bits outside its mask", s)
	}
	return uint32(n), uint32(all), err
}

// tablePart cuts an element's "family table set" to "family table".
func tablePart(link string) string { return link[:max(0, strings.LastIndexByte(link, ' '))] }
