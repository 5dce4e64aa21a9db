package kernel

import (
	"encoding/binary"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nfMsg is a message of nfnetlink: whole tables are written with google/nftables; what has to be quick, and what must notice an
// interrupted dump, with these.
type nfMsg struct {
	typ, flags int
	body       []byte
}

func (m nfMsg) encode(seq uint32, ack bool) []byte {
	flags := m.flags | unix.NLM_F_REQUEST
	if ack {
		flags |= unix.NLM_F_ACK
	}
	return header(m.typ, flags, seq, m.body)
}

// nfType is a message type of nftables' subsystem.
func nfType(typ int) int { return unix.NFNL_SUBSYS_NFTABLES<<8 | typ }

// nfBody begins with struct nfgenmsg.
func nfBody(family uint8, resource uint16, attrs ...*nl.RtAttr) []byte {
	b := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	for _, a := range attrs {
		b = append(b, a.Serialize()...)
	}
	return b
}

func nfText(typ int, s string) *nl.RtAttr { return nl.NewRtAttr(typ, nl.ZeroTerminated(s)) }

// filters returns the namespace's nfnetlink socket.
func (c *conn) filters() (*socket, error) {
	if c.filter == nil {
		s := newSocket(c.ns, unix.NETLINK_NETFILTER)
		s.opened = c.mine.addSocket
		if err := s.open(); err != nil {
			return nil, err
		}
		c.filter = s
	}
	return c.filter, nil
}

// elementsMax keeps a message's list of elements below the 64 KiB of an attribute.
const elementsMax = 500

// transaction puts messages of nftables between those that make one transaction of them.
func transaction(msgs []message) []message {
	bound := func(typ int) message { return nfMsg{typ: typ, body: nfBody(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)} }
	return append(append([]message{bound(unix.NFNL_MSG_BATCH_BEGIN)}, msgs...), bound(unix.NFNL_MSG_BATCH_END))
}

// setPlace is where a set is.
type setPlace struct {
	family     uint8
	table, set string
}

// messages add or delete elements of a set.
func (p setPlace) messages(verb Verb, es []element) []message {
	var msgs []message
	for from := 0; from < len(es); from += elementsMax {
		list := nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, nil)
		for _, e := range es[from:min(from+elementsMax, len(es))] {
			item := list.AddRtAttr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, nil)
			item.AddRtAttr(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, nil).AddRtAttr(unix.NFTA_DATA_VALUE, e.key)
			if e.data != nil && verb == Put {
				item.AddRtAttr(unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED, nil).AddRtAttr(unix.NFTA_DATA_VALUE, e.data)
			}
			if e.end {
				item.AddRtAttr(unix.NFTA_SET_ELEM_FLAGS, nl.BEUint32Attr(unix.NFT_SET_ELEM_INTERVAL_END))
			}
		}
		m := nfMsg{typ: nfType(unix.NFT_MSG_NEWSETELEM), flags: unix.NLM_F_CREATE}
		if verb == Del {
			m = nfMsg{typ: nfType(unix.NFT_MSG_DELSETELEM)}
		}
		m.body = nfBody(p.family, 0, nfText(unix.NFTA_SET_ELEM_LIST_TABLE, p.table), nfText(unix.NFTA_SET_ELEM_LIST_SET, p.set), list)
		msgs = append(msgs, m)
	}
	return msgs
}

// element is a set's element as the kernel has it; an interval is two.
type element struct {
	key  []byte
	data []byte // of a map
	end  bool
}

// parseElements reads the elements of one message.
func parseElements(m []byte) []element {
	var out []element
	for typ, list := range nfAttributes(m) {
		if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for _, item := range attributes(list) {
			var e element
			for typ, v := range attributes(item) {
				switch typ {
				case unix.NFTA_SET_ELEM_KEY:
					for _, value := range attributes(v) {
						e.key = value
					}
				case unix.NFTA_SET_ELEM_DATA:
					for _, value := range attributes(v) {
						e.data = value
					}
				case unix.NFTA_SET_ELEM_FLAGS:
					e.end = len(v) == 4 && binary.BigEndian.Uint32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
				}
			}
			if e.key != nil {
				out = append(out, e)
			}
		}
	}
	return out
}

// nfAttributes walks a message's attributes behind struct nfgenmsg.
func nfAttributes(m []byte) func(func(uint16, []byte) bool) {
	return attributes(m[min(4, len(m)):])
}
