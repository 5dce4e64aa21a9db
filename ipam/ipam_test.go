package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func adr(s string) netip.Addr   { return netip.MustParseAddr(s) }

func nothing(netip.Addr) bool { return false }

func TestParsePlacesEachPartInItsPool(t *testing.T) {
	got, err := Request{
		Subnets:  []string{"10.1.0.0/16", "10.2.0.0/24"},
		Gateways: []string{"10.2.0.254"},
		Ranges:   []string{"10.1.4.0/24"},
		Aux:      map[string]string{"printer": "10.1.0.1", "router": "10.2.0.9"},
	}.Parse()
	if err != nil {
		t.Fatal(err)
	}
	want := []Pool{
		{Subnet: pfx("10.1.0.0/16"), Gateway: adr("10.1.0.2"), Range: pfx("10.1.4.0/24"), Aux: map[string]netip.Addr{"printer": adr("10.1.0.1")}},
		{Subnet: pfx("10.2.0.0/24"), Gateway: adr("10.2.0.254"), Aux: map[string]netip.Addr{"router": adr("10.2.0.9")}},
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); d != "" {
		t.Error(d)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		r    Request
		want string
	}{
		"no CIDR":                 {Request{Subnets: []string{"10.0.0.0"}}, "invalid CIDR address: 10.0.0.0"},
		"length out of range":     {Request{Subnets: []string{"10.0.0.0/33"}}, "invalid CIDR address"},
		"host bits":               {Request{Subnets: []string{"10.0.9.1/24"}}, "it should be 10.0.9.0/24"},
		"too small":               {Request{Subnets: []string{"10.0.9.0/31"}}, "the smallest is a /30"},
		"too large":               {Request{Subnets: []string{"10.0.0.0/7"}}, "the largest is a /8"},
		"loopback":                {Request{Subnets: []string{"127.1.0.0/16"}}, "loopback"},
		"multicast":               {Request{Subnets: []string{"239.0.0.0/16"}}, "multicast"},
		"link-local":              {Request{Subnets: []string{"169.254.0.0/16"}}, "link-local"},
		"own overlap":             {Request{Subnets: []string{"10.0.0.0/16", "10.0.9.0/24"}}, "Pool overlaps with other one on this address space"},
		"gateway without subnet":  {Request{Gateways: []string{"10.0.0.1"}}, "must have a corresponding subnet"},
		"range without subnet":    {Request{Ranges: []string{"10.0.0.0/25"}}, "must have a corresponding subnet"},
		"gateway outside":         {Request{Subnets: []string{"10.0.9.0/24"}, Gateways: []string{"10.0.8.1"}}, "no matching subnet for gateway 10.0.8.1"},
		"gateway no address":      {Request{Subnets: []string{"10.0.9.0/24"}, Gateways: []string{"x"}}, `invalid gateway "x"`},
		"gateway is network":      {Request{Subnets: []string{"10.0.9.0/24"}, Gateways: []string{"10.0.9.0"}}, "network address"},
		"gateway is broadcast":    {Request{Subnets: []string{"10.0.9.0/24"}, Gateways: []string{"10.0.9.255"}}, "broadcast address"},
		"two gateways":            {Request{Subnets: []string{"10.0.9.0/24"}, Gateways: []string{"10.0.9.1", "10.0.9.2"}}, "cannot configure multiple gateways"},
		"range outside":           {Request{Subnets: []string{"10.0.9.0/24"}, Ranges: []string{"10.0.8.0/25"}}, "no matching subnet for range"},
		"range wider":             {Request{Subnets: []string{"10.0.9.0/24"}, Ranges: []string{"10.0.8.0/23"}}, "no matching subnet for range"},
		"range with host bits":    {Request{Subnets: []string{"10.0.9.0/24"}, Ranges: []string{"10.0.9.5/25"}}, "invalid ip-range 10.0.9.5/25: it should be 10.0.9.0/25"},
		"range no CIDR":           {Request{Subnets: []string{"10.0.9.0/24"}, Ranges: []string{"10.0.9.0"}}, "invalid CIDR address"},
		"two ranges":              {Request{Subnets: []string{"10.0.9.0/24"}, Ranges: []string{"10.0.9.0/26", "10.0.9.64/26"}}, "cannot configure multiple ranges"},
		"aux outside":             {Request{Subnets: []string{"10.0.9.0/24"}, Aux: map[string]string{"a": "10.0.8.1"}}, "no matching subnet for aux-address 10.0.8.1"},
		"aux twice":               {Request{Subnets: []string{"10.0.9.0/24"}, Aux: map[string]string{"a": "10.0.9.7", "b": "10.0.9.7"}}, "given twice"},
		"IPv6 gateway is anycast": {Request{Subnets: []string{"fd00:9::/64"}, Gateways: []string{"fd00:9::"}}, "subnet-router anycast address"},
		"IPv6 zone":               {Request{Subnets: []string{"fd00:9::/64"}, Gateways: []string{"fd00:9::1%eth0"}}, "is no IP address"},
		"IPv6 too small":          {Request{Subnets: []string{"fd00:9::/127"}}, "the smallest is a /126"},
		"aux is gateway":          {Request{Subnets: []string{"10.0.9.0/24"}, Gateways: []string{"10.0.9.7"}, Aux: map[string]string{"a": "10.0.9.7"}}, "is the gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.r.Parse()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestChooseSubnetOverlapsNothingTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		taken := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
			n := rapid.Uint32Range(10<<24, 10<<24|0xffff).Draw(t, "address")
			return netip.PrefixFrom(address(uint64(n)), rapid.IntRange(14, 32).Draw(t, "bits")).Masked()
		}), 0, 40).Draw(t, "taken")
		bases := []Base{{pfx("10.0.0.0/16"), rapid.IntRange(18, 28).Draw(t, "size")}}
		got, err := ChooseSubnet(bases, taken)
		lowest := netip.Prefix{}
		for n := uint64(10 << 24); n < 10<<24|0x10000 && !lowest.IsValid(); n += 1 << (32 - bases[0].Size) {
			if p := netip.PrefixFrom(address(n), bases[0].Size); !overlapsAny(p, taken) {
				lowest = p
			}
		}
		if !lowest.IsValid() {
			if !errors.Is(err, ErrNoSubnet) {
				t.Fatalf("got %v, %v where nothing is free", got, err)
			}
			return
		}
		if err != nil || got != lowest {
			t.Fatalf("got %v, %v, want %v", got, err, lowest)
		}
	})
}

func overlapsAny(p netip.Prefix, taken []netip.Prefix) bool {
	for _, t := range taken {
		if t.Overlaps(p) {
			return true
		}
	}
	return false
}

func TestChooseSubnetGoesOnToTheNextBase(t *testing.T) {
	got, err := ChooseSubnet(DefaultBases(), []netip.Prefix{pfx("10.0.0.0/8"), pfx("172.16.0.0/24")})
	if err != nil || got != pfx("172.16.1.0/24") {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestChooseAddr(t *testing.T) {
	pools := []Pool{
		{Subnet: pfx("10.0.0.0/30"), Gateway: adr("10.0.0.1")},
		{Subnet: pfx("10.0.1.0/24"), Gateway: adr("10.0.1.1"), Range: pfx("10.0.1.128/30"), Aux: map[string]netip.Addr{"a": adr("10.0.1.129")}},
	}
	// Every address that can be given out, in order: nothing else may come.
	var got []string
	taken := map[netip.Addr]bool{}
	for {
		a, err := Choose(pools, func(a netip.Addr) bool { return taken[a] }, nothing)
		if errors.Is(err, ErrNoAddr) {
			break
		}
		taken[a] = true
		got = append(got, a.String())
	}
	if want := []string{"10.0.0.2", "10.0.1.128", "10.0.1.130", "10.0.1.131"}; !cmp.Equal(want, got) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestChooseLeavesRestingAddressesForLast(t *testing.T) {
	pools := []Pool{{Subnet: pfx("10.0.0.0/29"), Gateway: adr("10.0.0.1")}}
	resting := func(a netip.Addr) bool { return a == adr("10.0.0.2") }
	if a, err := Choose(pools, nothing, resting); err != nil || a != adr("10.0.0.3") {
		t.Errorf("with others free: %v, %v", a, err)
	}
	onlyResting := func(a netip.Addr) bool { return a != adr("10.0.0.2") }
	if a, err := Choose(pools, onlyResting, resting); err != nil || a != adr("10.0.0.2") {
		t.Errorf("with nothing else free: %v, %v", a, err)
	}
}

func TestChooseNearStaysWithinTheFreeOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := Pool{Subnet: pfx("10.0.0.0/26"), Gateway: adr("10.0.0.1")}
		taken := map[netip.Addr]bool{}
		for range rapid.IntRange(0, 61).Draw(t, "taken") {
			a, err := ChooseNear([]Pool{pool}, func(a netip.Addr) bool { return taken[a] }, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") })
			if err != nil || taken[a] || Check([]Pool{pool}, a) != nil {
				t.Fatalf("chose %v (%v), which is taken or cannot be given out", a, err)
			}
			taken[a] = true
		}
	})
}

func TestCheckNamesTheReason(t *testing.T) {
	pools := []Pool{{Subnet: pfx("10.0.0.0/24"), Gateway: adr("10.0.0.1"), Aux: map[string]netip.Addr{"nas": adr("10.0.0.5")}}}
	for a, want := range map[string]string{
		"10.0.1.1": "no configured subnet", "10.0.0.0": "network address", "10.0.0.255": "broadcast address",
		"10.0.0.1": "is the gateway", "10.0.0.5": "auxiliary address nas", "10.0.0.6": "",
	} {
		err := Check(pools, adr(a))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", a, err, want)
		}
	}
}

func TestChooseVNI(t *testing.T) {
	if v, err := ChooseVNI(func(v uint32) bool { return v < 4099 }); err != nil || v != 4099 {
		t.Errorf("got %d, %v", v, err)
	}
	if _, err := ChooseVNI(func(uint32) bool { return true }); err == nil {
		t.Error("all taken, and yet one was chosen")
	}
}

func TestMACIsDerivedFromTheAddress(t *testing.T) {
	if got := MAC(adr("10.0.9.254")); got != "02:42:0a:00:09:fe" {
		t.Error(got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("10.0.9.0/24", "10.0.9.1", "10.0.9.0/25", "10.0.9.7")
	f.Add("fd00::/64", "", "", "")
	f.Fuzz(func(t *testing.T, subnet, gateway, ipRange, aux string) {
		r := Request{Subnets: []string{subnet}, Aux: map[string]string{"x": aux}}
		if gateway != "" {
			r.Gateways = []string{gateway}
		}
		if ipRange != "" {
			r.Ranges = []string{ipRange}
		}
		pools, err := r.Parse()
		if err != nil {
			return
		}
		p := pools[0]
		if !p.Subnet.Contains(p.Gateway) || p.Range.IsValid() && !p.Subnet.Contains(p.Range.Addr()) || p.Aux["x"] == p.Gateway {
			t.Errorf("accepted %+v", p)
		}
	})
}
