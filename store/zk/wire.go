package zk

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// wire is the connection below the client library, in clear above TLS. It does what the library does not offer: it asks for a session that
// another client left, reads the timeout that the server granted and the zxid in each reply, knows when the server was last heard, and can
// be cut so that the library's good-bye, which would end the session, does not get through.
type wire struct {
	net.Conn
	in     *bufio.Reader
	resume sessionID // asked for instead of a new one
	asked  bool      // the request for a session has passed
	grant  grant     // set before the library knows that it is connected
	reply  frame
	cut    atomic.Bool
	heard  atomic.Int64 // when anything was last read, in ns since start
	zxid   atomic.Uint64
	start  time.Time
	broke  atomic.Pointer[error] // why nothing can be read any more
}

// grant is the server's answer to the request for a session.
type grant struct {
	id  sessionID
	ttl time.Duration
}

var errCut = errors.New("the connection was given up")

func newWire(c net.Conn, resume sessionID) *wire {
	return &wire{Conn: c, in: bufio.NewReaderSize(c, 64<<10), resume: resume, start: time.Now()}
}

// Offsets in the request for a session, with its length before it: length, protocol version, last zxid seen, timeout, session, length of
// the password, password.
const (
	requestSession  = 4 + 4 + 8 + 4
	requestPassword = requestSession + 8 + 4
	requestSize     = requestPassword + passwordSize
)

// Write passes what the library sends. The first thing that it sends is the request for a session, in one piece.
func (w *wire) Write(p []byte) (int, error) {
	if w.cut.Load() {
		return 0, errCut
	}
	if !w.asked {
		w.asked = true
		if w.resume.id != 0 && len(p) >= requestSize {
			p = append([]byte(nil), p...)
			binary.BigEndian.PutUint64(p[requestSession:], w.resume.id)
			copy(p[requestPassword:], w.resume.password[:])
		}
	}
	return w.Conn.Write(p)
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	if n > 0 {
		w.heard.Store(int64(time.Since(w.start)))
		w.reply.take(p[:n], w.header)
	}
	if err != nil {
		w.broke.CompareAndSwap(nil, &err)
		_ = w.Conn.Close() // or a write that is stuck would hold the library
	}
	return n, err
}

// reason is why the connection broke.
func (w *wire) reason() error {
	if e := w.broke.Load(); e != nil {
		return *e
	}
	return errCut
}

// quiet is for how long nothing was heard.
func (w *wire) quiet() time.Duration { return time.Since(w.start) - time.Duration(w.heard.Load()) }

// header takes the begin of a reply: the first one is about the session, those after it start with a header.
func (w *wire) header(first bool, b []byte) {
	switch {
	case first && len(b) >= 36: // protocol version, timeout, session, length of the password, password
		w.grant.ttl = time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Millisecond
		w.grant.id.id = binary.BigEndian.Uint64(b[8:])
		copy(w.grant.id.password[:], b[20:])
	case !first && len(b) >= 12: // number of the request, zxid
		if z := int64(binary.BigEndian.Uint64(b[4:])); z > int64(w.zxid.Load()) {
			w.zxid.Store(uint64(z))
		}
	}
}

// frame finds the begin of each reply in the stream: a length, then so many bytes.
type frame struct {
	begin  [4 + 36]byte
	have   int
	left   int // of the reply, beyond begin
	passed bool
}

// want is how much of begin there is to be had.
func (f *frame) want() int {
	if f.have < 4 {
		return 4
	}
	return 4 + min(f.size(), len(f.begin)-4)
}

func (f *frame) size() int { return int(binary.BigEndian.Uint32(f.begin[:4])) }

func (f *frame) take(p []byte, header func(first bool, b []byte)) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, len(p))
			f.left -= n
			p = p[n:]
			continue
		}
		n := copy(f.begin[f.have:f.want()], p)
		f.have += n
		p = p[n:]
		if f.have < f.want() {
			continue
		}
		header(!f.passed, f.begin[4:f.have])
		f.passed, f.left, f.have = true, f.size()-(f.have-4), 0
	}
}
