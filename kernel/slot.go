package kernel

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// place is a namespace, and what its socket is for: to delete a link takes 15–30 ms, nearly all of them without RTNL, so that work on
// other links goes on beside it, unless both wait for one socket.
type place struct {
	ns       string
	deleting bool
}

// slot is a place's socket. It serves one at a time, and belongs to one namespace for its life: where the file of that name comes to
// stand for another namespace (a sandbox was started anew), the place gets a new slot.
type slot struct {
	users int  // guarded by Kernel.mu
	gone  bool // guarded by Kernel.mu: to be closed by the last user

	turn sync.Mutex // held across I/O, by the one that uses the socket; guards c, but for its file
	c    *conn      // nil: not open yet
}

// session is one call's hold on the slots that it uses. A sandbox's namespace lives as long as a socket in it does: so such a slot is
// closed as soon as no session holds it, while those of the host and of networks stay, but for the seldom used ones that delete.
type session struct {
	k    *Kernel
	held map[place]*slot
}

func (k *Kernel) begin() *session { return &session{k: k, held: map[place]*slot{}} }

func (s *session) end() {
	var idle []*slot
	s.k.mu.Lock()
	for at, sl := range s.held {
		sl.users--
		if sl.users > 0 || !sl.gone && s.k.stays(at) {
			continue
		}
		s.k.leaveLocked(at, sl)
		idle = append(idle, sl)
	}
	s.k.mu.Unlock()
	closeAll(idle)
}

// with runs f with a namespace's socket.
func (k *Kernel) with(ns string, f func(*conn) error) error {
	s := k.begin()
	defer s.end()
	return s.with(ns, f)
}

func (k *Kernel) stays(at place) bool { return !at.deleting && (at.ns == HostNS || k.own(at.ns)) }

func (s *session) with(ns string, f func(*conn) error) error { return s.at(place{ns: ns}, f) }

func (s *session) at(at place, f func(*conn) error) error {
	sl, err := s.take(at)
	if err != nil {
		return err
	}
	sl.turn.Lock()
	defer sl.turn.Unlock()
	if sl.c == nil {
		if sl.c, err = s.k.open(at.ns); err != nil {
			s.k.mu.Lock()
			s.k.leaveLocked(at, sl)
			s.k.mu.Unlock()
			return err
		}
	}
	return f(sl.c)
}

func (k *Kernel) open(ns string) (*conn, error) {
	file, err := os.Open(k.path(ns))
	if errors.Is(err, unix.ESRCH) { // of a process that ended
		err = os.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &st); err != nil || st.Type != unix.NSFS_MAGIC { // its namespace went with a reboot
		return nil, errors.Join(file.Close(), err, fmt.Errorf("%s is no network namespace: %w", ns, os.ErrNotExist))
	}
	if ns != HostNS {
		if err := k.note(ns, file); err != nil {
			return nil, errors.Join(file.Close(), err)
		}
	}
	return newConn(file, &k.mine, &k.settings)
}

func (k *Kernel) path(ns string) string {
	if ns == HostNS {
		return k.host
	}
	return ns
}

// take finds or makes a place's slot. One whose namespace is no longer that of the file is left to those who use it.
func (s *session) take(at place) (*slot, error) {
	if sl := s.held[at]; sl != nil {
		return sl, nil
	}
	for {
		s.k.mu.Lock()
		if s.k.closed {
			s.k.mu.Unlock()
			return nil, fmt.Errorf("use the kernel: %w", os.ErrClosed)
		}
		sl := s.k.slots[at]
		if sl == nil {
			sl = &slot{}
			s.k.slots[at] = sl
		}
		sl.users++
		s.k.mu.Unlock()
		if at.ns == HostNS || sl.is(at.ns) {
			s.held[at] = sl
			return sl, nil
		}
		s.k.mu.Lock()
		s.k.leaveLocked(at, sl)
		sl.users--
		last := sl.users == 0
		s.k.mu.Unlock()
		if last {
			closeAll([]*slot{sl})
		}
	}
}

// leaveLocked takes a slot out, so that nobody else takes it.
func (k *Kernel) leaveLocked(at place, sl *slot) {
	sl.gone = true
	if k.slots[at] == sl {
		delete(k.slots, at)
	}
}

// is tells whether a slot's namespace is the one of a file.
func (sl *slot) is(path string) bool {
	sl.turn.Lock()
	defer sl.turn.Unlock()
	if sl.c == nil {
		return true // it will be
	}
	var now, then unix.Stat_t
	if unix.Stat(path, &now) != nil || unix.Fstat(int(sl.c.ns.Fd()), &then) != nil {
		return false
	}
	return now.Dev == then.Dev && now.Ino == then.Ino
}

// forget closes a namespace's sockets, which would keep the namespace alive.
func (k *Kernel) forget(ns string) {
	k.mu.Lock()
	idle := k.dropLocked(func(at place) bool { return at.ns == ns })
	k.mu.Unlock()
	closeAll(idle)
}

// dropLocked takes slots out, and returns those that nobody uses.
func (k *Kernel) dropLocked(which func(place) bool) (idle []*slot) {
	for at, sl := range k.slots {
		if !which(at) {
			continue
		}
		k.leaveLocked(at, sl)
		if sl.users == 0 {
			idle = append(idle, sl)
		}
	}
	return idle
}

func closeAll(idle []*slot) {
	for _, sl := range idle {
		sl.turn.Lock()
		if sl.c != nil {
			sl.c.close()
			sl.c = nil
		}
		sl.turn.Unlock()
	}
}

// fd returns a descriptor of a namespace, for IFLA_NET_NS_FD; it is valid until the session's end.
func (s *session) fd(ns string) (uintptr, error) {
	var fd uintptr
	err := s.with(ns, func(c *conn) error {
		fd = c.ns.Fd()
		return nil
	})
	return fd, err
}
