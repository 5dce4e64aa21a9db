package dnssvc

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"weft/store/record"
)

// Every address of a shared alias is the first one equally often, also for a client that asks for A and AAAA in turn.
func TestAddressesTakeTurns(t *testing.T) {
	w := newWorld(t)
	blue := w.network("blue")
	const n = 4
	for i := range n {
		w.ep(blue, fmt.Sprintf("w%d 10.0.0.%d fd00::%d all", i, i+1, i+1))
	}
	l := &locals{picture: w.picture, usable: func(*record.Endpoint) bool { return true }}
	sb := Sandbox{Networks: []Network{{ID: blue}}}
	k := newKnowledge(sb)
	first := map[string]int{}
	for range 10 * n {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			q := new(dns.Msg)
			q.SetQuestion("all.", qtype)
			packet, err := q.Pack()
			if err != nil {
				t.Fatal(err)
			}
			l.begin(k)
			out, _ := l.answer(packet, false)
			l.done()
			m := new(dns.Msg)
			if err := m.Unpack(out); err != nil || len(m.Answer) != n {
				t.Fatal(m, err)
			}
			first[strings.TrimPrefix(m.Answer[0].String(), m.Answer[0].Header().String())]++
		}
	}
	if len(first) != 2*n {
		t.Fatalf("first were %v", first)
	}
	for a, times := range first {
		if times != 10 {
			t.Errorf("%s was first %d times, want 10", a, times)
		}
	}
}

// A name that was looked up is forgotten when the picture or the sandbox changes, and the table of names does not grow for ever.
func TestRememberedNames(t *testing.T) {
	w := newWorld(t)
	blue := w.network("blue")
	l := &locals{picture: w.picture, usable: func(*record.Endpoint) bool { return true }}
	sb := Sandbox{Networks: []Network{{ID: blue}}}
	if got, _ := asked(t, l, sb, "a", dns.TypeA); got != "forward" {
		t.Fatal(got)
	}
	w.ep(blue, "a 10.0.0.1")
	if got, _ := asked(t, l, sb, "a", dns.TypeA); got != "10.0.0.1" {
		t.Fatal("after the picture changed:", got)
	}
	if got, _ := asked(t, l, Sandbox{}, "a", dns.TypeA); got != "forward" {
		t.Fatal("after the sandbox left the network:", got)
	}
	for i := range 3 * maxEntries {
		asked(t, l, sb, fmt.Sprintf("n%d", i), dns.TypeA)
		if len(l.entries) > maxEntries {
			t.Fatalf("%d names are remembered", len(l.entries))
		}
	}
}

func TestPacketsThatAreNoGoodQuestions(t *testing.T) {
	w := newWorld(t)
	blue := w.network("blue")
	w.ep(blue, "a 10.0.0.1")
	sb := Sandbox{Networks: []Network{{ID: blue}}}
	good := func(change func(*dns.Msg)) []byte {
		m := new(dns.Msg)
		m.SetQuestion("a.", dns.TypeA)
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		what   string
		packet []byte
		want   string
	}{
		{"a good one", good(func(*dns.Msg) {}), "10.0.0.1"},
		{"too short", make([]byte, 11), "drop"},
		{"an answer", good(func(m *dns.Msg) { m.Response = true }), "drop"},
		{"another opcode", good(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), "NOTIMP"},
		{"no question", good(func(m *dns.Msg) { m.Question = nil }), "FORMERR"},
		{"two questions", good(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), "FORMERR"},
		{"cut in the name", good(func(*dns.Msg) {})[:13], "FORMERR"},
		{"cut behind the name", good(func(*dns.Msg) {})[:17], "FORMERR"},
		{"a class that is not IN", good(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), "REFUSED"},
		{"a zone transfer", good(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), "REFUSED"},
		{"an EDNS of the future", good(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), "BADVERS"},
		{"two OPT", good(func(m *dns.Msg) { m.SetEdns0(1232, false); m.Extra = append(m.Extra, m.Extra[0]) }), "FORMERR"},
		{"a record that is not there", func() []byte { b := good(func(*dns.Msg) {}); b[11] = 1; return b }(), "FORMERR"},
		{"a compressed name", append(make([]byte, 5), 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1), "FORMERR"},
		{"a long label", append(append(append([]byte{0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 64}, make([]byte, 64)...), 0), 0, 1, 0, 1), "FORMERR"},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := &locals{picture: w.picture, usable: func(*record.Endpoint) bool { return true }}
			l.begin(newKnowledge(sb))
			id := slices.Clone(c.packet[:2])
			out, v := l.answer(slices.Clone(c.packet), false)
			if v == drop {
				if c.want != "drop" {
					t.Errorf("was dropped, want %s", c.want)
				}
				return
			}
			m := new(dns.Msg)
			if err := m.Unpack(out); err != nil {
				t.Fatal(err)
			}
			if o := m.IsEdns0(); o != nil && o.ExtendedRcode() > 0 {
				m.Rcode = o.ExtendedRcode() | m.Rcode
			}
			if got := shown(m); got != strings.Replace(c.want, "BADVERS", dns.RcodeToString[dns.RcodeBadVers], 1) || !slices.Equal(out[:2], id) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// An answer that was given before makes no garbage: at 100,000 a second it would be the agent's main work to clear it.
func TestAnswersDoNotAllocate(t *testing.T) {
	w := newWorld(t)
	blue := w.network("blue")
	w.ep(blue, "a 10.0.0.1 fd00::1")
	l := &locals{picture: w.picture, usable: func(*record.Endpoint) bool { return true }}
	k := newKnowledge(Sandbox{Networks: []Network{{ID: blue}}})
	var room [packetSize]byte
	for _, q := range []*dns.Msg{
		query("a", dns.TypeA), query("A.Blue", dns.TypeAAAA), query("a", dns.TypeTXT, edns(1232)), query("1.0.0.10.in-addr.arpa", dns.TypePTR),
	} {
		packet, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		allocs := testing.AllocsPerRun(100, func() {
			l.begin(k)
			if _, v := l.answer(room[:copy(room[:], packet)], false); v != reply {
				t.Errorf("no answer to %v", q)
			}
			l.done()
		})
		if allocs != 0 {
			t.Errorf("%v allocations to answer %v", allocs, q.Question[0])
		}
	}
}
