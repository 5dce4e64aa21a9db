package ipam_test

import (
	"errors"
	"net/netip"
	"testing"

	"weft/ipam"
)

func TestChooseLast(t *testing.T) {
	t.Parallel()
	p := func(subnet, gateway, rng string) ipam.Pool {
		out := ipam.Pool{Subnet: netip.MustParsePrefix(subnet), Gateway: netip.MustParseAddr(gateway)}
		if rng != "" {
			out.Range = netip.MustParsePrefix(rng)
		}
		return out
	}
	aux := p("10.0.0.0/24", "10.0.0.254", "")
	aux.Aux = map[string]netip.Addr{"x": netip.MustParseAddr("10.0.0.253")}
	for name, tc := range map[string]struct {
		pools []ipam.Pool
		taken []string
		skip  int
		want  string // "": none is left
	}{
		"below the broadcast address":       {[]ipam.Pool{p("10.0.0.0/24", "10.0.0.1", "")}, nil, 0, "10.0.0.254"},
		"not the gateway, nor an auxiliary": {[]ipam.Pool{aux}, nil, 0, "10.0.0.252"},
		"the end of the range":              {[]ipam.Pool{p("10.0.0.0/24", "10.0.0.1", "10.0.0.16/28")}, nil, 0, "10.0.0.31"},
		"beside what is taken":              {[]ipam.Pool{p("10.0.0.0/24", "10.0.0.1", "")}, []string{"10.0.0.254", "10.0.0.252"}, 1, "10.0.0.251"},
		"the last one that is left":         {[]ipam.Pool{p("10.0.0.0/29", "10.0.0.1", "")}, []string{"10.0.0.6", "10.0.0.5"}, 9, "10.0.0.2"},
		"the next pool":                     {[]ipam.Pool{p("10.0.0.0/30", "10.0.0.1", ""), p("10.0.1.0/30", "10.0.1.1", "")}, []string{"10.0.0.2"}, 0, "10.0.1.2"},
		"none":                              {[]ipam.Pool{p("10.0.0.0/30", "10.0.0.1", "")}, []string{"10.0.0.2"}, 0, ""},
		"IPv6":                              {[]ipam.Pool{p("fd00::/64", "fd00::1", "")}, []string{"fd00::ffff:ffff:ffff:ffff"}, 0, "fd00::ffff:ffff:ffff:fffe"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			taken := func(a netip.Addr) bool {
				for _, s := range tc.taken {
					if a == netip.MustParseAddr(s) {
						return true
					}
				}
				return false
			}
			got, err := ipam.ChooseLast(tc.pools, taken, tc.skip)
			if tc.want == "" {
				if !errors.Is(err, ipam.ErrNoAddr) {
					t.Errorf("got %s, %v", got, err)
				}
				return
			}
			if err != nil || got != netip.MustParseAddr(tc.want) {
				t.Errorf("got %s, %v; want %s", got, err, tc.want)
			}
		})
	}
}
