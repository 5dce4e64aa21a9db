package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// The protocol between the agent and a supervisor, which may be of another version of weft: frames of a four-byte length, a type and that
// many bytes. A client sends one request and reads one reply; then, after attach, exec and start, both sides send what belongs to a
// stream, and after watch the supervisor sends the exit. Frames of unknown types and unknown fields are skipped; what is there must keep
// its meaning.
type frameType byte

const (
	frameRequest  frameType = 1 // JSON of request
	frameReply    frameType = 2 // JSON of reply
	frameStdin    frameType = 3
	frameStdinEnd frameType = 4 // empty
	frameStdout   frameType = 5
	frameStderr   frameType = 6
	frameExit     frameType = 7 // JSON of Exit; nothing follows
	frameClaim    frameType = 8 // empty; the held output of start has a reader now
)

const (
	protocolVersion = 1
	maxFrame        = 4 << 20  // a command line with its environment fits: the kernel's own bound is 2 MiB in most cases
	dataSize        = 32 << 10 // of one piece of a stream
	callTimeout     = 10 * time.Second
	socketName      = "sock"
)

// Operations of a request.
const (
	opStart   = "start"  // the first, on the inherited socket: run the child
	opAttach  = "attach" // streams of the child, from now on
	opExec    = "exec"   // one more process, with its streams
	opWatch   = "watch"  // tell the exit
	opSignal  = "signal"
	opResize  = "resize"
	opStop    = "stop"    // signal, and after a time the end of everything
	opPublish = "publish" // hold these ports of the host, and no others; also before start, on the inherited socket
)

type request struct {
	Version int       `json:"v"`
	Op      string    `json:"op"`
	Spec    *Spec     `json:"spec,omitempty"`   // start, exec
	Places  *place    `json:"places,omitempty"` // start
	Target  string    `json:"target,omitempty"` // signal, resize: the exec that is meant; "": the child
	Signal  int       `json:"signal,omitempty"`
	Timeout int64     `json:"timeout_ms,omitempty"`
	Rows    uint16    `json:"rows,omitempty"`
	Columns uint16    `json:"columns,omitempty"`
	Ports   []Forward `json:"ports,omitempty"` // publish
}

// place says where a sandbox's things are.
type place struct {
	ID       string `json:"id"`
	Shared   string `json:"shared"` // the run directory of all sandboxes
	Run      string `json:"run"`
	State    string `json:"state"`
	Netns    string `json:"netns,omitempty"`
	Cgroup   string `json:"cgroup,omitempty"`
	Hosts    bool   `json:"hosts,omitempty"`
	Resolv   bool   `json:"resolv,omitempty"`
	Hostname bool   `json:"hostname,omitempty"`
}

type reply struct {
	Version int        `json:"v"`
	Error   string     `json:"error,omitempty"`
	Code    int        `json:"code,omitempty"` // of a StartError
	PID     int        `json:"pid,omitempty"`
	Exec    string     `json:"exec,omitempty"`  // names the new process in later requests
	Ended   bool       `json:"ended,omitempty"` // the child had ended before
	Bind    *BindError `json:"bind,omitempty"`
}

func (r reply) err() error {
	switch {
	case r.Error == "":
		return nil
	case r.Code != 0:
		return &StartError{Code: r.Code, Reason: r.Error}
	case r.Bind != nil:
		return r.Bind
	case r.Ended:
		return ErrNotRunning
	}
	return errors.New(r.Error)
}

// link is one connection. One goroutine reads at a time; writes may be concurrent.
type link struct {
	net.Conn
	mu sync.Mutex // makes a frame one piece; held while it is written
}

func (l *link) send(t frameType, payload []byte) error {
	buf := encode(t, payload)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.Write(buf)
	return err
}

func (l *link) sendJSON(t frameType, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(raw) > maxFrame {
		return fmt.Errorf("a message of %d bytes is too long: its bound is %d", len(raw), maxFrame)
	}
	return l.send(t, raw)
}

func encode(t frameType, payload []byte) []byte {
	buf := make([]byte, 5+len(payload))
	binary.BigEndian.PutUint32(buf, uint32(len(payload)))
	buf[4] = byte(t)
	copy(buf[5:], payload)
	return buf
}

func (l *link) receive() (frameType, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(l, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes is too long: its bound is %d", n, maxFrame)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(l, payload); err != nil {
		return 0, nil, fmt.Errorf("read a frame of %d bytes: %w", n, err)
	}
	return frameType(head[4]), payload, nil
}

// receiveJSON reads until a frame of type t comes.
func (l *link) receiveJSON(t frameType, v any) error {
	for {
		got, payload, err := l.receive()
		if err != nil {
			return err
		}
		if got == t {
			return json.Unmarshal(payload, v)
		}
	}
}

// call sends a request and waits for its reply, until the deadline.
func (l *link) call(deadline time.Time, q request) (reply, error) {
	q.Version = protocolVersion
	var r reply
	if err := l.SetDeadline(deadline); err != nil {
		return r, err
	}
	if err := l.sendJSON(frameRequest, q); err != nil {
		return r, err
	}
	if err := l.receiveJSON(frameReply, &r); err != nil {
		return r, err
	}
	if err := l.SetDeadline(time.Time{}); err != nil {
		return r, err
	}
	return r, r.err()
}

// within runs f with a short path to dir: a socket's path may have 107 bytes only.
func within(dir string, f func(dir string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return f(fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
}

func dial(dir string) (*link, error) {
	var c net.Conn
	err := within(dir, func(dir string) (err error) {
		c, err = net.DialTimeout("unix", filepath.Join(dir, socketName), callTimeout)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &link{Conn: c}, nil
}
