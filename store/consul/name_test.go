package consul

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Names are one level of a path that neither Consul's client nor its server cleans, and come back as they were.
func TestNamesAreEscaped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := string(rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "name"))
		e := escape(name)
		if strings.ContainsAny(e, "/?#\x00") || e == "." || e == ".." {
			t.Fatalf("%q is escaped as %q", name, e)
		}
		if got, ok := unescape(e); !ok || got != name {
			t.Fatalf("%q came back as %q", name, got)
		}
	})
	for in, want := range map[string]string{"addr/10.0.0.1": "addr%2F10.0.0.1", "..": "%2E.", "ä": "%C3%A4", "a b": "a%20b", "fd00::1": "fd00::1"} {
		if got := escape(in); got != want {
			t.Errorf("%q is escaped as %q, want %q", in, got, want)
		}
	}
	for _, bad := range []string{"", "a/b", "%", "%4", "%zz"} {
		if got, ok := unescape(bad); ok {
			t.Errorf("%q passes for the name %q", bad, got)
		}
	}
}
