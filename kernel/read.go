package kernel

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// readsAtOnce is how many namespaces are read at a time: each read waits for threads that change their namespace, and for RTNL.
const readsAtOnce = 8

// Read returns what is weft's own in the namespaces, by the rules in the package's comment.
func (k *Kernel) Read(ctx context.Context, namespaces []string) (State, error) {
	namespaces = slices.Compact(slices.Sorted(slices.Values(namespaces)))
	all := make([]reading, len(namespaces))
	var wg sync.WaitGroup
	turns := make(chan struct{}, readsAtOnce)
	for i, ns := range namespaces {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			all[i] = k.readSpace(ctx, ns)
		})
	}
	wg.Wait()
	total := 0
	for _, f := range all {
		total += len(f.state)
	}
	out := make(State, total)
	seen := map[string]linkTable{}
	for i, ns := range namespaces {
		f := all[i]
		if f.err != nil {
			return nil, fmt.Errorf("read namespace %q: %w", cmp.Or(ns, k.host), f.err)
		}
		if maps.Copy(out, f.state); f.read {
			seen[ns] = f.links
		}
	}
	checkPairs(seen, out)
	return out, nil
}

// reading is what one namespace was found to have. One that is gone has nothing, and has been read.
type reading struct {
	state State
	links linkTable
	read  bool
	err   error
}

func (k *Kernel) readSpace(ctx context.Context, ns string) reading {
	f := reading{state: State{}}
	if k.own(ns) {
		if !isNetns(ns) {
			if _, err := os.Stat(ns); err == nil { // a file whose namespace went with a reboot
				f.state.Add(Object{Key: Key{Kind: KindNetns, NS: ns}, Spec: stale{}})
			}
			return f
		}
		f.state.Add(Object{Key: Key{Kind: KindNetns, NS: ns}, Spec: Netns{}})
	}
	f.read = true
	f.err = k.with(ns, func(c *conn) (err error) {
		f.links, err = k.readInto(ctx, c, ns, f.state)
		return err
	})
	if errors.Is(f.err, os.ErrNotExist) { // gone, with all that was in it
		f.links, f.err = linkTable{}, nil
	}
	return f
}

// stale stands for something of the right key that is not what it should be.
type stale struct{}

func (stale) Equal(Spec) bool { return false }
func (stale) String() string  { return "stale" }

// scope says what of a namespace is weft's.
type scope struct {
	ns    string
	own   bool // a network's: all
	host  bool // the host's: links called weft… or by their alias, routes of our protocol; a sandbox's, if neither
	links linkTable
}

// link tells whether a link is weft's own: in a sandbox by its alias, since the runtime may have links of its own there.
func (s scope) link(index int32) (name string, ours bool) {
	l := s.links.byIndex[index]
	switch {
	case s.own:
		return l.name, l.name != "lo" && l.name != ""
	case s.host:
		return l.name, l.uplink() || l.madeHere()
	}
	return l.name, l.alias == farAlias
}

func (k *Kernel) readInto(ctx context.Context, c *conn, ns string, out State) (linkTable, error) {
	links, err := readLinks(ctx, c)
	if err != nil {
		return links, err
	}
	s := scope{ns: ns, own: k.own(ns), host: ns == HostNS, links: links}
	if s.own || s.host {
		addLinks(s, out)
	}
	if err := errors.Join(readAddrs(ctx, c, s, out), readRoutes(ctx, c, s, out), readRules(ctx, c, s, out), k.readConf(c, s, out)); err != nil {
		return links, err
	}
	if !s.own && !s.host {
		return links, readTables(ctx, c, ns, out)
	}
	if err := readNeighs(ctx, c, s, out); err != nil {
		return links, err
	}
	if err := readFDB(ctx, c, s, out); err != nil {
		return links, err
	}
	sysctls := hostSysctls
	if s.own {
		sysctls = ownSysctls
	}
	if err := readSysctls(c, ns, sysctls, out); err != nil {
		return links, err
	}
	if s.host {
		if err := readGuests(ctx, c, ns, out); err != nil {
			return links, err
		}
	}
	return links, readTables(ctx, c, ns, out)
}

// addLinks adds a network's links. One that weft would never make so is stale; one of a kind that weft does not make is left alone.
func addLinks(s scope, out State) {
	for _, l := range s.links.byName {
		if l.name == "lo" || s.host && !l.madeHere() {
			continue
		}
		if o, ok := s.object(l); ok {
			out.Add(o)
		}
	}
}

// object is what a link is, if it is of a kind that weft makes.
func (s scope) object(l linkInfo) (o Object, ok bool) {
	at := l.port.Port
	at.Master = s.links.byIndex[l.master].name
	o = Object{Key: Key{NS: s.ns, Link: l.name}}
	switch l.kind {
	case "bridge":
		o.Kind, o.Spec = KindBridge, Bridge{MAC: l.mac, MTU: l.mtu, Owner: l.owner()}
	case "vxlan":
		v := l.vxlan
		v.MAC, v.MTU, v.At = l.mac, l.mtu, at
		o.Kind, o.Spec, o.Holds = KindVXLAN, v, HoldsVNI(v.VNI, v.Port)
	case "veth":
		o.Kind, o.Spec = KindVeth, vethOf(l, at)
	default:
		return o, false
	}
	if l.odd() {
		o.Spec = stale{}
	}
	return o, true
}

// checkPairs makes pairs stale whose far end, in a namespace that was read too, is not there or not as it should be.
func checkPairs(seen map[string]linkTable, out State) {
	for k, o := range out {
		v, ok := o.Spec.(Veth)
		if !ok {
			continue
		}
		links, read := seen[v.Peer.NS]
		far := links.byName[v.Peer.Name]
		right := far.isFarEnd(v) && far.pair == seen[k.NS].byName[k.Link].index
		if read && !right {
			out.Add(Object{Key: k, Spec: stale{}})
		}
	}
}

// isFarEnd tells whether a link is what a pair's far end should be.
func (l linkInfo) isFarEnd(v Veth) bool {
	return l.up && l.mtu == v.MTU && l.mac == v.Peer.MAC && l.alias == farAlias
}

func vethOf(l linkInfo, at Port) Veth {
	v := Veth{MAC: l.mac, MTU: l.mtu, At: at}
	rest, ok := strings.CutPrefix(l.alias, "weft ")
	if name, rest, ok2 := strings.Cut(rest, " "); ok && ok2 {
		mac, ns, _ := strings.Cut(rest, " ")
		v.Peer = Peer{NS: ns, Name: name, MAC: mac}
	}
	return v
}

// HoldsVNI is what a VXLAN device holds in its host: no other may have its VNI on its port.
func HoldsVNI(vni uint32, port uint16) string { return fmt.Sprintf("vni/%d/%d", vni, port) }

// families6 are those that addresses, routes, rules and neighbours are read of.
var families6 = [...]uint8{unix.AF_INET, unix.AF_INET6}

// dumpFamily dumps what one family has. A kernel without IPv6 answers with all others' then.
func (c *conn) dumpFamily(ctx context.Context, typ int, family uint8, body nl.NetlinkRequestData) ([][]byte, error) {
	msgs, err := c.dump(ctx, typ, body)
	return slices.DeleteFunc(msgs, func(m []byte) bool { return len(m) == 0 || m[0] != family }), err
}

func readAddrs(ctx context.Context, c *conn, s scope, out State) error {
	for _, f := range families6 {
		msgs, err := c.dumpFamily(ctx, unix.RTM_GETADDR, f, nl.NewIfAddrmsg(int(f)))
		if err != nil {
			return err
		}
		for _, m := range msgs {
			a, ok := parseAddr(m)
			if name, ours := s.link(a.index); ok && ours && !(f == unix.AF_INET6 && a.prefix.Addr().IsLinkLocalUnicast()) {
				out.Add(Object{Key: Key{Kind: KindAddr, NS: s.ns, Link: name, Dst: a.prefix.String()}, Spec: Addr{}})
			}
		}
	}
	return nil
}

type addrInfo struct {
	index  int32
	prefix netip.Prefix
}

func parseAddr(m []byte) (a addrInfo, ok bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return a, false
	}
	a.index = int32(binary.NativeEndian.Uint32(m[4:]))
	for typ, v := range attributes(m[unix.SizeofIfAddrmsg:]) {
		// IFA_ADDRESS is the peer's where there is one, and IPv6 has no IFA_LOCAL without one (rtnetlink(7)).
		if typ == unix.IFA_LOCAL || typ == unix.IFA_ADDRESS && !ok {
			if addr, is := netip.AddrFromSlice(v); is {
				a.prefix, ok = netip.PrefixFrom(addr, int(m[1])), true
			}
		}
	}
	return a, ok
}

func readRoutes(ctx context.Context, c *conn, s scope, out State) error {
	routes, err := ownRoutes(ctx, c)
	if err != nil {
		return err
	}
	for _, r := range routes {
		k := Key{Kind: KindRoute, NS: s.ns, Link: s.links.byIndex[r.oif].name, Dst: RouteDst(r.dst, r.table)}
		o := Object{Key: k, Spec: r.Route}
		if _, twice := out[k]; twice { // with another metric
			o.Spec = stale{}
		}
		out.Add(o)
	}
	return nil
}

// RouteDst is Key.Dst of a route in a table; 0 is the main one.
func RouteDst(dst netip.Prefix, table uint32) string {
	if table == 0 || table == unix.RT_TABLE_MAIN {
		return dst.String()
	}
	return fmt.Sprintf("%s table %d", dst, table)
}

// parseRouteDst reads what RouteDst has written.
func parseRouteDst(s string) (dst netip.Prefix, table uint32, err error) {
	text, number, other := strings.Cut(s, " table ")
	table = unix.RT_TABLE_MAIN
	if other {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n < FirstTable || n > LastTable {
			return dst, 0, fmt.Errorf("no routing table of weft's own: %q", s)
		}
		table = uint32(n)
	}
	dst, err = netip.ParsePrefix(text)
	return dst, table, err
}

// defaultMetric6 is what the kernel gives an IPv6 route that asks for no metric (IP6_RT_PRIO_USER).
const defaultMetric6 = 1024

type routeInfo struct {
	Route
	dst      netip.Prefix
	table    uint32
	oif      int32
	protocol uint8
	typ      uint8
}

// parseRoute reads a route of the main table or of one of weft's own; ok is false for others.
func parseRoute(m []byte) (r routeInfo, ok bool) {
	if len(m) < unix.SizeofRtMsg {
		return r, false
	}
	bits := int(m[1])
	r.table = uint32(m[4])
	r.protocol, r.typ = m[5], m[7]
	dst := netip.IPv4Unspecified()
	if m[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for typ, v := range attributes(m[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_TABLE:
			r.table = u32(v)
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(v)
		case unix.RTA_OIF:
			r.oif = int32(u32(v))
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(v)
		case unix.RTA_PREFSRC:
			r.Src, _ = netip.AddrFromSlice(v)
		case unix.RTA_PRIORITY:
			r.Metric = int(u32(v))
		}
	}
	r.dst = netip.PrefixFrom(dst, bits)
	if m[0] == unix.AF_INET6 && r.Metric == defaultMetric6 {
		r.Metric = 0
	}
	return r, r.main() || r.table >= FirstTable && r.table <= LastTable
}

// main tells whether a route is in the main table.
func (r routeInfo) main() bool { return r.table == unix.RT_TABLE_MAIN }

func readNeighs(ctx context.Context, c *conn, s scope, out State) error {
	for _, f := range families6 {
		msgs, err := c.dumpFamily(ctx, unix.RTM_GETNEIGH, f, &netlink.Ndmsg{Family: f})
		if err != nil {
			return err
		}
		for _, m := range msgs {
			n, ok := parseNeigh(m)
			if _, ours := s.link(n.index); ok && ours && n.state&unix.NUD_PERMANENT != 0 && n.dst.IsValid() {
				out.Add(s.neigh(n))
			}
		}
	}
	return nil
}

func readFDB(ctx context.Context, c *conn, s scope, out State) error {
	msgs, err := c.dump(ctx, unix.RTM_GETNEIGH, &netlink.Ndmsg{Family: unix.AF_BRIDGE})
	if err != nil {
		return err
	}
	for _, m := range msgs {
		n, ok := parseNeigh(m)
		if !ok {
			continue
		}
		if o, ok := s.entry(n); ok {
			out.Add(o)
		}
	}
	return nil
}

func (s scope) neigh(n neighInfo) Object {
	return Object{Key: Key{Kind: KindNeigh, NS: s.ns, Link: s.links.byIndex[n.index].name, Dst: n.dst.String()}, Spec: Neigh{MAC: n.mac}}
}

// entry is what a forwarding entry is, if it is one that weft makes.
func (s scope) entry(n neighInfo) (o Object, ok bool) {
	l := s.links.byIndex[n.index]
	k := Key{Kind: KindFDB, NS: s.ns, Link: l.name, Dst: n.mac}
	switch {
	case s.own && n.flags&unix.NTF_SELF != 0 && l.kind == "vxlan" && n.dst.IsValid():
		if k.Dst += selfSuffix; n.mac == zeroMAC {
			k.Dst = FloodDst(n.dst)
		}
		return Object{Key: k, Spec: FDB{VTEP: n.dst}}, true
	case n.master > 0 && n.state == unix.NUD_NOARP && (s.own || l.hostPort()):
		return Object{Key: k, Spec: FDB{}}, true
	}
	return o, false
}

type neighInfo struct {
	index  int32
	state  uint16
	flags  uint8
	dst    netip.Addr
	mac    string
	master uint32
}

func parseNeigh(m []byte) (n neighInfo, ok bool) {
	const header = 12 // struct ndmsg
	if len(m) < header {
		return n, false
	}
	n.index, n.state, n.flags = int32(binary.NativeEndian.Uint32(m[4:])), binary.NativeEndian.Uint16(m[8:]), m[10]
	for typ, v := range attributes(m[header:]) {
		switch typ {
		case unix.NDA_DST:
			n.dst, _ = netip.AddrFromSlice(v)
		case unix.NDA_LLADDR:
			n.mac = net.HardwareAddr(v).String()
		case unix.NDA_MASTER:
			n.master = u32(v)
		}
	}
	return n, true
}
