package identity

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	tok, err := w.auth.Token(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.auth.Token(time.Hour)
	if err != nil || second.Secret() == tok.Secret() {
		t.Errorf("two tokens are one: %v", err)
	}
	got, err := ParseToken(" " + tok.Secret() + "\n")
	if err != nil || got.Authority() != w.auth.Print() || got.Expires().Sub(w.at).Round(time.Minute) != time.Hour {
		t.Errorf("parsed: %v, %s, %v", got.Authority(), got.Expires(), err)
	}
	forged := got
	forged.raw = append([]byte(nil), got.raw...)
	forged.raw[39] ^= 0xff // it would last longer
	later := &Authority{cert: w.auth.cert, key: w.auth.key, now: func() time.Time { return w.at.Add(2 * time.Hour) }}
	for name, tc := range map[string]struct {
		a    *Authority
		tok  Token
		want error
	}{
		"its own":                {w.auth, got, nil},
		"another cluster's":      {other.auth, got, ErrTokenForeign},
		"expired":                {later, got, ErrTokenExpired},
		"expired, and another's": {&Authority{cert: other.auth.cert, key: other.auth.key, now: later.now}, got, ErrTokenForeign},
		"forged":                 {w.auth, forged, ErrMangled},
		"none":                   {w.auth, Token{}, ErrMangled},
	} {
		if err := tc.a.VerifyToken(tc.tok); !errors.Is(err, tc.want) || err != nil && strings.Contains(err.Error(), tok.Secret()[:20]) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if s := fmt.Sprintf("%v %s %+v", tok, tok, struct{ T Token }{tok}); strings.Contains(s, tok.Secret()) {
		t.Errorf("printing shows it: %s", s)
	}
	for _, ttl := range []time.Duration{0, -time.Hour, maxTokenTTL + 1} {
		if _, err := w.auth.Token(ttl); err == nil {
			t.Errorf("a token for %s is made", ttl)
		}
	}
}

// Whatever was lost or changed on the way, it is told from a token that is wrong.
func TestManyMangledTokens(t *testing.T) {
	t.Parallel()
	tok, err := newWorld(t).auth.Token(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s := tok.Secret()
	bad := []string{"", "weft1.", s[:len(s)-1], s + "A", s + s, strings.ToUpper(s), strings.TrimPrefix(s, "weft1."), "weft2." + s[6:], s[:20] + "\n" + s[20:], strings.Repeat("A", 1<<20)}
	for i := len(tokenPrefix); i < len(s); i++ {
		c := byte('A')
		if s[i] == c {
			c = 'B'
		}
		bad = append(bad, s[:i]+string(c)+s[i+1:])
	}
	for _, b := range bad {
		if _, err := ParseToken(b); !errors.Is(err, ErrMangled) {
			t.Errorf("%.200q is taken: %v", b, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("weft1.")
	f.Add(tokenPrefix + strings.Repeat("A", 96))
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			return
		}
		again, err := ParseToken(tok.Secret())
		if err != nil || again.Secret() != tok.Secret() || len(tok.Authority()) != 64 {
			t.Errorf("%q does not survive: %v", s, err)
		}
	})
}
