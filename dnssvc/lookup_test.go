package dnssvc

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"weft/store/record"
)

// local answers one question as a resolver would; what would be forwarded is "forward".
func local(t testing.TB, w *world, sb Sandbox, usable func(*record.Endpoint) bool, name string, qtype uint16) (string, *dns.Msg) {
	t.Helper()
	if usable == nil {
		usable = func(*record.Endpoint) bool { return true }
	}
	l := &locals{picture: w.picture, usable: usable}
	return asked(t, l, sb, name, qtype)
}

func asked(t testing.TB, l *locals, sb Sandbox, name string, qtype uint16) (string, *dns.Msg) {
	t.Helper()
	return askedAs(t, l, newKnowledge(sb), name, qtype)
}

// askedAs asks in the name of a sandbox that the resolver knows already: whose turn it is lives on.
func askedAs(t testing.TB, l *locals, k *knowledge, name string, qtype uint16) (string, *dns.Msg) {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	packet, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	l.begin(k)
	out, v := l.answer(packet, true)
	l.done()
	switch v {
	case pass:
		return "forward", nil
	case drop:
		return "drop", nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil {
		t.Fatalf("the answer cannot be read: %v", err)
	}
	if m.Id != q.Id || !m.Response || len(m.Question) != 1 || m.Question[0] != q.Question[0] {
		t.Fatalf("the answer is to another question: %v", m)
	}
	return shown(m), m
}

// shown is an answer in short: its code if that is not NOERROR, and the data of its records, sorted.
func shown(m *dns.Msg) string {
	var out []string
	for _, rr := range m.Answer {
		data := strings.TrimPrefix(rr.String(), rr.Header().String())
		out = append(out, data)
	}
	slices.Sort(out)
	if m.Rcode != dns.RcodeSuccess {
		out = append([]string{dns.RcodeToString[m.Rcode]}, out...)
	}
	if len(out) == 0 {
		return "empty"
	}
	return strings.Join(out, " ")
}

// Two networks that the asker is in, one that it is not, and endpoints that have each kind of name.
func TestNames(t *testing.T) {
	w := newWorld(t)
	blue, green, red := w.network("blue"), w.network("Green"), w.network("red")
	w.ep(blue, "web/host1 10.0.1.2 www front")
	w.ep(blue, "db 10.0.1.3 fd00::3 store")
	w.ep(green, "web 10.0.2.2 www")
	w.ep(green, "Mixed_Case.name 10.0.2.3 Alias-2")
	w.ep(green, "off 10.0.2.4 front", stopped)
	w.ep(green, "bare www")
	w.ep(red, "hidden 10.0.3.2 front secret")
	id := record.ShortID(sandboxID("db"))

	sb := Sandbox{ID: "s", Networks: []Network{{ID: blue}, {ID: green}}}
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"db", dns.TypeA, "10.0.1.3"},
		{"DB", dns.TypeA, "10.0.1.3"},
		{"db", dns.TypeAAAA, "fd00::3"},
		{"web", dns.TypeA, "10.0.1.2 10.0.2.2"}, // in every network that both are in
		{"web", dns.TypeAAAA, "empty"},          // and never forwarded
		{"web", dns.TypeMX, "empty"},
		{"web", dns.TypeANY, "empty"},
		{"web", dns.TypeHTTPS, "empty"},
		{"web.blue", dns.TypeA, "10.0.1.2"},
		{"WEB.green", dns.TypeA, "10.0.2.2"},
		{"web.red", dns.TypeA, "forward"},
		{id, dns.TypeA, "10.0.1.3"},
		{id + ".blue", dns.TypeA, "10.0.1.3"},
		{"host1", dns.TypeA, "10.0.1.2"},
		{"www", dns.TypeA, "10.0.1.2 10.0.2.2"},
		{"www.blue", dns.TypeA, "10.0.1.2"},
		{"front", dns.TypeA, "10.0.1.2"}, // the others with it are stopped, or in a network of somebody else
		{"alias-2", dns.TypeA, "10.0.2.3"},
		{"mixed_case.NAME", dns.TypeA, "10.0.2.3"},
		{"mixed_case.name.green", dns.TypeA, "10.0.2.3"},
		{"off", dns.TypeA, "NXDOMAIN"}, // it belongs to one that is stopped: asked nowhere else
		{"off", dns.TypeANY, "NXDOMAIN"},
		{"off.green", dns.TypeA, "NXDOMAIN"},
		{"bare", dns.TypeA, "NXDOMAIN"},
		{"secret", dns.TypeA, "forward"},
		{"hidden.red", dns.TypeA, "forward"},
		{"blue", dns.TypeA, "forward"},
		{"example.com", dns.TypeA, "forward"},
		{".", dns.TypeNS, "forward"},
		{`w\.eb`, dns.TypeA, "forward"},
		{`mixed_case\.name`, dns.TypeA, "forward"}, // one label with a dot in it is another name
		{"2.1.0.10.in-addr.arpa", dns.TypePTR, "web.blue."},
		{"2.2.0.10.IN-ADDR.arpa", dns.TypePTR, "web.Green."},
		{"2.1.0.10.in-addr.arpa", dns.TypeA, "empty"},
		{"2.3.0.10.in-addr.arpa", dns.TypePTR, "forward"}, // in a network of somebody else
		{"4.2.0.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
		{"2.1.0.10.10.in-addr.arpa", dns.TypePTR, "forward"},
		{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", dns.TypePTR, "db.blue."},
	} {
		t.Run(c.name+"/"+dns.TypeToString[c.qtype], func(t *testing.T) {
			got, m := local(t, w, sb, nil, c.name, c.qtype)
			if got != c.want {
				t.Fatalf("got %s, want %s", got, c.want)
			}
			if m == nil {
				return
			}
			if !m.Authoritative || !m.RecursionAvailable || !m.RecursionDesired {
				t.Errorf("flags of %v", m.MsgHdr)
			}
			for _, rr := range m.Answer {
				if rr.Header().Ttl != localTTL || !strings.EqualFold(rr.Header().Name, dns.Fqdn(c.name)) {
					t.Errorf("record %v", rr)
				}
			}
		})
	}
}

// Each row takes away who has the name in the first way, and the next way takes over.
func TestCollisions(t *testing.T) {
	w := newWorld(t)
	one, two, x := w.network("one"), w.network("two"), w.network("x")
	id := record.ShortID(sandboxID("n.x"))
	for _, name := range []string{"n.x", id} {
		link := w.ep(one, "linked"+name[:1]+" 10.1.0.1")
		eps := []*record.Endpoint{
			link,
			w.ep(two, name+" 10.1.0.2", func(ep *record.Endpoint) { ep.Sandbox = "0" }),
			nil,
			nil,
			w.ep(one, "h"+name[:1]+"/"+name+" 10.1.0.5"),
			w.ep(two, "a"+name[:1]+" 10.1.0.6 "+name),
		}
		want := []string{"10.1.0.1", "10.1.0.2", "", "", "10.1.0.5", "10.1.0.6"}
		if name == "n.x" {
			eps[2], want[2] = w.ep(x, "n 10.1.0.3"), "10.1.0.3"
		} else {
			eps[3], want[3] = w.ep(one, "n.x-bearer 10.1.0.4", func(ep *record.Endpoint) { ep.Sandbox = sandboxID("n.x") }), "10.1.0.4"
		}
		gone := map[record.EndpointID]bool{}
		usable := func(ep *record.Endpoint) bool { return !gone[ep.ID] }
		sb := Sandbox{Networks: []Network{{ID: two}, {ID: one, Links: []record.Link{{Target: link.Name, Alias: name}}}, {ID: x}}}
		for i, ep := range eps {
			if ep == nil {
				continue
			}
			if got, _ := local(t, w, sb, usable, name, dns.TypeA); got != want[i] {
				t.Errorf("%s without the first %d: got %s, want %s", name, i, got, want[i])
			}
			gone[ep.ID] = true
		}
		if got, _ := local(t, w, sb, usable, name, dns.TypeA); got != "NXDOMAIN" {
			t.Errorf("%s, when all are gone: %s", name, got)
		}
	}
}

func TestLinks(t *testing.T) {
	w := newWorld(t)
	blue, green := w.network("blue"), w.network("green")
	w.ep(blue, "client 10.0.1.9")
	link := func(s string) record.Link {
		target, alias, _ := strings.Cut(s, ":")
		return record.Link{Target: target, Alias: alias}
	}
	linking := Sandbox{Networks: []Network{
		{ID: blue, Links: []record.Link{link("db:D"), link("later:l"), link("plain"), link(string(sandboxID("DB")) + ":byid"), link("shared:s")}},
		{ID: green},
	}}
	other := Sandbox{Networks: []Network{{ID: blue}, {ID: green}}}
	expect := func(sb Sandbox, name, want string) {
		t.Helper()
		if got, _ := local(t, w, sb, nil, name, dns.TypeA); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}

	// given a target in two networks, the link is a name for it in the network of the link only, and for the linking sandbox only
	db := w.ep(blue, "DB 10.0.1.2")
	w.ep(green, "db 10.0.2.2")
	expect(linking, "d", "10.0.1.2")
	expect(linking, "D.blue", "10.0.1.2")
	expect(linking, "byid", "10.0.1.2")
	expect(linking, "d.green", "forward")
	expect(other, "d", "forward")

	// given a target that comes later
	expect(linking, "l", "NXDOMAIN")
	expect(other, "l", "forward")
	later := w.ep(blue, "later 10.0.1.3 fd00::3")
	expect(linking, "l", "10.0.1.3")
	if got, _ := local(t, w, linking, nil, "l", dns.TypeAAAA); got != "fd00::3" {
		t.Errorf("AAAA of a link: %s", got)
	}
	if got, _ := local(t, w, linking, nil, "d", dns.TypeAAAA); got != "empty" {
		t.Errorf("AAAA of a link to a target without: %s", got)
	}

	// given a target that returns with another address
	moved := *later
	moved.Addrs = w.ep(blue, "x 10.0.1.33").Addrs
	w.put(&moved)
	expect(linking, "l", "10.0.1.33")

	// given a link without an alias, it is its target's name
	w.ep(blue, "plain 10.0.1.4")
	expect(linking, "plain", "10.0.1.4")

	// given a target that left the network and stays in the other, the link is gone and the name is not
	gone := *db
	gone.Running = false
	w.put(&gone)
	expect(linking, "d", "NXDOMAIN")
	expect(linking, "db", "10.0.2.2")

	// given a link to an alias of several
	w.ep(blue, "a1 10.0.1.11 shared")
	w.ep(blue, "a2 10.0.1.12 shared")
	expect(linking, "s", "10.0.1.11 10.0.1.12")

	// given a name like the link's, the link is stronger
	w.ep(blue, "s 10.0.1.13")
	expect(linking, "s", "10.0.1.11 10.0.1.12")
	expect(other, "s", "10.0.1.13")
}

func TestOnlyUsableEndpointsAnswer(t *testing.T) {
	w := newWorld(t)
	blue := w.network("blue")
	a, b := w.ep(blue, "a 10.0.0.1 both"), w.ep(blue, "b 10.0.0.2 both")
	sb := Sandbox{Networks: []Network{{ID: blue}}}
	down := map[record.EndpointID]bool{}
	l := &locals{picture: w.picture, usable: func(ep *record.Endpoint) bool { return !down[ep.ID] }}
	for _, step := range []struct {
		down              []*record.Endpoint
		name, want, atRev string
	}{
		{nil, "both", "10.0.0.1 10.0.0.2", "a.blue."},
		{[]*record.Endpoint{a}, "both", "10.0.0.2", "NXDOMAIN"},
		{[]*record.Endpoint{a, b}, "both", "NXDOMAIN", "NXDOMAIN"},
		{nil, "both", "10.0.0.1 10.0.0.2", "a.blue."}, // although nothing changed in the picture
	} {
		clear(down)
		for _, ep := range step.down {
			down[ep.ID] = true
		}
		if got, _ := asked(t, l, sb, step.name, dns.TypeA); got != step.want {
			t.Errorf("with %d down: got %s, want %s", len(step.down), got, step.want)
		}
		if got, _ := asked(t, l, sb, "1.0.0.10.in-addr.arpa", dns.TypePTR); got != step.atRev {
			t.Errorf("PTR with %d down: got %s, want %s", len(step.down), got, step.atRev)
		}
	}
}

func TestUnknownNames(t *testing.T) {
	w := newWorld(t)
	blue := w.network("blue")
	unread := w.network("unread")
	w.pic = w.pic.Drop(record.NetPartition(unread))
	for _, c := range []struct {
		what     string
		networks []Network
		internal bool
		name     string
		want     string
	}{
		{"is forwarded", []Network{{ID: blue}}, false, "nobody", "forward"},
		{"does not leave an internal network", []Network{{ID: blue}}, true, "nobody", "NXDOMAIN"},
		{"with dots does not leave an internal network", []Network{{ID: blue}}, true, "example.com", "NXDOMAIN"},
		{"that no name of weft can be does not leave an internal network", []Network{{ID: blue}}, true, `a\.b`, "NXDOMAIN"},
		{"is not denied while a network's endpoints are not known", []Network{{ID: blue}, {ID: unread}}, false, "nobody", "SERVFAIL"},
		{"nor in internal networks", []Network{{ID: unread}}, true, "nobody.blue", "SERVFAIL"},
		{"nor one with that network's name", []Network{{ID: unread}}, false, "nobody.Unread", "SERVFAIL"},
		{"with dots is forwarded meanwhile", []Network{{ID: unread}}, false, "example.com", "forward"},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got, _ := local(t, w, Sandbox{Networks: c.networks, Internal: c.internal}, nil, c.name, dns.TypeA); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
