package zk

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"weft/store"
)

// replies is a stream as a server sends it: the answer about the session, then replies with their zxids.
func replies(id uint64, ttl time.Duration, zxids ...uint64) []byte {
	session := binary.BigEndian.AppendUint32(nil, 0)
	session = binary.BigEndian.AppendUint32(session, uint32(ttl.Milliseconds()))
	session = binary.BigEndian.AppendUint64(session, id)
	session = binary.BigEndian.AppendUint32(session, passwordSize)
	session = append(session, "0123456789abcdef"...)
	session = append(session, 0) // read-only
	out := append(binary.BigEndian.AppendUint32(nil, uint32(len(session))), session...)
	for i, z := range zxids {
		body := binary.BigEndian.AppendUint32(nil, uint32(i))
		body = binary.BigEndian.AppendUint64(body, z)
		body = append(binary.BigEndian.AppendUint32(body, 0), make([]byte, i*37)...)
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(body))), body...)
	}
	return out
}

func TestAWireReadsWhatTheServerSaysInPiecesOfAnySize(t *testing.T) {
	stream := replies(77, 6*time.Second, 5, 9, 7, 8, 9, 9)
	for size := range len(stream) {
		w := &wire{}
		for piece := range slices.Chunk(stream, size+1) {
			w.reply.take(piece, w.header)
		}
		if w.grant.id.id != 77 || w.grant.ttl != 6*time.Second || string(w.grant.id.password[:]) != "0123456789abcdef" || w.zxid.Load() != 9 {
			t.Fatalf("in pieces of %d: granted %+v, zxid %d", size+1, w.grant, w.zxid.Load())
		}
	}
}

func TestAWireAsksForTheSessionOfAnother(t *testing.T) {
	id := sessionID{id: 42}
	copy(id.password[:], "passwordpassword")
	near, far := net.Pipe()
	w := newWire(near, id)
	request := make([]byte, requestSize)
	binary.BigEndian.PutUint32(request, requestSize-4)
	sent := bytes.Clone(request)
	got := make([]byte, 2*requestSize)
	read := make(chan error, 1)
	go func() { _, err := io.ReadFull(far, got); read <- err }()
	for range 2 {
		if _, err := w.Write(sent); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if n := binary.BigEndian.Uint64(got[requestSession:]); n != 42 || !bytes.HasSuffix(got[:requestSize], id.password[:]) {
		t.Errorf("asked for session %d: %q", n, got[:requestSize])
	}
	if !bytes.Equal(got[requestSize:], request) || !bytes.Equal(sent, request) {
		t.Errorf("what came later, or the caller's own bytes, were changed")
	}
	w.cut.Store(true)
	if _, err := w.Write([]byte("bye")); err == nil {
		t.Error("a wire that was cut carries on")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := w.Read(got); err == nil || w.reason() == nil {
		t.Error("a wire that is closed can be read")
	}
}

func TestASessionsIDSurvivesAJournal(t *testing.T) {
	id := sessionID{id: 1<<63 + 5}
	copy(id.password[:], "\x00\xffssssssssssssss")
	if got, ok := parseSessionID(id.String()); !ok || got != id {
		t.Errorf("%v became %v, %v", id, got, ok)
	}
	for _, text := range []string{"", "1a2b", "b5bd1c57-2ed1-4b60-b9ad-5d2b2a9ef2b1", sessionID{}.String(), id.String() + "00"} {
		if _, ok := parseSessionID(text); ok {
			t.Errorf("%q passed for a session", text)
		}
	}
}

func TestAJournalEntryComesBackAsItWas(t *testing.T) {
	ops := []store.Op{
		store.Put(store.Key{Name: "a"}, []byte("v")), store.Del(store.Key{Name: "b\x00/ä"}), store.Put(store.Key{Name: "empty"}, nil),
		store.Put(store.Key{Name: "big"}, make([]byte, store.MaxValue)),
	}
	m := newMark()
	entry := encode(m, ops)
	r, err := decode(entry)
	if err != nil || r.mark != m || !r.full {
		t.Fatalf("%+v, %v", r, err)
	}
	b := r.batch(store.Meta, 7)
	if len(b.Puts) != 3 || len(b.Dels) != 1 || b.Rev != 7 || b.Puts[0].Key.String() != "meta/a" || string(b.Puts[0].Value) != "v" || b.Dels[0].Name != "b\x00/ä" ||
		len(b.Puts[2].Value) != store.MaxValue || b.Puts[2].Rev != 7 {
		t.Errorf("%+v", b)
	}
	if h, err := decode(headData(m, entry)); err != nil || h.mark != m || h.full {
		t.Errorf("the head of a big entry: %+v, %v", h, err)
	}
	if h, err := decode(headData(m, encode(m, ops[:2]))); err != nil || h.mark != m || !h.full || len(h.ops) != 2 {
		t.Errorf("the head of a small entry: %+v, %v", h, err)
	}
	if h, err := decode(nil); err != nil || h.full {
		t.Errorf("the head of a new partition: %+v, %v", h, err)
	}
	for n := range len(entry) - store.MaxValue {
		if r, err := decode(entry[:n+1]); err == nil && len(r.ops) == len(ops) {
			t.Errorf("the first %d bytes passed for the whole", n+1)
		}
	}
	if _, err := decode([]byte("what an administrator wrote")); err == nil {
		t.Error("anything passes for an entry")
	}
}
