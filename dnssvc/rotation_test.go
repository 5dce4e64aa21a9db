package dnssvc

import (
	"testing"

	"github.com/miekg/dns"

	"weft/store/record"
)

// addresses are those of an answer in its order.
func addresses(m *dns.Msg) (out []string) {
	if m == nil {
		return nil
	}
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		}
	}
	return out
}

// Over many questions each address is first as often as any other, in either family, also for who always asks for both, and after the members
// have changed in the middle.
func TestRotationIsFair(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	blue := w.network("blue")
	a := w.ep(blue, "a 10.0.0.1 fd00::1 www")
	w.ep(blue, "b 10.0.0.2 fd00::2 www")
	w.ep(blue, "c 10.0.0.3 fd00::3 www")
	k := newKnowledge(Sandbox{Networks: []Network{{ID: blue}}})
	down := map[record.EndpointID]bool{}
	l := &locals{picture: w.picture, usable: func(ep *record.Endpoint) bool { return !down[ep.ID] }}
	fair := func(what string, members int) {
		t.Helper()
		first := map[string]int{}
		const each = 500
		for range each * members {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
				_, m := askedAs(t, l, k, "www", qtype)
				got := addresses(m)
				if len(got) != members {
					t.Fatalf("%s: %v, want %d addresses", what, got, members)
				}
				first[got[0]]++
			}
		}
		if len(first) != 2*members {
			t.Errorf("%s: first were %v", what, first)
		}
		for addr, n := range first {
			if n < each-1 || n > each+1 {
				t.Errorf("%s: %s was first %d times, want %d", what, addr, n, each)
			}
		}
	}
	fair("three", 3)
	down[a.ID] = true
	fair("one of them stopped", 2)
	down[a.ID] = false
	fair("it is back", 3)
	w.ep(blue, "d 10.0.0.4 fd00::4 www")
	fair("another one came", 4)
}

// A resolver that forgets at each change of the picture begins anywhere: on the average that is fair too.
func TestRotationIsFairThoughThePictureChangesAllTheTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	blue := w.network("blue")
	w.ep(blue, "a 10.0.0.1 www")
	w.ep(blue, "b 10.0.0.2 www")
	k := newKnowledge(Sandbox{Networks: []Network{{ID: blue}}})
	l := &locals{picture: w.picture, usable: func(*record.Endpoint) bool { return true }}
	first := map[string]int{}
	const rounds = 2000
	for range rounds {
		w.apply(record.NetPartition(blue))
		_, m := askedAs(t, l, k, "www", dns.TypeA)
		first[addresses(m)[0]]++
	}
	for addr, n := range first { // six standard deviations of a fair coin are 134
		if n < rounds/2-134 || n > rounds/2+134 {
			t.Errorf("%s was first %d times of %d", addr, n, rounds)
		}
	}
}

// Where a name means addresses in several networks, those of the network come first that the sandbox was attached to first; each network's take
// turns among themselves.
func TestNetworksAreSearchedInTheOrderOfAttachment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	blue, green := w.network("blue"), w.network("green")
	for _, spec := range []string{"a 10.0.1.1 www", "b 10.0.1.2 www"} {
		w.ep(blue, spec)
	}
	w.ep(green, "c 10.0.2.1 www")
	for _, c := range []struct {
		in     []Network
		blueIs int // where the addresses of blue begin
	}{
		{[]Network{{ID: blue}, {ID: green}}, 0},
		{[]Network{{ID: green}, {ID: blue}}, 1},
	} {
		l := &locals{picture: w.picture, usable: func(*record.Endpoint) bool { return true }}
		k := newKnowledge(Sandbox{Networks: c.in})
		first := map[string]int{}
		for range 100 {
			_, m := askedAs(t, l, k, "www", dns.TypeA)
			got := addresses(m)
			if len(got) != 3 || got[2-2*c.blueIs] != "10.0.2.1" {
				t.Fatalf("answer %v with blue at %d", got, c.blueIs)
			}
			first[got[c.blueIs]]++
		}
		if first["10.0.1.1"] != 50 || first["10.0.1.2"] != 50 {
			t.Errorf("first of blue: %v", first)
		}
	}
}
