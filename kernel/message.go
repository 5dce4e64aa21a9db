package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Entries are replaced: an exclusive create would fail after anything that was there before. For links, addresses and routes, "there
// already" is no failure either, but the way to see what is there and to leave it alone if it is right, or a user's.
const (
	replace   = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	exclusive = unix.NLM_F_CREATE | unix.NLM_F_EXCL
)

func hardware(mac string) ([]byte, error) {
	m, err := net.ParseMAC(mac)
	if err != nil {
		return nil, fmt.Errorf("hardware address %q: %w", mac, err)
	}
	return m, nil
}

func linkMsg(flags int) (*nl.NetlinkRequest, *nl.IfInfomsg) {
	q := nl.NewNetlinkRequest(unix.RTM_NEWLINK, flags)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	q.AddData(m)
	return q, m
}

func bridgeMsg(name string, s Bridge) (*nl.NetlinkRequest, error) {
	mac, err := hardware(s.MAC)
	if err != nil {
		return nil, err
	}
	q, _ := linkMsg(exclusive)
	q.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	q.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	q.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(s.MTU))))
	q.AddData(bridgeInfo())
	return q, nil
}

func bridgeInfo() *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
	data.AddRtAttr(nl.IFLA_BR_MCAST_SNOOPING, nl.Uint8Attr(0))
	return info
}

// vxlanMsg is sent in the host's namespace: there stays the UDP socket. The device itself is made in the namespace of fd at once; moving
// it there would take 20 ms.
func vxlanMsg(name string, s VXLAN, fd uintptr) (*nl.NetlinkRequest, error) {
	mac, err := hardware(s.MAC)
	if err != nil {
		return nil, err
	}
	q, m := linkMsg(exclusive)
	m.Flags, m.Change = 0, 0
	q.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	q.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	q.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(s.MTU))))
	q.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(fd))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("vxlan"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(s.VNI))
	if s.Local.Is4() {
		data.AddRtAttr(nl.IFLA_VXLAN_LOCAL, s.Local.AsSlice())
	} else { // over IPv6 the outer checksum stays on: zero is for those only who have asked for it (RFC 6935), and offloads make it cheap
		data.AddRtAttr(nl.IFLA_VXLAN_LOCAL6, s.Local.AsSlice())
	}
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, nl.BEUint16Attr(s.Port))
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, nl.Uint8Attr(0))
	data.AddRtAttr(nl.IFLA_VXLAN_UDP_CSUM, nl.Uint8Attr(0))
	q.AddData(info)
	return q, nil
}

// vethMsg makes the pair with both ends where they belong (IFLA_NET_NS_FD within VETH_INFO_PEER).
func vethMsg(name string, s Veth, master int32, peerFD uintptr) (*nl.NetlinkRequest, error) {
	mac, err := hardware(s.MAC)
	if err != nil {
		return nil, err
	}
	peerMAC, err := hardware(s.Peer.MAC)
	if err != nil {
		return nil, err
	}
	q, _ := linkMsg(exclusive | unix.NLM_F_ECHO)
	q.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	q.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	q.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(s.MTU))))
	if master > 0 {
		q.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("veth"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	peer := data.AddRtAttr(nl.VETH_INFO_PEER, nil)
	peer.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC)) // not up: veth(4) refuses that before both ends are there
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(s.Peer.Name))
	peer.AddRtAttr(unix.IFLA_ADDRESS, peerMAC)
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(s.MTU)))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(peerFD)))
	q.AddData(info)
	return q, nil
}

// changeMsgs changes what can be changed in place and is not so yet. A port's flags come before it goes up, and after it has a bridge.
func changeMsgs(now linkInfo, w linkWant, master int32) ([]*nl.NetlinkRequest, error) {
	q := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = now.index
	q.AddData(m)
	bare := len(q.Data)
	if w.mac != now.mac {
		hw, err := hardware(w.mac)
		if err != nil {
			return nil, err
		}
		q.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, hw))
	}
	if w.mtu != now.mtu {
		q.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(w.mtu))))
	}
	if w.alias != "" && w.alias != now.alias {
		q.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(w.alias)))
	}
	if now.group != 0 { // marked to be deleted, by an agent that died before it came to that
		q.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(0)))
	}
	if now.kind == "bridge" && !now.quiet {
		q.AddData(bridgeInfo())
	}
	var reqs []*nl.NetlinkRequest
	if master != now.master {
		q.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
		reqs = append(reqs, q)
		q = nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
		m = nl.NewIfInfomsg(unix.AF_UNSPEC)
		m.Index = now.index
		q.AddData(m)
	}
	if master != 0 && (master != now.master || !now.port.is(w.at)) {
		q.AddData(portInfoAttr(w.at))
	}
	if !now.up {
		m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	}
	if len(q.Data) > bare || !now.up {
		reqs = append(reqs, q)
	}
	return reqs, nil
}

// portInfoAttr sets a bridge port's flags.
func portInfoAttr(p Port) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	data := info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil)
	data.AddRtAttr(nl.IFLA_BRPORT_LEARNING, flag(false))
	data.AddRtAttr(nl.IFLA_BRPORT_UNICAST_FLOOD, flag(!p.NoFlood))
	data.AddRtAttr(nl.IFLA_BRPORT_MCAST_FLOOD, flag(!p.NoFlood || p.Multicast))
	data.AddRtAttr(nl.IFLA_BRPORT_BCAST_FLOOD, flag(!p.NoFlood || p.Multicast))
	data.AddRtAttr(nl.IFLA_BRPORT_NEIGH_SUPPRESS, flag(p.NeighSuppress))
	data.AddRtAttr(nl.IFLA_BRPORT_ISOLATED, flag(p.Isolated))
	data.AddRtAttr(nl.IFLA_BRPORT_MODE, flag(p.Hairpin))
	return info
}

func flag(on bool) []byte {
	if on {
		return []byte{1}
	}
	return []byte{0}
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func addrMsg(verb Verb, index int32, k Key) (*nl.NetlinkRequest, error) {
	p, err := netip.ParsePrefix(k.Dst)
	if err != nil {
		return nil, err
	}
	q := nl.NewNetlinkRequest(unix.RTM_NEWADDR, exclusive)
	if verb == Del {
		q = nl.NewNetlinkRequest(unix.RTM_DELADDR, 0)
	}
	m := nl.NewIfAddrmsg(int(family(p.Addr())))
	m.Index, m.Prefixlen = uint32(index), uint8(p.Bits())
	q.AddData(m)
	if verb == Put && p.Addr().Is6() { // used at once: nobody else has it, weft sees to that
		q.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD)))
	}
	q.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	q.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	return q, nil
}

func routeMsg(verb Verb, index int32, k Key, s Route, over bool) (*nl.NetlinkRequest, error) {
	p, table, err := parseRouteDst(k.Dst)
	if err != nil {
		return nil, err
	}
	flags := exclusive
	if over {
		flags = replace
	}
	q := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, flags)
	m := nl.NewRtMsg()
	if verb == Del {
		q = nl.NewNetlinkRequest(unix.RTM_DELROUTE, 0)
		m = nl.NewRtDelMsg()
	}
	m.Family, m.Dst_len, m.Protocol, m.Table = family(p.Addr()), uint8(p.Bits()), Proto, uint8(table&0xff)
	if verb == Put && !s.Via.IsValid() {
		m.Scope = unix.RT_SCOPE_LINK
	}
	if verb == Put && s.Via.IsValid() {
		m.Flags = uint32(unix.RTNH_F_ONLINK)
	}
	q.AddData(m)
	if p.Bits() > 0 {
		q.AddData(nl.NewRtAttr(unix.RTA_DST, p.Addr().AsSlice()))
	}
	if table > 0xff {
		m.Table = unix.RT_TABLE_UNSPEC
		q.AddData(nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(table)))
	}
	q.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	if s.Via.IsValid() {
		q.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, s.Via.AsSlice()))
	}
	if s.Src.IsValid() {
		q.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, s.Src.AsSlice()))
	}
	if s.Metric > 0 {
		q.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(s.Metric))))
	}
	return q, nil
}

func neighMsg(verb Verb, index int32, k Key, s Neigh) (*nl.NetlinkRequest, error) {
	a, err := netip.ParseAddr(k.Dst)
	if err != nil {
		return nil, err
	}
	q := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, replace)
	if verb == Del {
		q = nl.NewNetlinkRequest(unix.RTM_DELNEIGH, 0)
	}
	q.AddData(&netlink.Ndmsg{Family: family(a), Index: uint32(index), State: unix.NUD_PERMANENT})
	q.AddData(nl.NewRtAttr(unix.NDA_DST, a.AsSlice()))
	if verb == Put {
		mac, err := hardware(s.MAC)
		if err != nil {
			return nil, err
		}
		q.AddData(nl.NewRtAttr(unix.NDA_LLADDR, mac))
	}
	return q, nil
}

// selfSuffix marks the keys of a VXLAN device's own entries.
const (
	selfSuffix  = " self"
	zeroMAC     = "00:00:00:00:00:00"
	floodPrefix = zeroMAC + selfSuffix + " "
)

// FloodDst is Key.Dst of the entry that makes a VXLAN device send to a VTEP what it knows no other for.
func FloodDst(vtep netip.Addr) string { return floodPrefix + vtep.String() }

func fdbMsg(verb Verb, index int32, k Key, s FDB) (*nl.NetlinkRequest, error) {
	text, own := strings.CutSuffix(k.Dst, selfSuffix)
	flood := strings.HasPrefix(k.Dst, floodPrefix)
	if flood {
		text, own = zeroMAC, true
	}
	mac, err := hardware(text)
	if err != nil {
		return nil, err
	}
	q := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, replace)
	switch {
	case verb == Del:
		q = nl.NewNetlinkRequest(unix.RTM_DELNEIGH, 0)
	case flood: // one more VTEP, or nothing where it is one already
		q = nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	}
	// The bridge takes a permanent entry for an address of its own: a static one is NOARP alone.
	m := &netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(index), State: unix.NUD_NOARP, Flags: unix.NTF_MASTER}
	if own {
		m.State, m.Flags = unix.NUD_NOARP|unix.NUD_PERMANENT, unix.NTF_SELF
	}
	q.AddData(m)
	q.AddData(nl.NewRtAttr(unix.NDA_LLADDR, mac))
	if own && s.VTEP.IsValid() {
		q.AddData(nl.NewRtAttr(unix.NDA_DST, s.VTEP.AsSlice()))
	}
	return q, nil
}
