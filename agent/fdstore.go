package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// fdStore keeps the resolvers' sockets with the service manager (systemd's file-descriptor store), so that a question that is asked while one
// agent has ended and the next has not begun waits in the socket, and is answered a moment later, instead of being refused. A service manager
// that keeps nothing closes what it is given, and all is as without it.
type fdStore struct {
	log    *slog.Logger
	socket string // of the service manager

	mu        sync.Mutex // guards inherited
	inherited map[string][]*os.File
}

const (
	fdStorePrefix  = "dns-" // of the names of resolvers' sockets, before the sandbox's ID
	fdStoreTimeout = time.Second
)

// openFDStore takes what the last agent left with the service manager. It returns nil where there is none.
func openFDStore(log *slog.Logger) *fdStore {
	files := activation.Files(true) // a sandbox's process must not take them for its own
	s := &fdStore{log: log, socket: os.Getenv("NOTIFY_SOCKET"), inherited: map[string][]*os.File{}}
	for _, f := range files {
		id, ours := strings.CutPrefix(f.Name(), fdStorePrefix)
		if s.socket == "" || !ours {
			_ = f.Close() // of no use to this agent
			continue
		}
		s.inherited[id] = append(s.inherited[id], f)
	}
	if s.socket == "" {
		return nil
	}
	return s
}

// Take returns what the last agent left for a sandbox.
func (s *fdStore) Take(id string) []*os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	files := s.inherited[id]
	delete(s.inherited, id)
	return files
}

// Keep leaves a socket of a sandbox to the next agent.
func (s *fdStore) Keep(id string, socket syscall.Conn) {
	raw, err := socket.SyscallConn()
	if err == nil {
		var sent error
		err = raw.Control(func(fd uintptr) {
			// FDPOLL=0: an error on the socket, such as a port that the asker has closed, is no reason to forget it.
			sent = s.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+fdStorePrefix+id, int(fd))
		})
		err = errors.Join(err, sent)
	}
	if err != nil {
		s.log.Warn("the service manager does not keep a resolver's socket: names are refused in its sandbox while weftd is restarted", "sandbox", id, "error", err)
	}
}

// Drop forgets the sockets of a sandbox.
func (s *fdStore) Drop(id string) {
	for _, f := range s.Take(id) {
		_ = f.Close()
	}
	if err := s.tell("FDSTOREREMOVE=1\nFDNAME=" + fdStorePrefix + id); err != nil {
		s.log.Warn("the service manager may keep sockets of a sandbox that has ended", "sandbox", id, "error", err)
	}
}

// dropRest forgets what no sandbox has taken: it has ended while no agent was there.
func (s *fdStore) dropRest() {
	s.mu.Lock()
	rest := slices.Collect(maps.Keys(s.inherited))
	s.mu.Unlock()
	for _, id := range rest {
		s.Drop(id)
	}
}

// tell sends the service manager a message, with file descriptors. Package net sends none on a datagram socket that is connected.
func (s *fdStore) tell(state string, fds ...int) error {
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(c) }()
	limit := unix.NsecToTimeval(fdStoreTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return fmt.Errorf("bound the time of a message: %w", err)
	}
	if err := unix.Sendmsg(c, []byte(state), unix.UnixRights(fds...), &unix.SockaddrUnix{Name: s.socket}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("tell the service manager at %s: %w", s.socket, err)
	}
	return nil
}
