package kernel

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// SetType says what a set's elements are, and how Key.Dst writes them: the words of the type stand for those of the element. What is behind
// the colon is what a map has for its key, and Element.Value. A "/" marks prefixes, which must not overlap.
type SetType string

// The types of sets and maps. Others of the same words would do as well: they have to be in setTypes, to be known when they are read.
const (
	SetAddr      SetType = "ip"               // 192.0.2.1
	SetAddr6     SetType = "ip6"              // 2001:db8::1
	SetPrefix    SetType = "ip/"              // 10.0.0.0/24
	SetPrefix6   SetType = "ip6/"             // fd00::/64
	SetLink      SetType = "name"             // weft0
	SetLinks     SetType = "name name"        // weft0 eth0: from, to
	SetLinkAddr  SetType = "name ip"          // weft0 172.17.0.1
	SetLinkAddr6 SetType = "name ip6"         // weft0 fd00::1
	SetPort      SetType = "name mac ip"      // ep0123456789ab 02:42:0a:00:00:02 10.0.0.2: interface, hardware address, address
	SetPort6     SetType = "name mac ip6"     //
	SetTalk      SetType = "ip ip proto port" // 10.0.0.3 10.0.0.2 tcp 80: who asks, whom, for what
	SetTalk6     SetType = "ip6 ip6 proto port"
	SetService   SetType = "proto port" // tcp 8080

	MapService      SetType = "proto port : ip port"      // tcp 8080 : 10.0.0.2 80
	MapService6     SetType = "proto port : ip6 port"     //
	MapDestService  SetType = "ip proto port : ip port"   // 192.0.2.1 tcp 8080 : 10.0.0.2 80
	MapDestService6 SetType = "ip6 proto port : ip6 port" //
	MapMember       SetType = "number : ip"               // 0 : 10.0.0.2
	MapMember6      SetType = "number : ip6"              //
)

var setTypes = []SetType{
	SetAddr, SetAddr6, SetPrefix, SetPrefix6, SetLink, SetLinks, SetLinkAddr, SetLinkAddr6, SetPort, SetPort6, SetTalk, SetTalk6, SetService,
	MapService, MapService6, MapDestService, MapDestService6, MapMember, MapMember6,
}

// word is one part of an element.
type word struct {
	typ    nftables.SetDatatype
	parse  func(string) ([]byte, error)
	format func([]byte) string
}

var words = map[string]word{
	"ip":     {nftables.TypeIPAddr, parseAddrOf(4), formatAddr},
	"ip6":    {nftables.TypeIP6Addr, parseAddrOf(16), formatAddr},
	"mac":    {nftables.TypeEtherAddr, hardware, func(b []byte) string { return net.HardwareAddr(b).String() }},
	"name":   {nftables.TypeIFName, parseLinkName, text},
	"proto":  {nftables.TypeInetProto, parseProtocol, formatProtocol},
	"port":   {nftables.TypeInetService, parseService, func(b []byte) string { return strconv.Itoa(int(binary.BigEndian.Uint16(b))) }},
	"number": {nftables.TypeMark, parseNumber, func(b []byte) string { return strconv.Itoa(int(binary.NativeEndian.Uint32(b))) }},
}

func parseAddrOf(size int) func(string) ([]byte, error) {
	return func(s string) ([]byte, error) {
		a, err := netip.ParseAddr(s)
		if err == nil && (len(a.AsSlice()) != size || a.Zone() != "" || a.Is4In6()) {
			err = fmt.Errorf("no IPv%d address: %q", map[int]int{4: 4, 16: 6}[size], s)
		}
		return a.AsSlice(), err
	}
}

func formatAddr(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

func parseLinkName(s string) ([]byte, error) {
	if s == "" || len(s) >= ifNameSz {
		return nil, fmt.Errorf("no interface name: %q", s)
	}
	return append([]byte(s), make([]byte, ifNameSz-len(s))...), nil
}

var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP, "icmpv6": unix.IPPROTO_ICMPV6, "sctp": unix.IPPROTO_SCTP}

func parseProtocol(s string) ([]byte, error) {
	p, ok := protocols[s]
	if !ok {
		return nil, fmt.Errorf("unknown protocol: %q", s)
	}
	return []byte{p}, nil
}

func formatProtocol(b []byte) string {
	for name, p := range protocols {
		if p == b[0] {
			return name
		}
	}
	return strconv.Itoa(int(b[0]))
}

func parseService(s string) ([]byte, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return binary.BigEndian.AppendUint16(nil, uint16(n)), err
}

func parseNumber(s string) ([]byte, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return binary.NativeEndian.AppendUint32(nil, uint32(n)), err
}

// parts returns the words of a type's key, and of what a map has for it.
func (t SetType) parts() (key, value []word, err error) {
	k, v, isMap := strings.Cut(string(t), " : ")
	for _, name := range strings.Fields(strings.TrimSuffix(k, "/")) {
		key = append(key, words[name])
	}
	if isMap {
		for _, name := range strings.Fields(v) {
			value = append(value, words[name])
		}
	}
	if len(key) == 0 || slices.ContainsFunc(append(key, value...), func(w word) bool { return w.parse == nil }) {
		return nil, nil, fmt.Errorf("unknown type of set %q", t)
	}
	return key, value, nil
}

func (t SetType) intervals() bool { return strings.HasSuffix(string(t), "/") }

// encode writes a text of these words as the kernel has it: each word filled up to four bytes, if there are several.
func encode(ws []word, s string) ([]byte, error) {
	f := strings.Fields(s)
	if len(f) != len(ws) {
		return nil, fmt.Errorf("want %d words: %q", len(ws), s)
	}
	var out []byte
	for i, w := range ws {
		b, err := w.parse(f[i])
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
		if len(ws) > 1 {
			out = append(out, make([]byte, -len(b)&3)...)
		}
	}
	return out, nil
}

// decode is the reverse of encode; ok is false for what is too short.
func decode(ws []word, b []byte) (s string, ok bool) {
	var out []string
	for _, w := range ws {
		n := int(w.typ.Bytes)
		if len(b) < n {
			return "", false
		}
		out = append(out, w.format(b[:n]))
		b = b[min(len(b), (n+3)&^3):]
	}
	return strings.Join(out, " "), true
}

// datatype is what the kernel is told of these words; it keeps the number, and gives it back.
func datatype(ws []word) (nftables.SetDatatype, error) {
	if len(ws) == 1 {
		return ws[0].typ, nil
	}
	var all []nftables.SetDatatype
	for _, w := range ws {
		all = append(all, w.typ)
	}
	return nftables.ConcatSetType(all...)
}

func setOf(t *nftables.Table, s Set) (*nftables.Set, error) {
	key, value, err := s.Type.parts()
	if err != nil {
		return nil, err
	}
	out := &nftables.Set{Table: t, Name: s.Name, Interval: s.Type.intervals(), Concatenation: len(key) > 1, IsMap: len(value) > 0}
	if out.KeyType, err = datatype(key); err == nil && out.IsMap {
		out.DataType, err = datatype(value)
	}
	return out, err
}

// elementsOf returns what one element of a set is to the kernel: two ends for a prefix.
func elementsOf(typ SetType, dst, value string) ([]element, error) {
	key, data, err := typ.parts()
	if err != nil {
		return nil, err
	}
	if typ.intervals() {
		return endsOf(typ, dst)
	}
	var e element
	if e.key, err = encode(key, dst); err == nil && len(data) > 0 {
		e.data, err = encode(data, value)
	}
	if err != nil {
		return nil, fmt.Errorf("element of type %s: %w", typ, err)
	}
	return []element{e}, nil
}

func endsOf(typ SetType, dst string) ([]element, error) {
	p, err := netip.ParsePrefix(dst)
	if err != nil {
		return nil, err
	}
	if p.Addr().Is4() != (typ == SetPrefix) || p.Bits() == 0 || p != p.Masked() {
		return nil, fmt.Errorf("no prefix of type %s: %q", typ, dst)
	}
	from := element{key: p.Addr().AsSlice()}
	end, ok := after(p)
	if !ok {
		return []element{from}, nil // behind the last address is no end
	}
	return []element{from, {key: end.AsSlice(), end: true}}, nil
}

// after is the first address behind a prefix, if there is one.
func after(p netip.Prefix) (netip.Addr, bool) {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b)
	next := last.Next()
	return next, next.IsValid()
}

// held is an element that was read, as Key.Dst and Element have it.
type held struct{ dst, value string }

// textOf writes the elements that were read as Key.Dst has them.
func textOf(typ SetType, es []element) []held {
	key, data, err := typ.parts()
	if err != nil {
		return nil
	}
	var out []held
	if typ.intervals() {
		for _, p := range prefixesOf(es) {
			out = append(out, held{dst: p})
		}
		return out
	}
	for _, e := range es {
		dst, ok := decode(key, e.key)
		value, ok2 := decode(data, e.data)
		if ok && ok2 {
			out = append(out, held{dst, value})
		}
	}
	return out
}

// prefixesOf pairs the ends of intervals, which come in any order: each start belongs to the nearest end behind it. What is no prefix is
// written as an interval, which nobody wants.
func prefixesOf(es []element) []string {
	var starts, ends []netip.Addr
	for _, e := range es {
		a, ok := netip.AddrFromSlice(e.key)
		if ok && e.end {
			ends = append(ends, a)
		} else if ok {
			starts = append(starts, a)
		}
	}
	slices.SortFunc(ends, netip.Addr.Compare)
	var out []string
	for _, s := range starts {
		end := netip.Addr{} // behind the last address
		for _, e := range ends {
			if s.Less(e) {
				end = e
				break
			}
		}
		out = append(out, interval(s, end))
	}
	return out
}

func interval(from, end netip.Addr) string {
	for n := from.BitLen() - trailingZeros(from); n <= from.BitLen(); n++ {
		p := netip.PrefixFrom(from, n)
		if a, _ := after(p); a == end {
			return p.String()
		}
	}
	return fmt.Sprintf("%s-%s", from, end)
}

func trailingZeros(a netip.Addr) int {
	n := 0
	b := a.AsSlice()
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != 0 {
			return n + bits.TrailingZeros8(b[i])
		}
		n += 8
	}
	return n
}
