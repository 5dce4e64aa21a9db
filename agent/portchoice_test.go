package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/store/record"
)

var everywhere = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}

func (w portWish) String() string {
	return fmt.Sprintf("%v:%d-%d->%d/%s", w.addrs, w.first, w.last, w.port, w.proto)
}

func TestPortWishes(t *testing.T) {
	t.Parallel()
	one := []netip.Addr{ip("127.0.0.1")}
	for _, c := range []struct {
		name string
		s    record.Sandbox
		want []portWish
	}{
		{"nothing", record.Sandbox{Expose: []record.PortSpec{{Proto: "tcp", First: 1, Last: 9}}}, nil},
		{"a port", record.Sandbox{Ports: []record.PortSpec{{Proto: "tcp", HostFirst: 8080, HostLast: 8080, First: 80, Last: 80}}}, []portWish{{"tcp", everywhere, 8080, 8080, 80}}},
		{"at an address", record.Sandbox{Ports: []record.PortSpec{{Proto: "udp", HostAddr: one[0], First: 53, Last: 53}}}, []portWish{{"udp", one, 0, 0, 53}}},
		{"range to range", record.Sandbox{Ports: []record.PortSpec{{Proto: "tcp", HostFirst: 90, HostLast: 91, First: 80, Last: 81}}}, []portWish{{"tcp", everywhere, 90, 90, 80}, {"tcp", everywhere, 91, 91, 81}}},
		{"a range for one", record.Sandbox{Ports: []record.PortSpec{{Proto: "tcp", HostFirst: 90, HostLast: 99, First: 80, Last: 80}}}, []portWish{{"tcp", everywhere, 90, 99, 80}}},
		{"a range of the sandbox", record.Sandbox{Ports: []record.PortSpec{{Proto: "tcp", First: 80, Last: 81}}}, []portWish{{"tcp", everywhere, 0, 0, 80}, {"tcp", everywhere, 0, 0, 81}}},
		{"the last port of all", record.Sandbox{Ports: []record.PortSpec{{Proto: "tcp", First: 65535, Last: 65535}}}, []portWish{{"tcp", everywhere, 0, 0, 65535}}},
		{"all that are exposed, each once", record.Sandbox{
			PublishAll: true, Ports: []record.PortSpec{{Proto: "tcp", HostFirst: 1, HostLast: 1, First: 81, Last: 81}},
			Expose: []record.PortSpec{{Proto: "tcp", First: 80, Last: 82}, {Proto: "tcp", First: 82, Last: 82}, {Proto: "udp", First: 80, Last: 80}},
		}, []portWish{{"tcp", everywhere, 1, 1, 81}, {"tcp", everywhere, 0, 0, 80}, {"tcp", everywhere, 0, 0, 82}, {"udp", everywhere, 0, 0, 80}}},
	} {
		if got := portWishes(&c.s, everywhere); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestPortsAreChosen(t *testing.T) {
	t.Parallel()
	v4, lo := everywhere[:1], []netip.Addr{ip("127.0.0.1")}
	bound := func(proto, a string, host, port uint16) record.PortBinding {
		return record.PortBinding{Proto: proto, HostAddr: ip(a), HostPort: host, Port: port}
	}
	for _, c := range []struct {
		name    string
		wishes  []portWish
		had     []record.PortBinding
		next    uint16
		taken   []hostPort
		refused []hostPort
		want    string // the host ports in order, or a part of the error
	}{
		{name: "nothing", want: ""},
		{name: "what was asked for", wishes: []portWish{{"tcp", v4, 8080, 8080, 80}}, want: "8080"},
		{name: "what was asked for, whoever is said to have it: the kernel will tell", wishes: []portWish{{"tcp", v4, 8080, 8080, 80}}, taken: []hostPort{{"tcp", v4[0], 8080}}, want: "8080"},
		{name: "both families at one port", wishes: []portWish{{"tcp", everywhere, 0, 0, 80}}, refused: []hostPort{{"tcp", everywhere[1], 100}}, want: "101 101"},
		{name: "the first of a range", wishes: []portWish{{"tcp", v4, 8080, 8082, 80}}, want: "8080"},
		{name: "the first of a range that is free", wishes: []portWish{{"tcp", v4, 8080, 8082, 80}}, taken: []hostPort{{"tcp", lo[0], 8080}}, refused: []hostPort{{"tcp", v4[0], 8081}}, want: "8082"},
		{name: "other protocols stand in nobody's way", wishes: []portWish{{"tcp", v4, 8080, 8082, 80}}, taken: []hostPort{{"udp", v4[0], 8080}}, want: "8080"},
		{name: "other addresses neither", wishes: []portWish{{"tcp", lo, 8080, 8082, 80}}, taken: []hostPort{{"tcp", ip("192.0.2.1"), 8080}}, want: "8080"},
		{name: "all of a range is taken", wishes: []portWish{{"tcp", lo, 1, 2, 80}}, taken: []hostPort{{"tcp", v4[0], 1}, {"tcp", lo[0], 2}}, want: "Bind for 127.0.0.1:1-2 failed: port is already allocated"},
		{name: "twice from a range", wishes: []portWish{{"tcp", v4, 8, 9, 80}, {"tcp", v4, 8, 9, 81}}, want: "8 9"},
		{name: "the same port twice", wishes: []portWish{{"tcp", v4, 8, 8, 80}, {"tcp", lo, 8, 8, 81}}, want: "Bind for 127.0.0.1:8 failed: port is already allocated"},
		{name: "any: the next", wishes: []portWish{{"tcp", v4, 0, 0, 80}, {"tcp", v4, 0, 0, 81}, {"udp", v4, 0, 0, 81}}, next: 102, want: "102 103 102"},
		{name: "any: from the beginning again", wishes: []portWish{{"tcp", v4, 0, 0, 80}, {"tcp", v4, 0, 0, 81}}, next: 104, want: "104 100"},
		{name: "any: the next is no port of the range", wishes: []portWish{{"tcp", v4, 0, 0, 80}}, next: 7, want: "100"},
		{name: "any: none is free", wishes: []portWish{{"tcp", v4, 0, 0, 80}}, refused: []hostPort{{"tcp", v4[0], 100}, {"tcp", v4[0], 101}, {"tcp", v4[0], 102}, {"tcp", v4[0], 103}, {"tcp", v4[0], 104}}, want: "all ports are allocated"},
		{name: "it keeps what it has", wishes: []portWish{{"tcp", v4, 0, 0, 80}, {"tcp", v4, 8, 9, 81}}, had: []record.PortBinding{bound("tcp", "0.0.0.0", 103, 80), bound("tcp", "0.0.0.0", 9, 81)}, want: "103 9"},
		{name: "but not at another address", wishes: []portWish{{"tcp", lo, 0, 0, 80}}, had: []record.PortBinding{bound("tcp", "0.0.0.0", 103, 80)}, want: "100"},
		{name: "nor outside of its range", wishes: []portWish{{"tcp", v4, 8, 9, 80}}, had: []record.PortBinding{bound("tcp", "0.0.0.0", 103, 80)}, want: "8"},
		{name: "no addresses: no bindings", wishes: []portWish{{"tcp", nil, 8, 9, 80}}, want: ""},
	} {
		set := func(ps []hostPort) map[hostPort]bool {
			out := map[hostPort]bool{}
			for _, p := range ps {
				out[p] = true
			}
			return out
		}
		taken := set(c.taken)
		ch := choice{had: c.had, free: portRange{100, 104, c.next}, refused: set(c.refused), taken: func(proto string, a netip.Addr, port uint16) bool { return clash(taken, proto, a, port) }}
		bs, of, err := ch.choose(c.wishes)
		var got []string
		for i, b := range bs {
			got = append(got, fmt.Sprint(b.HostPort))
			w := c.wishes[of[i]]
			if b.Port != w.port || b.Proto != w.proto || !slices.Contains(w.addrs, b.HostAddr) {
				t.Errorf("%s: %v for %v", c.name, b, w)
			}
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if text := strings.Join(got, " "); text != c.want && (err == nil || !strings.Contains(text, c.want)) {
			t.Errorf("%s: %q, want %q", c.name, text, c.want)
		}
	}
}

func TestPortRangesAreRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]portRange{"32768\t60999\n": {32768, 60999, 0}, "1 1": {1, 1, 0}, "": {}, "5 4": {}, "0 9": {}, "1 70000": {}, "x y": {}} {
		got, err := parsePortRange(text)
		if got != want || (err == nil) != (want != portRange{}) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func FuzzParsePortRange(f *testing.F) {
	f.Add("32768\t60999\n")
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := parsePortRange(text); err == nil && (r.first == 0 || r.last < r.first) {
			t.Errorf("%q: %v", text, r)
		}
	})
}
