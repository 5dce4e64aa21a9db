package dnssvc

import "encoding/binary"

// Numbers of RFC 1035, 2671 and 6891 that the parser and the writer of answers share.
const (
	headerLen = 12

	flagResponse   = 1 << 15
	flagAuthority  = 1 << 10
	flagTruncated  = 1 << 9
	flagRecurse    = 1 << 8
	flagRecursible = 1 << 7
	flagAuthentic  = 1 << 5
	flagUnchecked  = 1 << 4
	opcodeMask     = 0xf << 11

	typeA    = 1
	typePTR  = 12
	typeAAAA = 28
	typeOPT  = 41
	typeTKEY = 249 // up to 252, AXFR: about the transport or whole zones, not about a name
	typeAXFR = 252
	classIN  = 1

	rcodeOK       = 0
	rcodeForm     = 1
	rcodeServer   = 2
	rcodeName     = 3
	rcodeNotImpl  = 4
	rcodeRefused  = 5
	rcodeBadVers  = 16
	maxNameLen    = 255
	maxLabelLen   = 63
	minUDPSize    = 512
	ednsFixedLen  = 11
	rrFixedLen    = 10 // after the name
	questionFixed = 4
)

// question is what a packet asks, read by hand: a question for a name of the cluster is answered without an allocation. Its zero value is
// ready, and it may be used again and again.
type question struct {
	flags  uint16
	qtype  uint16
	qclass uint16
	end    int // where the question ends in the packet; 0 if there is none to repeat
	rcode  int // what is wrong with it
	dots   int
	plain  bool // the name has only bytes that names of sandboxes and networks have
	n      int
	text   [maxNameLen]byte // the name, in lower case and with dots between the labels

	edns bool
	size uint16 // largest UDP answer that the asker takes
	do   bool
}

// name is the folded name; it is valid until the next parse.
func (q *question) name() []byte { return q.text[:q.n] }

// single tells whether the name is one label.
func (q *question) single() bool { return q.n > 0 && q.dots == 0 }

// parse reads a packet. False means that it must not be answered at all: it is no question. Otherwise rcode tells whether the question can
// be answered.
func (q *question) parse(b []byte) bool {
	q.end, q.rcode, q.edns, q.size, q.do = 0, rcodeOK, false, minUDPSize, false
	if len(b) < headerLen {
		return false
	}
	q.flags = binary.BigEndian.Uint16(b[2:])
	switch {
	case q.flags&flagResponse != 0: // an answer to an answer would be the begin of a loop
		return false
	case q.flags&opcodeMask != 0:
		q.rcode = rcodeNotImpl
		return true
	case binary.BigEndian.Uint16(b[4:]) != 1:
		q.rcode = rcodeForm
		return true
	}
	end, ok := q.parseName(b)
	if !ok || end+questionFixed > len(b) {
		q.rcode = rcodeForm
		return true
	}
	q.qtype = binary.BigEndian.Uint16(b[end:])
	q.qclass = binary.BigEndian.Uint16(b[end+2:])
	q.end = end + questionFixed
	if q.rcode = q.parseRest(b); q.rcode != rcodeOK {
		return true
	}
	if q.qclass != classIN || q.qtype == typeOPT || q.qtype >= typeTKEY && q.qtype <= typeAXFR {
		q.rcode = rcodeRefused
	}
	return true
}

// parseName reads the name of the question. It cannot be compressed: nothing stands before it.
func (q *question) parseName(b []byte) (end int, ok bool) {
	at := headerLen
	q.n, q.dots, q.plain = 0, 0, true
	for {
		if at >= len(b) {
			return 0, false
		}
		l := int(b[at])
		at++
		if l == 0 {
			return at, true
		}
		if l > maxLabelLen || at+l > len(b) || at+l-headerLen >= maxNameLen {
			return 0, false
		}
		if q.n > 0 {
			q.text[q.n] = '.'
			q.n++
			q.dots++
		}
		for _, c := range b[at : at+l] {
			f := folded[c]
			if f == 0 {
				q.plain = false
				f = c
			}
			q.text[q.n] = f
			q.n++
		}
		at += l
	}
}

// folded maps the bytes that names may have to lower case, and all others to 0.
var folded = func() (t [256]byte) {
	for c := range 256 {
		switch {
		case c >= 'A' && c <= 'Z':
			t[c] = byte(c) + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			t[c] = byte(c)
		}
	}
	return t
}()

// parseRest looks through the records after the question for the asker's OPT.
func (q *question) parseRest(b []byte) (rcode int) {
	records := int(binary.BigEndian.Uint16(b[6:])) + int(binary.BigEndian.Uint16(b[8:]))
	additional := int(binary.BigEndian.Uint16(b[10:]))
	at := q.end
	for i := range records + additional {
		start := at
		var ok bool
		if at, ok = skipName(b, at); !ok || at+rrFixedLen > len(b) {
			return rcodeForm
		}
		fixed := b[at : at+rrFixedLen]
		at += rrFixedLen + int(binary.BigEndian.Uint16(fixed[8:]))
		if at > len(b) {
			return rcodeForm
		}
		if binary.BigEndian.Uint16(fixed) != typeOPT || i < records {
			continue
		}
		if q.edns || b[start] != 0 { // RFC 6891, 6.1.1: one at most, at the root
			return rcodeForm
		}
		q.edns = true
		q.size = max(minUDPSize, binary.BigEndian.Uint16(fixed[2:]))
		q.do = fixed[6]&0x80 != 0
		if fixed[5] != 0 {
			rcode = rcodeBadVers
		}
	}
	return rcode
}

// skipName returns where the name at at ends.
func skipName(b []byte, at int) (end int, ok bool) {
	for at < len(b) {
		l := int(b[at])
		switch {
		case l == 0:
			return at + 1, true
		case l >= 0xc0: // a pointer is the end of a name
			return at + 2, at+2 <= len(b)
		case l > maxLabelLen:
			return 0, false
		}
		at += 1 + l
	}
	return 0, false
}
