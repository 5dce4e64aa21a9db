package dnssvc

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"weak"

	"weft/store/record"
)

// localTTL is how long a name of the cluster may be kept by who asked, in seconds. An endpoint that is gone has to be forgotten at once
// (Docker's 600 s outlive every restart); 1 still spares the burst of a program that asks for each connection, and unlike 0 no cache
// between is known to mistreat it.
const localTTL = 1

const (
	maxUDPAnswer = 4096 // of local names, to askers that take more; on loopback nothing is fragmented
	maxTCPAnswer = 65535
	ownUDPSize   = 1232 // what this resolver takes itself (DNS flag day 2020)
	maxEntries   = 1024 // names that a view remembers
)

// verdict is what becomes of a packet.
type verdict int

const (
	drop verdict = iota
	reply
	pass // not a name of the cluster: forward it
)

// locals answers the names of the cluster for one sandbox. It belongs to one goroutine, and remembers what it looked up as long as the
// picture and the sandbox stay the same.
type locals struct {
	picture func() *record.Snapshot
	usable  func(*record.Endpoint) bool

	q       question
	known   *knowledge
	now     *record.Snapshot              // only within begin and done
	seen    weak.Pointer[record.Snapshot] // whose entries these are; weak, so that an idle resolver keeps no old picture alive
	entries map[string]*entry
	addrs   []netip.Addr // scratch
	ends    []int        // scratch: where in addrs those of each network end
}

// entry is a name that was looked up, and whose turn it is among its addresses. A and AAAA take turns apart: a client that always asks
// for both would see every second address only.
type entry struct {
	*found
	turn4, turn6 uint32
}

// knowledge is a Sandbox as it was set.
type knowledge struct {
	Sandbox
	servers []netip.AddrPort
}

func newKnowledge(sb Sandbox) *knowledge {
	return &knowledge{Sandbox: sb, servers: serversAt(sb.Servers)}
}

// begin takes the newest picture for the questions until done.
func (l *locals) begin(k *knowledge) {
	l.now = l.picture()
	if l.now == nil {
		l.now = record.Empty()
	}
	if l.known == k && l.seen.Value() == l.now {
		return
	}
	l.known, l.seen = k, weak.Make(l.now)
	clear(l.entries)
}

func (l *locals) done() { l.now = nil }

// entry returns what the picture has for the question's name.
func (l *locals) entry() *entry {
	if e, ok := l.entries[string(l.q.name())]; ok {
		return e
	}
	if l.entries == nil || len(l.entries) >= maxEntries {
		l.entries = map[string]*entry{}
	}
	name := string(l.q.name())
	e := &entry{found: lookup(l.now, l.known.Networks, name), turn4: rand.Uint32(), turn6: rand.Uint32()}
	l.entries[name] = e
	return e
}

// answer reads a packet and writes the answer over it, or into a longer slice where it does not fit. The packet must not be used after a
// reply; on pass it is untouched and l.q describes it.
func (l *locals) answer(b []byte, tcp bool) ([]byte, verdict) {
	q := &l.q
	if !q.parse(b) {
		return nil, drop
	}
	w := writer{q: q, limit: q.limit(tcp)}
	if q.rcode != rcodeOK {
		return w.finish(w.begin(b), q.rcode), reply
	}
	if !q.plain || q.n == 0 {
		return l.unknown(&w, b, false)
	}
	e := l.entry()
	if name, ok := l.pointer(e); ok {
		w.authority = true
		out := w.begin(b)
		if q.qtype == typePTR {
			out = w.pointer(out, name)
		}
		return w.finish(out, rcodeOK), reply
	}
	if !l.exists(e) {
		doubt := e.blind && (q.single() || e.ours || l.known.Internal)
		if e.owned && !doubt {
			w.authority = true
			return w.finish(w.begin(b), rcodeName), reply
		}
		return l.unknown(&w, b, doubt)
	}
	w.authority = true
	out := w.begin(b)
	switch q.qtype {
	case typeA:
		out = w.addresses(out, l.addrs, l.ends, e.turn4)
		e.turn4++
	case typeAAAA:
		out = w.addresses(out, l.addrs, l.ends, e.turn6)
		e.turn6++
	}
	return w.finish(out, rcodeOK), reply
}

// unknown is the way of a name that nobody in the sandbox's networks has. Where that cannot be told for sure and no other server would know better, the
// asker is told to ask again.
func (l *locals) unknown(w *writer, b []byte, doubt bool) ([]byte, verdict) {
	switch {
	case doubt:
		return w.finish(w.begin(b), rcodeServer), reply
	case l.known.Internal:
		return w.finish(w.begin(b), rcodeName), reply
	}
	return nil, pass
}

// exists tells whether a usable endpoint, or a virtual address, has the name, and leaves the addresses of the question's family in l.addrs.
func (l *locals) exists(e *entry) bool {
	for _, groups := range e.ranks {
		l.addrs, l.ends = l.addrs[:0], l.ends[:0]
		some := false
		for i := range groups {
			some = l.take(&groups[i]) || some
			l.ends = append(l.ends, len(l.addrs))
		}
		if some {
			return true
		}
	}
	return false
}

// take adds the addresses of one network; false if nothing there can be answered with.
func (l *locals) take(g *group) bool {
	some := len(g.vips) > 0
	for _, v := range g.vips {
		l.takeAddrs(v.Addrs)
	}
	for _, ep := range g.eps {
		if l.usable(ep) {
			some = true
			l.takeAddrs(ep.Addrs)
		}
	}
	return some
}

func (l *locals) takeAddrs(addrs []netip.Addr) {
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() == (l.q.qtype == typeA) {
			l.addrs = append(l.addrs, a)
		}
	}
}

func (l *locals) pointer(e *entry) (string, bool) {
	for _, p := range e.pointers {
		if p.ep == nil || l.usable(p.ep) {
			return p.name, true
		}
	}
	return "", false
}

// limit is how long the answer to a question may be.
func (q *question) limit(tcp bool) int {
	switch {
	case tcp:
		return maxTCPAnswer
	case q.edns:
		return int(min(q.size, maxUDPAnswer))
	}
	return minUDPSize
}

// writer writes an answer behind the question that it answers.
type writer struct {
	q         *question
	limit     int
	answers   int
	authority bool
	truncated bool
}

// begin cuts a packet behind its question.
func (w *writer) begin(b []byte) []byte {
	if w.q.end == 0 {
		return b[:headerLen]
	}
	return b[:w.q.end]
}

// room tells whether n bytes more fit beside the OPT; the answer is marked as truncated if not.
func (w *writer) room(out []byte, n int) bool {
	if w.q.edns {
		n += ednsFixedLen
	}
	if len(out)+n <= w.limit {
		return true
	}
	w.truncated = true
	return false
}

// record writes the part of a record that is before its data, at the question's name.
func (w *writer) record(out []byte, rrtype uint16, length int) []byte {
	w.answers++
	return append(out, 0xc0, headerLen, byte(rrtype>>8), byte(rrtype), 0, classIN, 0, 0, 0, localTTL, byte(length>>8), byte(length))
}

// addresses writes A or AAAA records, as many as fit: the networks' in the order in which the sandbox is in them, as Docker searches them, and of
// each beginning with the one whose turn it is.
func (w *writer) addresses(out []byte, addrs []netip.Addr, ends []int, turn uint32) []byte {
	from := 0
	for _, end := range ends {
		if end > from {
			out = w.rotated(out, addrs[from:end], turn)
		}
		from = end
	}
	return out
}

func (w *writer) rotated(out []byte, addrs []netip.Addr, turn uint32) []byte {
	for i := range addrs {
		a := addrs[(int(turn%uint32(len(addrs)))+i)%len(addrs)]
		if a.Is4() {
			if !w.room(out, 2+rrFixedLen+4) {
				break
			}
			v4 := a.As4()
			out = append(w.record(out, typeA, 4), v4[:]...)
			continue
		}
		if !w.room(out, 2+rrFixedLen+16) {
			break
		}
		v6 := a.As16()
		out = append(w.record(out, typeAAAA, 16), v6[:]...)
	}
	return out
}

// pointer writes a PTR record; a name that does not have the form of a DNS name is left out.
func (w *writer) pointer(out []byte, name string) []byte {
	length := len(name) + 2
	if length > maxNameLen || !w.room(out, 2+rrFixedLen+length) {
		return out
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > maxLabelLen {
			return out
		}
	}
	out = w.record(out, typePTR, length)
	for label := range strings.SplitSeq(name, ".") {
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0)
}

// finish adds the OPT and writes the header.
func (w *writer) finish(out []byte, rcode int) []byte {
	extra := uint16(0)
	if w.q.edns {
		extra = 1
		do := byte(0)
		if w.q.do {
			do = 0x80
		}
		out = append(out, 0, 0, typeOPT, ownUDPSize>>8, ownUDPSize&0xff, byte(rcode>>4), 0, do, 0, 0, 0)
	}
	flags := flagResponse | flagRecursible | w.q.flags&(opcodeMask|flagRecurse|flagUnchecked) | uint16(rcode&0xf)
	if w.authority {
		flags |= flagAuthority
	}
	if w.truncated {
		flags |= flagTruncated
	}
	questions := uint16(0)
	if w.q.end > 0 {
		questions = 1
	}
	binary.BigEndian.PutUint16(out[2:], flags)
	binary.BigEndian.PutUint16(out[4:], questions)
	binary.BigEndian.PutUint16(out[6:], uint16(w.answers))
	binary.BigEndian.PutUint16(out[8:], 0)
	binary.BigEndian.PutUint16(out[10:], extra)
	return out
}
