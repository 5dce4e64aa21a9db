package kernel

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// linkInfo is one link as it was dumped.
type linkInfo struct {
	index, master int32
	pair          int32 // of a veth: the other end's index, in its namespace
	name, kind    string
	mac, alias    string
	mtu           int
	up            bool
	group         uint32
	quiet         bool // of a bridge: neither STP nor multicast snooping
	vxlan         VXLAN
	learns        bool // of a VXLAN device
	port          portInfo
	conf6         [len(linkConf)]int32 // settings, as linkConf has them
	has6          bool                 // false: IPv6 gives it none
}

// sameTunnel tells whether a VXLAN device is already what cannot be changed without making it anew.
func (l linkInfo) sameTunnel(v VXLAN) bool {
	return l.vxlan.VNI == v.VNI && l.vxlan.Local == v.Local && l.vxlan.Port == v.Port && !l.learns
}

// odd tells what no Spec can say, because weft never makes a link so.
func (l linkInfo) odd() bool {
	return !l.up || l.group != 0 || l.learns || l.kind == "bridge" && !l.quiet || l.master != 0 && (l.port.learning || l.port.mixed)
}

// portInfo is a bridge port's flags, without its Master.
type portInfo struct {
	Port
	learning bool
	mixed    bool // floods some kinds of packets and others not
}

func (p portInfo) is(want Port) bool {
	want.Master = ""
	return !p.learning && !p.mixed && p.Port == want
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
	clear(c.index)
	for _, m := range msgs {
		if l, ok := parseLink(m); ok {
			t.byName[l.name], t.byIndex[l.index] = l, l
			c.index[l.name] = l.index
		}
	}
	return t, nil
}

func parseLink(b []byte) (l linkInfo, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return l, false
	}
	l.index, l.up = int32(binary.NativeEndian.Uint32(b[4:])), binary.NativeEndian.Uint32(b[8:])&unix.IFF_UP != 0
	for typ, v := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = text(v)
		case unix.IFLA_MTU:
			l.mtu = int(u32(v))
		case unix.IFLA_ADDRESS:
			l.mac = net.HardwareAddr(v).String()
		case unix.IFLA_MASTER:
			l.master = int32(u32(v))
		case unix.IFLA_LINK:
			l.pair = int32(u32(v))
		case unix.IFLA_GROUP:
			l.group = u32(v)
		case unix.IFLA_IFALIAS:
			l.alias = text(v)
		case unix.IFLA_LINKINFO:
			parseInfo(v, &l)
		case unix.IFLA_AF_SPEC:
			parseConf6(v, &l)
		}
	}
	return l, true
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func on(b []byte) bool { return len(b) > 0 && b[0] != 0 }

func parseInfo(b []byte, l *linkInfo) {
	for typ, v := range attributes(b) {
		switch {
		case typ == nl.IFLA_INFO_KIND:
			l.kind = text(v)
		case typ == nl.IFLA_INFO_DATA && l.kind == "vxlan":
			parseVXLAN(v, l)
		case typ == nl.IFLA_INFO_DATA && l.kind == "bridge":
			parseBridge(v, l)
		case typ == nl.IFLA_INFO_SLAVE_DATA:
			parsePort(v, &l.port)
		}
	}
}

func parseBridge(b []byte, l *linkInfo) {
	l.quiet = true
	for typ, v := range attributes(b) {
		if typ == nl.IFLA_BR_STP_STATE && u32(v) != 0 || typ == nl.IFLA_BR_MCAST_SNOOPING && on(v) {
			l.quiet = false
		}
	}
}

func parseVXLAN(b []byte, l *linkInfo) {
	for typ, v := range attributes(b) {
		switch typ {
		case nl.IFLA_VXLAN_ID:
			l.vxlan.VNI = u32(v)
		case nl.IFLA_VXLAN_LOCAL, nl.IFLA_VXLAN_LOCAL6:
			l.vxlan.Local, _ = netip.AddrFromSlice(v)
		case nl.IFLA_VXLAN_PORT:
			if len(v) == 2 {
				l.vxlan.Port = binary.BigEndian.Uint16(v)
			}
		case nl.IFLA_VXLAN_LEARNING:
			l.learns = on(v)
		}
	}
}

func parsePort(b []byte, p *portInfo) {
	var floods [3]bool
	for typ, v := range attributes(b) {
		switch typ {
		case nl.IFLA_BRPORT_LEARNING:
			p.learning = on(v)
		case nl.IFLA_BRPORT_UNICAST_FLOOD:
			floods[0] = on(v)
		case nl.IFLA_BRPORT_MCAST_FLOOD:
			floods[1] = on(v)
		case nl.IFLA_BRPORT_BCAST_FLOOD:
			floods[2] = on(v)
		case nl.IFLA_BRPORT_NEIGH_SUPPRESS:
			p.NeighSuppress = on(v)
		case nl.IFLA_BRPORT_ISOLATED:
			p.Isolated = on(v)
		case nl.IFLA_BRPORT_MODE:
			p.Hairpin = on(v)
		}
	}
	p.NoFlood, p.Multicast = !floods[0], !floods[0] && floods[1]
	p.mixed = floods[1] != floods[2] || floods[0] && !floods[1]
}
