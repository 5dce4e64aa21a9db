package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// spaces are the namespaces that this Kernel has worked in, by the numbers that they have in the host's: what is heard of them has no more
// than that. Neither a number nor this holds a namespace.
type spaces struct {
	mu    sync.Mutex // guards paths
	paths map[int32]string

	turn sync.Mutex // held across I/O, by the one that uses the socket; guards sock
	sock *socket    // in the host's namespace
}

// hostNumber stands for the host's namespace, whose own events come without a number.
const hostNumber = -1

// Of linux/net_namespace.h; x/sys has no names for the attributes.
const (
	netnsaNSID = 1
	netnsaFD   = 3
)

// path returns the namespace of a number.
func (s *spaces) path(n int32) (ns string, ok bool) {
	if n == hostNumber {
		return HostNS, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ns, ok = s.paths[n]
	return ns, ok
}

// list returns those of which is true.
func (s *spaces) list(which func(ns string) bool) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ns := range s.paths {
		if which(ns) {
			out = append(out, ns)
		}
	}
	return out
}

// note makes a namespace known by its number, and gives it one if it has none.
func (k *Kernel) note(ns string, file *os.File) error {
	s := &k.spaces
	n, err := k.number(file)
	if err == nil && n < 0 {
		q := nsidMsg(unix.RTM_NEWNSID, file)
		q.AddData(nl.NewRtAttr(netnsaNSID, nl.Uint32Attr(^uint32(0)))) // any
		if err = k.askNumber(q, nil); err == nil || errors.Is(err, unix.EEXIST) {
			n, err = k.number(file)
		}
	}
	if err != nil || n < 0 {
		return fmt.Errorf("learn the number of namespace %s: %w", ns, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paths[n] == ns {
		return nil
	}
	for other, path := range s.paths {
		if path == ns { // its file stands for another namespace now
			delete(s.paths, other)
		}
	}
	if s.paths == nil {
		s.paths = map[int32]string{}
	}
	s.paths[n] = ns
	return nil
}

// recheck forgets a number that has become free, unless a namespace that was noted since then has it.
func (k *Kernel) recheck(n int32) (ns string, gone bool) {
	s := &k.spaces
	ns, ok := s.path(n)
	if !ok {
		return "", false
	}
	if file, err := os.Open(ns); err == nil {
		now, err := k.number(file)
		if _ = file.Close(); err == nil && now == n {
			return "", false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paths[n] == ns {
		delete(s.paths, n)
	}
	return ns, true
}

func nsidMsg(typ int, file *os.File) *nl.NetlinkRequest {
	q := nl.NewNetlinkRequest(typ, 0)
	q.AddData(&nl.RtGenMsg{})
	q.AddData(nl.NewRtAttr(netnsaFD, nl.Uint32Attr(uint32(file.Fd()))))
	return q
}

// number asks which number a namespace has, below 0 if none.
func (k *Kernel) number(file *os.File) (int32, error) {
	n := int32(-1)
	err := k.askNumber(nsidMsg(unix.RTM_GETNSID, file), func(typ uint16, body []byte) {
		if got, ok := parseNSID(body); ok && typ == unix.RTM_NEWNSID {
			n = got
		}
	})
	return n, err
}

func (k *Kernel) askNumber(q *nl.NetlinkRequest, echo func(uint16, []byte)) error {
	s := &k.spaces
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.sock == nil {
		host, err := os.Open(k.path(HostNS))
		if err != nil {
			return err
		}
		if s.sock, err = dial(host, unix.NETLINK_ROUTE); err != nil {
			s.sock = nil
			return errors.Join(err, host.Close())
		}
	}
	return s.sock.batch([]message{rtMsg{q}}, echo)[0]
}

func (s *spaces) close() {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.sock != nil {
		s.sock.close()
		_ = s.sock.ns.Close()
		s.sock = nil
	}
}

func parseNSID(body []byte) (n int32, ok bool) {
	const header = 4 // struct rtgenmsg, padded
	if len(body) < header {
		return 0, false
	}
	for typ, v := range attributes(body[header:]) {
		if typ == netnsaNSID && len(v) == 4 {
			return int32(u32(v)), true
		}
	}
	return 0, false
}

// nsidOf finds the number of the namespace that a datagram is about in what came beside it.
func nsidOf(control []byte) int32 {
	msgs, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return hostNumber
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int32(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return hostNumber
}
