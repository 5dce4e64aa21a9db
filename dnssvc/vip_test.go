package dnssvc

import (
	"testing"

	"github.com/miekg/dns"

	"weft/store/record"
)

// An alias with a virtual address is that address, whatever its members do; the members' other names are their own.
func TestVirtualAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	blue, green := w.network("blue"), w.network("green")
	w.vip(blue, "Api 10.0.1.254 fd00::fe")
	w.ep(blue, "a1 10.0.1.2 fd00::2 api", balanced)
	w.ep(blue, "a2 10.0.1.3 API", balanced)
	w.ep(blue, "stale 10.0.1.4 api") // plain: it came in the same moment
	w.vip(blue, "idle 10.0.1.253")
	w.ep(blue, "a3 10.0.1.5 idle", balanced, stopped)
	w.ep(green, "web 10.0.2.2 api")
	w.vip(green, "web 10.0.2.254") // the name is stronger than the alias
	w.ep(green, "w2 10.0.2.3 web", balanced)
	sb := Sandbox{Networks: []Network{
		{ID: blue, Links: []record.Link{{Target: "api", Alias: "linked"}, {Target: "a1", Alias: "one"}}},
	}}
	both := Sandbox{Networks: []Network{{ID: blue}, {ID: green}}}
	for _, c := range []struct {
		sb    Sandbox
		name  string
		qtype uint16
		want  string
	}{
		{sb, "api", dns.TypeA, "10.0.1.254"},
		{sb, "API.Blue", dns.TypeA, "10.0.1.254"},
		{sb, "api", dns.TypeAAAA, "fd00::fe"},
		{sb, "api", dns.TypeMX, "empty"},
		{sb, "a1", dns.TypeA, "10.0.1.2"},
		{sb, "idle", dns.TypeA, "10.0.1.253"}, // stable while there is a member at all
		{sb, "idle", dns.TypeAAAA, "empty"},
		{sb, "linked", dns.TypeA, "10.0.1.254"},
		{sb, "one", dns.TypeA, "10.0.1.2"},
		{sb, "254.1.0.10.in-addr.arpa", dns.TypePTR, "Api.blue."},
		{both, "api", dns.TypeA, "10.0.1.254 10.0.2.2"},
		{both, "web", dns.TypeA, "10.0.2.2"},
		{both, "api.green", dns.TypeA, "10.0.2.2"},
	} {
		if got, _ := local(t, w, c.sb, func(ep *record.Endpoint) bool { return ep.Name != "a1" || c.name != "api" }, c.name, c.qtype); got != c.want {
			t.Errorf("%s %s: got %s, want %s", c.name, dns.TypeToString[c.qtype], got, c.want)
		}
	}
}
