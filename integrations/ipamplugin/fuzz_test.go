package ipamplugin

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// FuzzReply reads whatever a plugin may say. What is taken for a pool is one, and what is not is an error of one line.
func FuzzReply(f *testing.F) {
	for _, s := range []string{`{"PoolID":"x","Pool":"10.0.0.0/24","Data":{}}`, `{"Error":"no"}`, `{"Err":"no"}`, ``, `null`, `[]`, `{"PoolID":1}`, `{"Pool":"fd00::/64","PoolID":"y"}`,
		`{"PoolID":"x","Pool":"10.0.0.7/24","Data":{"com.docker.network.gateway":"10.0.0.1/24"}}`} {
		f.Add(200, s, false)
	}
	f.Add(404, "page not found", true)
	f.Fuzz(func(t *testing.T, code int, raw string, v6 bool) {
		var r struct {
			PoolID, Pool string
			Data         map[string]string
		}
		if err := parseReply("p", "m", code, []byte(raw), &r); err != nil {
			var no *Refusal
			var doubt *DoubtError
			if !errors.As(err, &no) && !errors.As(err, &doubt) {
				t.Errorf("%q: an error of no kind: %v", raw, err)
			}
			if no != nil && strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%q: an error of several lines: %q", raw, err)
			}
			return
		}
		p, err := parsePool(r.PoolID, r.Pool, r.Data, PoolRequest{V6: v6})
		if err != nil {
			return
		}
		if !p.Prefix.IsValid() || p.Prefix != p.Prefix.Masked() || p.Prefix.Addr().Is6() != v6 || p.ID == "" || p.Gateway.IsValid() && !p.Prefix.Contains(p.Gateway) {
			t.Errorf("%q: the pool %+v", raw, p)
		}
	})
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"unix:///run/x.sock", "tcp://h:1", "tcp://[::1]:1", "http://h", "", "unix://x", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := parseSpec([]byte(s))
		if err == nil && (at.address == "" || at.network != "unix" && at.network != "tcp") {
			t.Errorf("%q: %+v", s, at)
		}
		if _, err := netip.ParseAddr(at.address); err == nil {
			t.Errorf("%q: an address without a port", s)
		}
	})
}
