package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers: the first of the 16-byte ones, and those of 4 bytes that follow an interface's name (16) and a hardware address (8) in it.
const (
	reg      = unix.NFT_REG_1
	regMAC   = unix.NFT_REG32_00 + 4
	regAddr  = unix.NFT_REG32_00 + 6
	ifNameSz = 16
)

var families = map[string]nftables.TableFamily{"inet": nftables.TableFamilyINet, "bridge": nftables.TableFamilyBridge}

// tableOf reads "family name …".
func tableOf(link string) (*nftables.Table, error) {
	f := strings.Fields(link)
	if len(f) < 2 || families[f[0]] == 0 {
		return nil, fmt.Errorf("no nftables table: %q", link)
	}
	return &nftables.Table{Family: families[f[0]], Name: f[1]}, nil
}

func setOf(t *nftables.Table, s Set) (*nftables.Set, error) {
	out := &nftables.Set{Table: t, Name: s.Name}
	switch s.Type {
	case SetAddr:
		out.KeyType = nftables.TypeIPAddr
	case SetPrefix:
		out.KeyType, out.Interval = nftables.TypeIPAddr, true
	case SetPort:
		k, err := nftables.ConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
		if err != nil {
			return nil, err
		}
		out.KeyType, out.Concatenation = k, true
	default:
		return nil, fmt.Errorf("unknown type of set %q", s.Type)
	}
	return out, nil
}

// elementsOf returns what one element of a set is to the kernel: two ends for a prefix.
func elementsOf(typ SetType, text string) ([]element, error) {
	switch typ {
	case SetAddr:
		a, err := addr4(text)
		if err != nil {
			return nil, err
		}
		return []element{{key: a.AsSlice()}}, nil
	case SetPrefix:
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		if !p.Addr().Is4() || p.Bits() == 0 || p != p.Masked() {
			return nil, fmt.Errorf("no IPv4 prefix: %q", text)
		}
		from, to := element{key: p.Addr().AsSlice()}, element{key: after(p).AsSlice(), end: true}
		if after(p) == netip.IPv4Unspecified() {
			return []element{from}, nil // behind the last address is no end
		}
		return []element{from, to}, nil
	case SetPort:
		f := strings.Fields(text)
		if len(f) != 3 || len(f[0]) >= ifNameSz {
			return nil, fmt.Errorf("no port: %q", text)
		}
		mac, err := hardware(f[1])
		if err != nil {
			return nil, err
		}
		a, err := addr4(f[2])
		if err != nil {
			return nil, err
		}
		key := make([]byte, ifNameSz+8+4)
		copy(key, f[0])
		copy(key[ifNameSz:], mac)
		copy(key[ifNameSz+8:], a.AsSlice())
		return []element{{key: key}}, nil
	}
	return nil, fmt.Errorf("unknown type of set %q", typ)
}

func addr4(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err == nil && !a.Is4() {
		err = fmt.Errorf("no IPv4 address: %q", text)
	}
	return a, err
}

// after is the first address behind a prefix.
func after(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) + 1<<(32-p.Bits())
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// textOf writes the elements that were read as Key.Dst has them.
func textOf(typ SetType, es []element) []string {
	var out []string
	switch typ {
	case SetAddr:
		for _, e := range es {
			if a, ok := netip.AddrFromSlice(e.key); ok {
				out = append(out, a.String())
			}
		}
	case SetPort:
		for _, e := range es {
			if len(e.key) == ifNameSz+8+4 {
				a, _ := netip.AddrFromSlice(e.key[ifNameSz+8:])
				out = append(out, fmt.Sprintf("%s %s %s", text(e.key[:ifNameSz]), net.HardwareAddr(e.key[ifNameSz:ifNameSz+6]), a))
			}
		}
	case SetPrefix:
		out = prefixesOf(es)
	}
	return out
}

// prefixesOf pairs the ends of intervals, which come in any order: each start belongs to the nearest end behind it.
func prefixesOf(es []element) []string {
	var starts, ends []uint32
	for _, e := range es {
		if len(e.key) != 4 {
			continue
		}
		if n := binary.BigEndian.Uint32(e.key); e.end {
			ends = append(ends, n)
		} else {
			starts = append(starts, n)
		}
	}
	var out []string
	for _, s := range starts {
		size := uint64(1)<<32 - uint64(s)
		for _, e := range ends {
			if e > s && uint64(e-s) < size {
				size = uint64(e - s)
			}
		}
		bits := 32
		for bits > 0 && uint64(1)<<(32-bits) < size {
			bits--
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], s)
		out = append(out, netip.PrefixFrom(netip.AddrFrom4(b), bits).String())
	}
	return out
}

func chainOf(t *nftables.Table, c Chain) (*nftables.Chain, error) {
	hooks := map[string]*nftables.ChainHook{
		"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward, "postrouting": nftables.ChainHookPostrouting,
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

func compile(r Rule) ([]expr.Any, error) {
	var out []expr.Any
	for _, m := range r.If {
		es, err := compileMatch(m)
		if err != nil {
			return nil, fmt.Errorf("match %v: %w", m, err)
		}
		out = append(out, es...)
	}
	switch r.Verdict {
	case Accept:
		out = append(out, &expr.Verdict{Kind: expr.VerdictAccept})
	case Drop:
		out = append(out, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
	case Masquerade:
		out = append(out, &expr.Masq{})
	default:
		return nil, fmt.Errorf("unknown verdict %q", r.Verdict)
	}
	return out, nil
}

func compileMatch(m Match) ([]expr.Any, error) {
	op := expr.CmpOpEq
	if m.Not {
		op = expr.CmpOpNeq
	}
	switch m.Field {
	case InLink, OutLink:
		key := expr.MetaKeyIIFNAME
		if m.Field == OutLink {
			key = expr.MetaKeyOIFNAME
		}
		if len(m.Value) >= ifNameSz {
			return nil, fmt.Errorf("no interface name")
		}
		name := []byte(m.Value + "\x00")
		if p, wild := strings.CutSuffix(m.Value, "*"); wild {
			name = []byte(p) // the kernel compares as many bytes as there are
		} else {
			name = append(name, make([]byte, ifNameSz-len(name))...)
		}
		return []expr.Any{&expr.Meta{Key: key, Register: reg}, &expr.Cmp{Op: op, Register: reg, Data: name}}, nil
	case EtherType:
		typ, ok := map[string]uint16{"ip": unix.ETH_P_IP, "arp": unix.ETH_P_ARP}[m.Value]
		if !ok {
			return nil, fmt.Errorf("unknown protocol")
		}
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg},
			&expr.Cmp{Op: op, Register: reg, Data: binaryutil.BigEndian.PutUint16(typ)},
		}, nil
	case SourceAddr, DestAddr:
		offset := uint32(12)
		if m.Field == DestAddr {
			offset = 16
		}
		return append(onlyIPv4(), &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
			&expr.Lookup{SourceRegister: reg, SetName: strings.TrimPrefix(m.Value, "@"), Invert: m.Not}), nil
	case UDPDest:
		port, err := strconv.ParseUint(m.Value, 10, 16)
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: op, Register: reg, Data: binaryutil.BigEndian.PutUint16(uint16(port))},
		}, err
	case Established:
		bits := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: reg},
			&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: bits, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
		}, nil
	case SourcePort:
		return portLookup(m, expr.PayloadBaseLLHeader, 6, 12), nil
	case ARPPort:
		return portLookup(m, expr.PayloadBaseLLHeader, 6, 14), nil
	case ARPSender:
		return portLookup(m, expr.PayloadBaseNetworkHeader, 8, 14), nil
	}
	return nil, fmt.Errorf("unknown field")
}

// onlyIPv4 keeps a rule of family inet from reading an IPv6 header as an IPv4 one.
func onlyIPv4() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.NFPROTO_IPV4}}}
}

// portLookup looks interface, a hardware address and an address of the network header up in a SetPort.
func portLookup(m Match, macBase expr.PayloadBase, macOffset, addrOffset uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg},
		&expr.Payload{DestRegister: regMAC, Base: macBase, Offset: macOffset, Len: 6},
		&expr.Payload{DestRegister: regAddr, Base: expr.PayloadBaseNetworkHeader, Offset: addrOffset, Len: 4},
		&expr.Lookup{SourceRegister: reg, SetName: strings.TrimPrefix(m.Value, "@"), Invert: m.Not},
	}
}

// tablePart cuts an element's "family table set" to "family table".
func tablePart(link string) string { return link[:max(0, strings.LastIndexByte(link, ' '))] }
