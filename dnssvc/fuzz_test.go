package dnssvc

import (
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"weft/store/record"
)

func seeds(f *testing.F) {
	f.Helper()
	for _, m := range []*dns.Msg{
		query("a", dns.TypeA), query("b.Blue", dns.TypeAAAA, edns(4096)), query("1.0.0.10.in-addr.arpa", dns.TypePTR),
		query("all", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) }), query(".", dns.TypeNS), query(`x\.y.z`, dns.TypeTXT),
		query("all", dns.TypeA, func(m *dns.Msg) { m.SetTsig("k.", dns.HmacSHA256, 300, 0) }),
		query(strings.Repeat("a23456789.", 25), dns.TypeA), query("example.com", dns.TypeAXFR),
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// The parser by hand reads what the library reads, and reads nothing that it does not.
func FuzzQuestion(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		var q question
		isQuestion := q.parse(b)
		m := new(dns.Msg)
		err := m.Unpack(b)
		if err != nil || !isQuestion {
			if err == nil && !m.Response {
				t.Fatalf("only the library sees a question: %v", m)
			}
			return
		}
		if m.Opcode != dns.OpcodeQuery || len(m.Question) != 1 || compressed(b) {
			if q.rcode == rcodeOK {
				t.Fatalf("only the parser sees a good question: %v", m)
			}
			return
		}
		sizes := len(m.Answer)+len(m.Ns)+len(m.Extra) == counts(b) // else the library gave up at the end of the packet
		if q.rcode == rcodeForm {
			cut := m.Question[0].Qclass == 0 // the library reads a question that ends early
			if sizes && !cut && count(m) < 2 && !oddOPT(m) {
				t.Fatalf("only the library reads it: %v", m)
			}
			return
		}
		want := m.Question[0]
		name, _, err := dns.UnpackDomainName(b, headerLen)
		if err != nil || int(want.Qtype) != int(q.qtype) || int(want.Qclass) != int(q.qclass) {
			t.Fatalf("parser: type %d class %d, library: %v", q.qtype, q.qclass, want)
		}
		if q.plain && strings.TrimSuffix(strings.ToLower(name), ".") != string(q.name()) {
			t.Fatalf("parser: %q, library: %q", q.name(), name)
		}
		if o := m.IsEdns0(); (o != nil) != q.edns && sizes {
			t.Fatalf("parser: EDNS %v, library: %v", q.edns, o)
		} else if o != nil && q.edns && (q.do != o.Do() || q.size != max(minUDPSize, o.UDPSize()) || (o.Version() != 0) != (q.rcode == rcodeBadVers)) {
			t.Fatalf("parser: size %d DO %v code %d, library: %v", q.size, q.do, q.rcode, o)
		}
	})
}

// compressed tells whether the question's name is, which is legal to the letter and of no use.
func compressed(b []byte) bool {
	for at := headerLen; at < len(b) && b[at] != 0; at += 1 + int(b[at]) {
		if b[at] >= 0xc0 {
			return true
		}
	}
	return false
}

func counts(b []byte) int {
	return int(b[6])<<8 + int(b[7]) + int(b[8])<<8 + int(b[9]) + int(b[10])<<8 + int(b[11])
}

func count(m *dns.Msg) (n int) {
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			n++
		}
	}
	return n
}

// oddOPT tells whether an OPT is not at the root, where the library lets it be.
func oddOPT(m *dns.Msg) bool { return m.IsEdns0() != nil && m.IsEdns0().Hdr.Name != "." }

// Whatever comes in, what goes out is nothing or a message that can be read, is an answer, and is not too long.
func FuzzServe(f *testing.F) {
	seeds(f)
	w := newWorld(f)
	blue := w.network("blue")
	for i := range 100 {
		w.ep(blue, string(rune('a'+i%26))+strings.Repeat("x", i)+" 10.0.0."+strconv.Itoa(i+1)+" fd00::"+strconv.Itoa(i+1)+" all")
	}
	k := newKnowledge(Sandbox{Networks: []Network{{ID: blue, Links: []record.Link{{Target: "a", Alias: "b"}}}}})
	inner := newKnowledge(Sandbox{Networks: k.Networks, Internal: true})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, tcp := range []bool{false, true} {
			for _, k := range []*knowledge{k, inner} {
				l := &locals{picture: w.picture, usable: func(*record.Endpoint) bool { return true }}
				l.begin(k)
				packet := append([]byte(nil), b...)
				out, v := l.answer(packet, tcp)
				l.done()
				switch {
				case v == drop:
					continue
				case v == pass:
					if k.Internal {
						t.Fatal("a question leaves an internal network")
					}
					a := newAsk(&l.q, packet, tcp, nil)
					a.q.Name, _, _ = dns.UnpackDomainName(a.head, headerLen)
					if out = a.fail(dns.RcodeServerFailure, strings.Repeat("x", 1000)); out == nil {
						t.Fatal("no answer to a question that cannot be forwarded")
					}
				}
				m := new(dns.Msg)
				if err := m.Unpack(out); err != nil {
					t.Fatalf("%x cannot be read: %v", out, err)
				}
				if !m.Response || out[0] != b[0] || out[1] != b[1] || len(out) > l.q.limit(tcp) {
					t.Fatalf("%d bytes of %v", len(out), m)
				}
			}
		}
	})
}
