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

func TestULAIsEachNamesOwn(t *testing.T) {
	seen := map[netip.Prefix]string{}
	for _, name := range []string{"", "a", "b", strings.Repeat("c", 64)} {
		p := ULA(name)
		if !pfx("fd00::/8").Contains(p.Addr()) || p.Bits() != 48 || p != p.Masked() || p != ULA(name) {
			t.Errorf("%q: %v", name, p)
		}
		if other, twice := seen[p]; twice {
			t.Errorf("%q and %q have %v", name, other, p)
		}
		seen[p] = name
	}
}

func TestChooseSubnet6OverlapsNothingTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := netip.PrefixFrom(adr("fd00:0:0:ff00::"), rapid.IntRange(56, 64).Draw(t, "bits")).Masked()
		taken := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
			b := base.Addr().As16()
			b[7] = byte(rapid.IntRange(0, 255).Draw(t, "subnet"))
			b[8] = byte(rapid.IntRange(0, 255).Draw(t, "host"))
			return netip.PrefixFrom(netip.AddrFrom16(b), rapid.IntRange(50, 128).Draw(t, "bits")).Masked()
		}), 0, 12).Draw(t, "taken")
		got, err := ChooseSubnet6(base, taken)
		lowest := netip.Prefix{}
		b := base.Addr().As16()
		for i := 0; i < 1<<(64-base.Bits()) && !lowest.IsValid(); i++ {
			c := b
			c[7] += byte(i)
			if p := netip.PrefixFrom(netip.AddrFrom16(c), 64); !overlapsAny(p, taken) {
				lowest = p
			}
		}
		if !lowest.IsValid() {
			if !errors.Is(err, ErrNoSubnet6) {
				t.Fatalf("got %v, %v where nothing is free", got, err)
			}
			return
		}
		if err != nil || got != lowest {
			t.Fatalf("got %v, %v, want %v", got, err, lowest)
		}
	})
}

func TestParseBothFamilies(t *testing.T) {
	got, err := Request{
		Subnets:  []string{"10.1.0.0/24", "fd00:1::/64"},
		Gateways: []string{"fd00:1::ff"},
		Ranges:   []string{"fd00:1::100/120"},
		Aux:      map[string]string{"nas": "fd00:1::5", "old": "10.1.0.1"},
	}.Parse()
	if err != nil {
		t.Fatal(err)
	}
	want := []Pool{
		{Subnet: pfx("10.1.0.0/24"), Gateway: adr("10.1.0.2"), Aux: map[string]netip.Addr{"old": adr("10.1.0.1")}},
		{Subnet: pfx("fd00:1::/64"), Gateway: adr("fd00:1::ff"), Range: pfx("fd00:1::100/120"), Aux: map[string]netip.Addr{"nas": adr("fd00:1::5")}},
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); d != "" {
		t.Error(d)
	}
}

func TestChooseIn64(t *testing.T) {
	pools := []Pool{{Subnet: pfx("fd00:1::/64"), Gateway: adr("fd00:1::1"), Aux: map[string]netip.Addr{"a": adr("fd00:1::3")}}}
	taken := map[netip.Addr]bool{}
	for _, want := range []string{"fd00:1::2", "fd00:1::4", "fd00:1::5"} {
		a, err := Choose(pools, func(a netip.Addr) bool { return taken[a] }, nothing)
		if err != nil || a != adr(want) {
			t.Errorf("got %v, %v, want %s", a, err, want)
		}
		taken[a] = true
	}
	if a, err := ChooseNear(pools, nothing, func(n int) int { return n - 1 }); err != nil || a != adr("fd00:1::42") {
		t.Errorf("of the next 64 the last: %v, %v", a, err)
	}
	small := []Pool{{Subnet: pfx("fd00:1::/126"), Gateway: adr("fd00:1::1")}}
	if _, err := Choose(small, func(netip.Addr) bool { return true }, nothing); !errors.Is(err, ErrNoAddr6) {
		t.Errorf("with none free: %v", err)
	}
}

func TestCheckNamesTheReasonInIPv6(t *testing.T) {
	pools := []Pool{{Subnet: pfx("10.0.0.0/24"), Gateway: adr("10.0.0.1")}, {Subnet: pfx("fd00:1::/64"), Gateway: adr("fd00:1::1")}}
	for a, want := range map[string]string{
		"fd00:2::1": "no configured subnet", "fd00:1::": "subnet-router anycast address", "fd00:1::1": "is the gateway",
		"fd00:1::ffff:ffff:ffff:ffff": "", "fd00:1::2": "",
	} {
		err := Check(pools, adr(a))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", a, err, want)
		}
	}
}
