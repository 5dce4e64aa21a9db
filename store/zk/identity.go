package zk

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
)

const passwordSize = 16

// sessionID is what it takes to go on with a ZooKeeper session from another connection, or another process.
type sessionID struct {
	id       uint64
	password [passwordSize]byte
}

func (s sessionID) String() string {
	b := binary.BigEndian.AppendUint64(nil, s.id)
	return hex.EncodeToString(append(b, s.password[:]...))
}

// parseSessionID returns false for what is not one: another back end's, for one.
func parseSessionID(text string) (sessionID, bool) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 8+passwordSize {
		return sessionID{}, false
	}
	s := sessionID{id: binary.BigEndian.Uint64(raw)}
	copy(s.password[:], raw[8:])
	return s, s.id != 0
}

// newMark is a name that nobody else gives.
const markSize = 16

func newMark() string { return rand.Text()[:markSize] }
