package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Read returns what is weft's own in the namespaces, by the rules in the package's comment.
func (k *Kernel) Read(ctx context.Context, namespaces []string) (State, error) {
	out := State{}
	for _, ns := range namespaces {
		if k.own(ns) {
			if !isNetns(ns) {
				if _, err := os.Stat(ns); err == nil { // a file whose namespace went with a reboot
					out.Add(Object{Key: Key{Kind: KindNetns, NS: ns}, Spec: stale{}})
				}
				continue
			}
			out.Add(Object{Key: Key{Kind: KindNetns, NS: ns}, Spec: Netns{}})
		}
		err := k.with(ns, func(c *conn) error { return k.readInto(ctx, c, ns, out) })
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read namespace %q: %w", ns, err)
		}
	}
	return out, nil
}

// stale stands for something of the right key that is not what it should be.
type stale struct{}

func (stale) Equal(Spec) bool { return false }
func (stale) String() string  { return "stale" }

// scope says what of a namespace is weft's.
type scope struct {
	ns    string
	own   bool // a network's: all
	host  bool // the host's: links called weft…, routes of our protocol
	links linkTable
}

func (s scope) link(name string) bool {
	switch {
	case s.own:
		return name != "lo"
	case s.host:
		return strings.HasPrefix(name, "weft")
	}
	return strings.HasPrefix(name, "eth")
}

func (k *Kernel) readInto(ctx context.Context, c *conn, ns string, out State) error {
	links, err := readLinks(ctx, c)
	if err != nil {
		return err
	}
	s := scope{ns: ns, own: k.own(ns), host: ns == HostNS, links: links}
	if s.own {
		addLinks(s, out)
	}
	if err := errors.Join(readAddrs(ctx, c, s, out), readRoutes(ctx, c, s, out)); err != nil {
		return err
	}
	if !s.own && !s.host {
		return nil
	}
	if err := readNeighs(ctx, c, s, out); err != nil {
		return err
	}
	if s.own {
		if err := readFDB(ctx, c, s, out); err != nil {
			return err
		}
		for name := range ownSysctls {
			readSysctl(c, s.ns, name, out)
		}
	}
	return readTables(c, ns, out)
}

// ownSysctls are those whose values are read back in a network's namespace.
var ownSysctls = map[string]bool{
	"net/ipv4/ip_forward": true, "net/ipv4/conf/all/rp_filter": true, "net/ipv4/conf/default/rp_filter": true, "net/ipv4/conf/all/send_redirects": true,
	"net/ipv4/conf/default/send_redirects": true, "net/ipv4/conf/br0/send_redirects": true, "net/ipv6/conf/all/disable_ipv6": true,
	"net/bridge/bridge-nf-call-iptables": true, "net/bridge/bridge-nf-call-ip6tables": true, "net/bridge/bridge-nf-call-arptables": true,
}

func readSysctl(c *conn, ns, name string, out State) {
	var value string
	err := inside(c.ns, func() error {
		b, err := os.ReadFile("/proc/sys/" + name)
		value = strings.TrimSpace(string(b))
		return err
	})
	if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "net/bridge/") {
		value, err = "0", nil // the module is not loaded: off
	}
	if err == nil {
		out.Add(Object{Key: Key{Kind: KindSysctl, NS: ns, Link: name}, Spec: Sysctl{Value: value}})
	}
}

// linkInfo is one link as it was dumped.
type linkInfo struct {
	index, master int32
	name, kind    string
	mac, alias    string
	mtu           int
	up            bool
	vxlan         VXLAN
	port          Port
}

type linkTable struct {
	byName  map[string]linkInfo
	byIndex map[int32]linkInfo
}

func readLinks(ctx context.Context, c *conn) (linkTable, error) {
	t := linkTable{map[string]linkInfo{}, map[int32]linkInfo{}}
	msgs, err := c.dump(ctx, unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC))
	if err != nil {
		return t, err
	}
	for _, m := range msgs {
		l, err := parseLink(m)
		if err != nil {
			return t, err
		}
		t.byName[l.name], t.byIndex[l.index] = l, l
		c.index[l.name] = l.index
	}
	return t, nil
}

func parseLink(b []byte) (linkInfo, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return linkInfo{}, errors.New("short link message")
	}
	l := linkInfo{index: int32(binary.NativeEndian.Uint32(b[4:])), up: binary.NativeEndian.Uint32(b[8:])&unix.IFF_UP != 0}
	as, err := nl.ParseRouteAttr(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return l, err
	}
	for _, a := range as {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case unix.IFLA_IFNAME:
			l.name = text(a.Value)
		case unix.IFLA_MTU:
			l.mtu = int(u32(a.Value))
		case unix.IFLA_ADDRESS:
			l.mac = net.HardwareAddr(a.Value).String()
		case unix.IFLA_MASTER:
			l.master = int32(u32(a.Value))
		case unix.IFLA_IFALIAS:
			l.alias = text(a.Value)
		case unix.IFLA_LINKINFO:
			if err := parseInfo(a.Value, &l); err != nil {
				return l, err
			}
		}
	}
	return l, nil
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func on(b []byte) bool { return len(b) > 0 && b[0] != 0 }

func parseInfo(b []byte, l *linkInfo) error {
	as, err := nl.ParseRouteAttr(b)
	if err != nil {
		return err
	}
	for _, a := range as {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case nl.IFLA_INFO_KIND:
			l.kind = text(a.Value)
		case nl.IFLA_INFO_DATA:
			if l.kind == "vxlan" {
				err = parseVXLAN(a.Value, &l.vxlan)
			}
		case nl.IFLA_INFO_SLAVE_DATA:
			err = parsePort(a.Value, &l.port)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseVXLAN(b []byte, v *VXLAN) error {
	as, err := nl.ParseRouteAttr(b)
	if err != nil {
		return err
	}
	for _, a := range as {
		switch a.Attr.Type {
		case nl.IFLA_VXLAN_ID:
			v.VNI = u32(a.Value)
		case nl.IFLA_VXLAN_LOCAL, nl.IFLA_VXLAN_LOCAL6:
			v.Local, _ = netip.AddrFromSlice(a.Value)
		case nl.IFLA_VXLAN_PORT:
			if len(a.Value) == 2 {
				v.Port = binary.BigEndian.Uint16(a.Value)
			}
		}
	}
	return nil
}

func parsePort(b []byte, p *Port) error {
	as, err := nl.ParseRouteAttr(b)
	if err != nil {
		return err
	}
	for _, a := range as {
		switch a.Attr.Type {
		case nl.IFLA_BRPORT_UNICAST_FLOOD:
			p.NoFlood = !on(a.Value)
		case nl.IFLA_BRPORT_NEIGH_SUPPRESS:
			p.NeighSuppress = on(a.Value)
		case nl.IFLA_BRPORT_ISOLATED:
			p.Isolated = on(a.Value)
		}
	}
	return nil
}

// addLinks adds a network's links. One that is down, or a link of a kind that weft does not make, is stale.
func addLinks(s scope, out State) {
	for _, l := range s.links.byName {
		if l.name == "lo" {
			continue
		}
		l.port.Master = s.links.byIndex[l.master].name
		o := Object{Key: Key{NS: s.ns, Link: l.name}}
		switch l.kind {
		case "bridge":
			o.Kind, o.Spec = KindBridge, Bridge{MAC: l.mac, MTU: l.mtu}
		case "vxlan":
			v := l.vxlan
			v.MAC, v.MTU, v.At = l.mac, l.mtu, l.port
			o.Kind, o.Spec, o.Holds = KindVXLAN, v, HoldsVNI(v.VNI, v.Port)
		case "veth":
			o.Kind, o.Spec = KindVeth, vethOf(l)
		default:
			continue
		}
		if !l.up {
			o.Spec = stale{}
			if o.Kind == KindVeth {
				o.Spec = Veth{}
			}
		}
		out.Add(o)
	}
}

func vethOf(l linkInfo) Veth {
	v := Veth{MAC: l.mac, MTU: l.mtu, At: l.port}
	rest, ok := strings.CutPrefix(l.alias, "weft ")
	if name, rest, ok2 := strings.Cut(rest, " "); ok && ok2 {
		mac, ns, _ := strings.Cut(rest, " ")
		v.Peer = Peer{NS: ns, Name: name, MAC: mac}
	}
	return v
}

// HoldsVNI is what a VXLAN device holds in its host: no other may have its VNI on its port.
func HoldsVNI(vni uint32, port uint16) string { return fmt.Sprintf("vni/%d/%d", vni, port) }

func readAddrs(ctx context.Context, c *conn, s scope, out State) error {
	msgs, err := c.dump(ctx, unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_INET))
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if len(m) < unix.SizeofIfAddrmsg {
			continue
		}
		name := s.links.byIndex[int32(binary.NativeEndian.Uint32(m[4:]))].name
		as, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
		if err != nil {
			return err
		}
		for _, a := range as {
			if addr, ok := netip.AddrFromSlice(a.Value); ok && a.Attr.Type == unix.IFA_LOCAL && s.link(name) {
				out.Add(Object{Key: Key{Kind: KindAddr, NS: s.ns, Link: name, Dst: netip.PrefixFrom(addr, int(m[1])).String()}, Spec: Addr{}})
			}
		}
	}
	return nil
}

func readRoutes(ctx context.Context, c *conn, s scope, out State) error {
	q := nl.NewRtMsg()
	q.Family = unix.AF_INET
	msgs, err := c.dump(ctx, unix.RTM_GETROUTE, q)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		r, ok, err := parseRoute(m)
		if err != nil {
			return err
		}
		if ok && r.protocol == Proto {
			k := Key{Kind: KindRoute, NS: s.ns, Link: s.links.byIndex[r.oif].name, Dst: r.dst.String()}
			out.Add(Object{Key: k, Spec: r.Route})
		}
	}
	return nil
}

type routeInfo struct {
	Route
	dst      netip.Prefix
	oif      int32
	protocol uint8
	typ      uint8
}

// parseRoute reads a route of the main table; ok is false for others.
func parseRoute(m []byte) (r routeInfo, ok bool, err error) {
	if len(m) < unix.SizeofRtMsg {
		return r, false, nil
	}
	bits, table := int(m[1]), uint32(m[4])
	r.protocol, r.typ = m[5], m[7]
	dst := netip.IPv4Unspecified()
	if m[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	as, err := nl.ParseRouteAttr(m[unix.SizeofRtMsg:])
	if err != nil {
		return r, false, err
	}
	for _, a := range as {
		switch a.Attr.Type {
		case unix.RTA_TABLE:
			table = u32(a.Value)
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_OIF:
			r.oif = int32(u32(a.Value))
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_PREFSRC:
			r.Src, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_PRIORITY:
			r.Metric = int(u32(a.Value))
		}
	}
	r.dst = netip.PrefixFrom(dst, bits)
	return r, table == unix.RT_TABLE_MAIN, nil
}

func readNeighs(ctx context.Context, c *conn, s scope, out State) error {
	msgs, err := c.dump(ctx, unix.RTM_GETNEIGH, &netlink.Ndmsg{Family: unix.AF_INET})
	if err != nil {
		return err
	}
	return eachNeigh(msgs, func(n neighInfo) {
		name := s.links.byIndex[n.index].name
		if n.state&unix.NUD_PERMANENT != 0 && n.dst.IsValid() && s.link(name) {
			out.Add(Object{Key: Key{Kind: KindNeigh, NS: s.ns, Link: name, Dst: n.dst.String()}, Spec: Neigh{MAC: n.mac}})
		}
	})
}

func readFDB(ctx context.Context, c *conn, s scope, out State) error {
	msgs, err := c.dump(ctx, unix.RTM_GETNEIGH, &netlink.Ndmsg{Family: unix.AF_BRIDGE})
	if err != nil {
		return err
	}
	return eachNeigh(msgs, func(n neighInfo) {
		l := s.links.byIndex[n.index]
		k := Key{Kind: KindFDB, NS: s.ns, Link: l.name, Dst: n.mac}
		switch {
		case n.flags&unix.NTF_SELF != 0 && l.kind == "vxlan" && n.dst.IsValid() && n.mac != "00:00:00:00:00:00":
			k.Dst += selfSuffix
			out.Add(Object{Key: k, Spec: FDB{VTEP: n.dst}})
		case n.master > 0 && n.state == unix.NUD_NOARP:
			out.Add(Object{Key: k, Spec: FDB{}})
		}
	})
}

type neighInfo struct {
	index  int32
	state  uint16
	flags  uint8
	dst    netip.Addr
	mac    string
	master uint32
}

func eachNeigh(msgs [][]byte, f func(neighInfo)) error {
	const header = 12 // struct ndmsg
	for _, m := range msgs {
		if len(m) < header {
			continue
		}
		n := neighInfo{index: int32(binary.NativeEndian.Uint32(m[4:])), state: binary.NativeEndian.Uint16(m[8:]), flags: m[10]}
		as, err := nl.ParseRouteAttr(m[header:])
		if err != nil {
			return err
		}
		for _, a := range as {
			switch a.Attr.Type {
			case unix.NDA_DST:
				n.dst, _ = netip.AddrFromSlice(a.Value)
			case unix.NDA_LLADDR:
				n.mac = net.HardwareAddr(a.Value).String()
			case unix.NDA_MASTER:
				n.master = u32(a.Value)
			}
		}
		f(n)
	}
	return nil
}
