package kernel

import (
	"net/netip"
	"strings"
	"testing"
)

func TestConfPath(t *testing.T) {
	for _, tc := range []struct{ link, dst, want string }{
		{"eth0", "ipv6/conf/accept_ra", "net/ipv6/conf/eth0/accept_ra"},
		{"eth0.5", "ipv4/neigh/gc_stale_time", "net/ipv4/neigh/eth0.5/gc_stale_time"},
		{"all", "ipv4/conf/rp_filter", ""},
		{"default", "ipv4/conf/rp_filter", ""},
		{"..", "ipv4/conf/rp_filter", ""},
		{"eth0", "ipv4/conf/../ip_forward", ""},
		{"eth0", "ipv4/route/max_size", ""},
		{"eth0", "core/conf/somaxconn", ""},
		{"", "ipv4/conf/rp_filter", ""},
	} {
		got, err := ConfPath(tc.link, tc.dst)
		if got != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("%s of %q: got %q, %v; want %q", tc.dst, tc.link, got, err, tc.want)
		}
	}
}

func FuzzConfPath(f *testing.F) {
	f.Add("eth0", "ipv6/conf/accept_ra")
	f.Add("../..", "ipv4/conf/..")
	f.Fuzz(func(t *testing.T, link, dst string) {
		p, err := ConfPath(link, dst)
		if err == nil && (!strings.HasPrefix(p, "net/ipv") || strings.Count(p, "/") != 4 || strings.Contains(p, "..") && !strings.Contains(link+dst, "..")) {
			t.Errorf("%q of %q is %q", dst, link, p)
		}
	})
}

// What SourceRule writes is what is sent to the kernel, and nothing else is taken for a rule.
func FuzzRuleKey(f *testing.F) {
	f.Add("from 10.0.0.2 table 1996488705 priority 32000")
	f.Add("from fd00::2 table 0 priority 0")
	f.Fuzz(func(t *testing.T, dst string) {
		r, err := parseRuleKey(dst)
		if err != nil {
			return
		}
		again, err := parseRuleKey(SourceRule("", r.from, r.table, int(r.priority)).Dst)
		if err != nil || again != r {
			t.Errorf("%q: %+v, and then %+v, %v", dst, r, again, err)
		}
	})
}

// A message of any kind is parsed or left alone; what is parsed as a route has a destination that can be written down and read again.
func FuzzRouteMessages(f *testing.F) {
	f.Add([]byte{10, 64, 0, 0, 254, 119, 0, 1, 0, 0, 0, 0})
	f.Add([]byte{2, 0, 32, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 2, 0, 10, 0, 0, 2})
	f.Fuzz(func(t *testing.T, m []byte) {
		_, _ = parseRule(m)
		r, ok := parseRoute(m)
		if !ok || !r.dst.IsValid() {
			return
		}
		dst, table, err := parseRouteDst(RouteDst(r.dst, r.table))
		if err != nil || dst != r.dst || table != r.table {
			t.Errorf("%v table %d became %v table %d, %v", r.dst, r.table, dst, table, err)
		}
	})
}

func TestRouteDst(t *testing.T) {
	p := netip.MustParsePrefix("10.1.0.0/24")
	if got := RouteDst(p, 0); got != "10.1.0.0/24" {
		t.Error(got)
	}
	if _, _, err := parseRouteDst("10.1.0.0/24 table 100"); err == nil {
		t.Error("a table that is not weft's own was taken")
	}
}
