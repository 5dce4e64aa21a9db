package sandbox

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// wire is a connection whose input is given.
type wire struct {
	net.Conn
	*bytes.Reader
}

func (w wire) Read(p []byte) (int, error) { return w.Reader.Read(p) }

// FuzzFrame: whatever comes, receive neither panics nor takes more than is there, and what it takes encodes to the same bytes again.
func FuzzFrame(f *testing.F) {
	f.Add(encode(frameRequest, []byte(`{"v":1,"op":"attach"}`)))
	f.Add(append(encode(frameStdout, nil), encode(frameExit, []byte("{}"))...))
	f.Add([]byte{0, 0, 0, 9, 1, 'x'})
	f.Add([]byte{255, 255, 255, 255, 1})
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		l := &link{Conn: wire{Reader: bytes.NewReader(raw)}}
		var again []byte
		for {
			kind, payload, err := l.receive()
			if err != nil {
				break
			}
			again = append(again, encode(kind, payload)...)
		}
		if !bytes.HasPrefix(raw, again) {
			t.Errorf("%q was taken from %q", again, raw)
		}
		if rest := len(raw) - len(again); rest > 5+maxFrame {
			t.Errorf("%d bytes were left", rest)
		}
	})
}

func TestFrames(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"the end", nil, "EOF"},
		{"the end in a head", []byte{0, 0, 0}, "unexpected EOF"},
		{"the end in a payload", []byte{0, 0, 0, 2, 1, 'x'}, "unexpected EOF"},
		{"too long", []byte{255, 0, 0, 0, 1}, "too long"},
	} {
		l := &link{Conn: wire{Reader: bytes.NewReader(tc.raw)}}
		if _, _, err := l.receive(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	l := &link{Conn: wire{Reader: bytes.NewReader(nil)}}
	if err := l.sendJSON(frameRequest, strings.Repeat("x", maxFrame)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a message that is too long: %v", err)
	}
}

// Unknown types are skipped, and a reply has its meaning whatever version it is of.
func TestReplies(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	replies := []string{`{"v":1,"pid":5}`, `{"v":2,"error":"no","code":127,"new":[1]}`, `{"v":1,"error":"over","ended":true}`, `{"v":1,"error":"other"}`}
	asked, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = theirs.Close() }()
		defer func() { <-asked }()
		l := &link{Conn: theirs}
		for _, r := range replies {
			var q request
			if err := l.receiveJSON(frameRequest, &q); err != nil || q.Version != protocolVersion {
				t.Errorf("the request is %+v, %v", q, err)
			}
			_ = l.send(77, []byte("skip me"))
			_ = l.send(frameReply, []byte(r))
		}
	}()
	l := &link{Conn: ours}
	var refused *StartError
	ask := func() (reply, error) { return l.call(time.Now().Add(patience), request{Op: opWatch}) }
	if r, err := ask(); err != nil || r.PID != 5 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := ask(); !errors.As(err, &refused) || refused.Code != 127 {
		t.Errorf("%v", err)
	}
	if _, err := ask(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v", err)
	}
	if _, err := ask(); err == nil || err.Error() != "other" {
		t.Errorf("%v", err)
	}
	close(asked)
	<-done
	if _, err := ask(); err == nil || !gone(err) && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a request to nobody: %v", err)
	}
}
