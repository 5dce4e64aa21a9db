package kernel

import (
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// hearing makes changes of rtnetlink's events. One goroutine uses it.
type hearing struct {
	k     *Kernel
	tell  func(Change) bool
	links map[int32]map[int32]linkInfo // by the namespace's number and the link's index: an address's event has no more than that
}

// doubt is told when events were lost: what was learned from them may be wrong too.
func (h *hearing) doubt() {
	clear(h.links)
	h.tell(Change{Doubt: true})
}

// seenLink is a link as an event showed it: any end of a pair.
type seenLink struct {
	linkInfo
	near Spec // what it is as weft's own
}

func (s seenLink) Equal(o Spec) bool { return s.near.Equal(o) }
func (s seenLink) String() string    { return s.near.String() }

func (h *hearing) event(m heard) {
	if m.Type == unix.RTM_DELNSID && m.nsid == hostNumber {
		h.ended(m.body)
		return
	}
	ns, ours := h.k.spaces.path(m.nsid)
	if !ours {
		return
	}
	s := scope{ns: ns, own: h.k.own(ns), host: ns == HostNS}
	switch m.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		h.link(s, m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if a, ok := parseAddr(m.body); ok && h.knows(&s, m.nsid, a.index) {
			k := Key{Kind: KindAddr, NS: ns, Link: s.links.byIndex[a.index].name, Dst: a.prefix.String()}
			h.is(Object{Key: k, Spec: Addr{}}, m.Type == unix.RTM_DELADDR)
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		h.route(s, m)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		if r, ok := parseRule(m.body); ok && r.protocol == Proto && r.plain {
			h.is(SourceRule(ns, r.from, r.table, int(r.priority)), m.Type == unix.RTM_DELRULE)
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		h.neigh(s, m)
	}
}

// is tells what is there now, or that it has gone.
func (h *hearing) is(o Object, gone bool) {
	c := Change{Key: o.Key, Now: o.Spec}
	if gone {
		c.Now = nil
	}
	h.tell(c)
}

// ended forgets a namespace. Its number may be another's by now, which has been noted before this was heard.
func (h *hearing) ended(body []byte) {
	n, ok := parseNSID(body)
	if !ok {
		return
	}
	delete(h.links, n)
	if ns, gone := h.k.recheck(n); gone {
		h.k.settings.drop(func(k Key) bool { return k.NS == ns })
	}
}

// knows reads the links of a namespace where one is not known yet: they were there before anything of it was heard.
func (h *hearing) knows(s *scope, nsid, index int32) bool {
	if _, ok := h.links[nsid][index]; !ok {
		err := h.k.with(s.ns, func(c *conn) error {
			t, err := readLinks(context.Background(), c)
			h.links[nsid] = t.byIndex
			return err
		})
		if err != nil { // it has gone meanwhile
			delete(h.links, nsid)
		}
	}
	s.links.byIndex = h.links[nsid]
	_, ok := h.links[nsid][index]
	return ok
}

func (h *hearing) link(s scope, m heard) {
	l, ok := parseLink(m.body)
	if !ok {
		return
	}
	before, known := h.links[m.nsid][l.index]
	if m.body[0] == unix.AF_BRIDGE { // of a port of a bridge, which it may be no longer
		if !known {
			return
		}
		l, before.port = before, portInfo{}
		if m.Type == unix.RTM_DELLINK {
			l.master = 0
		}
		for typ, v := range attributes(m.body[unix.SizeofIfInfomsg:]) {
			if typ == unix.IFLA_PROTINFO {
				l.port = portInfo{}
				parsePort(v, &l.port)
			}
		}
	} else if m.Type == unix.RTM_DELLINK {
		h.removed(s, m.nsid, l)
		return
	}
	if known && before.name != l.name {
		h.removed(s, m.nsid, before)
	}
	if h.links[m.nsid] == nil {
		h.links[m.nsid] = map[int32]linkInfo{}
	}
	h.links[m.nsid][l.index] = l
	s.links.byIndex = h.links[m.nsid]
	if l.master != 0 && !h.knows(&s, m.nsid, l.master) {
		return
	}
	if o, ok := s.object(l); ok {
		h.tell(Change{Key: o.Key, Now: seenLink{l, o.Spec}})
	}
}

func (h *hearing) removed(s scope, nsid int32, l linkInfo) {
	delete(h.links[nsid], l.index)
	if o, ok := s.object(l); ok {
		h.is(o, true)
	}
	h.k.settings.drop(func(k Key) bool { return k.Kind == KindConf && k.NS == s.ns && k.Link == l.name })
}

func (h *hearing) route(s scope, m heard) {
	r, ok := parseRoute(m.body)
	if ok && r.protocol == Proto && h.knows(&s, m.nsid, r.oif) {
		k := Key{Kind: KindRoute, NS: s.ns, Link: s.links.byIndex[r.oif].name, Dst: RouteDst(r.dst, r.table)}
		h.is(Object{Key: k, Spec: r.Route}, m.Type == unix.RTM_DELROUTE)
	}
}

func (h *hearing) neigh(s scope, m heard) {
	n, ok := parseNeigh(m.body)
	if !ok || !h.knows(&s, m.nsid, n.index) {
		return
	}
	gone := m.Type == unix.RTM_DELNEIGH
	if m.body[0] != unix.AF_BRIDGE {
		if n.dst.IsValid() {
			h.is(s.neigh(n), gone)
		}
		return
	}
	if o, ok := s.entry(n); ok {
		h.is(o, gone)
	}
}

// routeFilter lets the kernel leave out what is never of interest, before it wakes anybody: neighbours that come and go by themselves, and
// routes of other protocols.
func routeFilter() *unix.SockFprog {
	const typeAt, routeProtocolAt, neighStateAt = 4, unix.NLMSG_HDRLEN + 5, unix.NLMSG_HDRLEN + 8
	load := func(size uint16, at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: at}
	}
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	prog := []unix.SockFilter{
		load(unix.BPF_H, typeAt),
		jump(unix.BPF_JEQ, loaded(unix.RTM_NEWNEIGH), 2, 0),
		jump(unix.BPF_JEQ, loaded(unix.RTM_DELROUTE), 3, 0),
		jump(unix.BPF_JEQ, loaded(unix.RTM_NEWROUTE), 2, 4),
		load(unix.BPF_H, neighStateAt),
		jump(unix.BPF_JSET, loaded(unix.NUD_PERMANENT|unix.NUD_NOARP), 2, 3),
		load(unix.BPF_B, routeProtocolAt),
		jump(unix.BPF_JEQ, Proto, 0, 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 31},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
}

// loaded is what a filter sees of a number of two bytes: it loads them in the order of the network.
func loaded(v uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
}
