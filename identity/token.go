package identity

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxTokenTTL bounds it: a word that lets hosts in is not to be kept.
const maxTokenTTL = 366 * 24 * time.Hour

const (
	tokenPrefix = "weft1."
	macSize     = 16
	nonceSize   = 16
	sumSize     = 4
	tokenSize   = sha256.Size + 8 + nonceSize + macSize + sumSize
)

// Token lets a host join: it tells the authority by the hash of its public key, and the authority knows by the MAC that it has made it. It is a
// secret until it expires.
type Token struct {
	authority [sha256.Size]byte
	expires   time.Time
	raw       []byte // all of it but the checksum
	text      string
}

// Errors of tokens that callers branch on.
var (
	ErrMangled      = errors.New("this is no token of weft, or not all of it: copy it whole, or make a new one with `weft cluster token`")
	ErrTokenExpired = errors.New("the token has expired")
	ErrTokenForeign = errors.New("the token is another cluster's")
)

// Token makes a token that is good for a while, at most a year.
func (a *Authority) Token(ttl time.Duration) (Token, error) {
	if ttl <= 0 || ttl > maxTokenTTL {
		return Token{}, fmt.Errorf("a token can be good for at most %d days, and not for %s", int(maxTokenTTL.Hours()/24), ttl)
	}
	print := fingerprint(a.cert)
	raw := binary.BigEndian.AppendUint64(print[:], uint64(a.now().Add(ttl).Unix()))
	var nonce [nonceSize]byte
	_, _ = rand.Read(nonce[:]) // never fails
	raw = append(raw, nonce[:]...)
	mac, err := a.mac(raw)
	if err != nil {
		return Token{}, err
	}
	raw = append(raw, mac...)
	return ParseToken(tokenPrefix + base64.RawURLEncoding.EncodeToString(append(raw, checksum(raw)...)))
}

// ParseToken reads a token; ErrMangled is all that can be said of one without the authority's key.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	text, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(text) > base64.RawURLEncoding.EncodedLen(tokenSize) {
		return Token{}, ErrMangled
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != tokenSize {
		return Token{}, ErrMangled
	}
	raw, sum := b[:tokenSize-sumSize], b[tokenSize-sumSize:]
	if !hmac.Equal(sum, checksum(raw)) {
		return Token{}, ErrMangled
	}
	t := Token{raw: raw, text: s, expires: time.Unix(int64(binary.BigEndian.Uint64(raw[sha256.Size:])), 0)}
	copy(t.authority[:], raw)
	return t, nil
}

// VerifyToken tells whether this authority has made the token, and whether it is still good, by this host's clock.
func (a *Authority) VerifyToken(t Token) error {
	if len(t.raw) == 0 {
		return ErrMangled
	}
	if print := fingerprint(a.cert); !hmac.Equal(t.authority[:], print[:]) {
		return fmt.Errorf("%w: make one with `weft cluster token` in the cluster that the host is to join", ErrTokenForeign)
	}
	at := len(t.raw) - macSize
	mac, err := a.mac(t.raw[:at])
	if err != nil {
		return err
	}
	if !hmac.Equal(mac, t.raw[at:]) {
		return ErrMangled
	}
	if !a.now().Before(t.expires) {
		return fmt.Errorf("%w, on %s: make a new one with `weft cluster token`", ErrTokenExpired, day(t.expires))
	}
	return nil
}

// mac is by a key that follows from the authority's, so that there is none to keep.
func (a *Authority) mac(b []byte) ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, err
	}
	if key, err = hkdf.Key(sha256.New, key, nil, "weft join token", sha256.Size); err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, key)
	h.Write(b) // never fails
	return h.Sum(nil)[:macSize], nil
}

// checksum tells a token that was not copied whole from a wrong one, without the authority's key.
func checksum(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:sumSize]
}

// String hides the token: it is a secret. Secret tells it.
func (t Token) String() string { return "(a token)" }

// Secret is the token as it is given to weftd.
func (t Token) Secret() string { return t.text }

// Expires is when the token ends.
func (t Token) Expires() time.Time { return t.expires }

// Authority is the Print of the authority that it is said to be of.
func (t Token) Authority() string { return hex.EncodeToString(t.authority[:]) }
