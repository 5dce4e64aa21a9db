package agent

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
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

	mu        sync.Mutex            // guards what follows
	inherited map[string][]*os.File // by name
	names     map[string]string     // of each sandbox's sockets
	long      int                   // of those, how many are long
}

// All names come to an agent in one environment variable, of which the kernel takes no more than 128 KiB (MAX_ARG_STRLEN): with more, it cannot be
// started at all. So they are short, but for the first ones: an older agent knows a sandbox by the name that has its whole ID.
const (
	longPrefix  = "dns-"
	shortPrefix = "d-"
	longNames   = 200 // sandboxes: with them, 4,000 others have room

	fdStoreTimeout = time.Second
)

func longName(id string) string { return longPrefix + id }

func shortName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return shortPrefix + base64.RawURLEncoding.EncodeToString(sum[:6])
}

// openFDStore takes what the last agent left with the service manager. It returns nil where there is none.
func openFDStore(log *slog.Logger) *fdStore {
	files := activation.Files(true) // a sandbox's process must not take them for its own
	return newFDStore(log, os.Getenv("NOTIFY_SOCKET"), files)
}

func newFDStore(log *slog.Logger, socket string, files []*os.File) *fdStore {
	s := &fdStore{log: log, socket: socket, inherited: map[string][]*os.File{}, names: map[string]string{}}
	for _, f := range files {
		if s.socket == "" || !strings.HasPrefix(f.Name(), longPrefix) && !strings.HasPrefix(f.Name(), shortPrefix) {
			_ = f.Close() // of no use to this agent
			continue
		}
		s.inherited[f.Name()] = append(s.inherited[f.Name()], f)
	}
	if s.socket == "" {
		return nil
	}
	return s
}

// Take returns what the last agent left for a sandbox. Where it has a name for which there is no room any more, it gets another.
func (s *fdStore) Take(id string) []*os.File {
	s.mu.Lock()
	had := longName(id)
	if len(s.inherited[had]) == 0 {
		had = shortName(id)
	}
	files := s.inherited[had]
	delete(s.inherited, had)
	if len(files) > 0 && had == shortName(id) {
		s.names[id] = had
	}
	name := s.nameLocked(id)
	s.mu.Unlock()
	if len(files) > 0 && name != had {
		s.forget(had)
		for _, f := range files {
			s.Keep(id, f)
		}
	}
	return files
}

// nameLocked is a sandbox's, which is given when it is asked for first.
func (s *fdStore) nameLocked(id string) string {
	name, ok := s.names[id]
	if !ok {
		if name = shortName(id); s.long < longNames {
			name = longName(id)
			s.long++
		}
		s.names[id] = name
	}
	return name
}

// Keep leaves a socket of a sandbox to the next agent.
func (s *fdStore) Keep(id string, socket syscall.Conn) {
	s.mu.Lock()
	name := s.nameLocked(id)
	s.mu.Unlock()
	raw, err := socket.SyscallConn()
	if err == nil {
		var sent error
		err = raw.Control(func(fd uintptr) {
			// FDPOLL=0: an error on the socket, such as a port that the asker has closed, is no reason to forget it.
			sent = s.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, int(fd))
		})
		err = errors.Join(err, sent)
	}
	if err != nil {
		s.log.Warn("the service manager does not keep a resolver's socket: names are refused in its sandbox while weftd is restarted", "sandbox", id, "error", err)
	}
}

// Drop forgets the sockets of a sandbox.
func (s *fdStore) Drop(id string) {
	s.mu.Lock()
	name := s.nameLocked(id)
	files := s.inherited[name]
	delete(s.inherited, name)
	delete(s.names, id)
	if name == longName(id) {
		s.long--
	}
	s.mu.Unlock()
	for _, f := range files {
		_ = f.Close()
	}
	s.forget(name)
}

// dropRest forgets what no sandbox has taken: it has ended while no agent was there.
func (s *fdStore) dropRest() {
	s.mu.Lock()
	rest := s.inherited
	s.inherited = map[string][]*os.File{}
	s.mu.Unlock()
	for name, files := range rest {
		for _, f := range files {
			_ = f.Close()
		}
		s.forget(name)
	}
}

func (s *fdStore) forget(name string) {
	if err := s.tell("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
		s.log.Warn("the service manager may keep sockets of a sandbox that has ended", "name", name, "error", err)
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
