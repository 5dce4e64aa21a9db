package agent

import (
	"net/netip"
	"testing"
)

func TestAdvertised(t *testing.T) {
	for s, want := range map[string]struct {
		where string
		port  uint16
	}{
		"":                    {"", peerPort},
		"eth0":                {"eth0", peerPort},
		"eth0:7000":           {"eth0", 7000},
		"192.0.2.1":           {"192.0.2.1", peerPort},
		"192.0.2.1:7000":      {"192.0.2.1", 7000},
		"2001:db8::1":         {"2001:db8::1", peerPort},
		"[2001:db8::1]":       {"2001:db8::1", peerPort},
		"[2001:db8::1]:7000":  {"2001:db8::1", 7000},
		"eth0:0":              {"!", 0},
		"eth0:x":              {"!", 0},
		"[2001:db8::1]:":      {"!", 0},
		"[2001:db8::1]:70000": {"!", 0},
	} {
		where, port, err := advertised(s)
		if (err != nil) != (want.where == "!") || err == nil && (where != want.where || port != want.port) {
			t.Errorf("%q: %q, %d, %v", s, where, port, err)
		}
	}
}

func FuzzAdvertised(f *testing.F) {
	f.Add("[2001:db8::1]:7000")
	f.Add("eth0:7000")
	f.Fuzz(func(t *testing.T, s string) {
		where, port, err := advertised(s)
		if err == nil && port == 0 {
			t.Errorf("%q has no port", s)
		}
		if a, isAddr := netip.ParseAddr(s); isAddr == nil && (err != nil || where != a.String()) {
			t.Errorf("the address %q became %q, %v", s, where, err)
		}
	})
}
