package bridge

import (
	"net/netip"
	"slices"
	"testing"
)

func TestPrefixesOfASetDoNotOverlap(t *testing.T) {
	p := func(ss ...string) (out []netip.Prefix) {
		for _, s := range ss {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	got := outermost(p("10.1.2.0/24", "172.17.0.0/16", "10.1.0.0/16", "10.1.0.0/16", "fd00:1::/64", "fd00::/16", "172.17.0.0/24"))
	if want := p("10.1.0.0/16", "172.17.0.0/16", "fd00::/16"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
