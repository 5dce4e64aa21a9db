package dnssvc

import (
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"weft/kernel/netnstest"
)

// shelf is a Keeper as a service manager is one: it has duplicates, and lets them go a moment after it was told to.
type shelf struct {
	t       testing.TB
	mu      sync.Mutex // guards what follows
	kept    map[string][]int
	drops   int
	letting sync.WaitGroup
}

func newShelf(t testing.TB) *shelf {
	s := &shelf{t: t, kept: map[string][]int{}}
	t.Cleanup(func() {
		for id := range s.kept {
			s.Drop(id)
		}
		s.letting.Wait()
	})
	return s
}

func (s *shelf) Take(id string) (out []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range s.kept[id] {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			s.t.Error(err)
			continue
		}
		out = append(out, os.NewFile(uintptr(dup), "kept"))
	}
	return out
}

func (s *shelf) Keep(id string, socket syscall.Conn) {
	raw, err := socket.SyscallConn()
	if err != nil {
		s.t.Error(err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = raw.Control(func(fd uintptr) {
		dup, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			s.t.Error(err)
			return
		}
		s.kept[id] = append(s.kept[id], dup)
	})
}

func (s *shelf) Drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.kept[id]
	delete(s.kept, id)
	s.drops++
	s.letting.Go(func() {
		time.Sleep(20 * time.Millisecond)
		for _, fd := range old {
			_ = unix.Close(fd)
		}
	})
}

func (s *shelf) count(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kept[id])
}

// successor is a Service of the next process in the place of the lab's.
func (l *lab) successor(t testing.TB, k Keeper) {
	t.Helper()
	l.Service.Close()
	l.Service = New(Config{Picture: l.picture.Load, Keeper: k})
}

// Given a question that is asked while no Service is there, when the next one begins, then it is answered; without a Keeper it is refused.
func TestQuestionsWaitForTheNextService(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			s := newShelf(t)
			l := newLab(t, func(l *lab) { l.Service.cfg.Keeper = s })
			l.expect(t, network, "web", "10.0.0.2")
			l.Close()
			c := dialIn(t, l.box.Netns, network)
			if err := c.WriteMsg(query("web", dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			l.successor(t, s)
			l.set(t)
			a, err := c.ReadMsg()
			if err != nil || shown(a) != "10.0.0.2" {
				t.Fatalf("answer %v, %v", a, err)
			}
			l.expect(t, "udp", "web", "10.0.0.2")
			l.expect(t, "tcp", "web", "10.0.0.2")
			if n := s.count("box"); n != 2 || s.drops != 0 {
				t.Errorf("%d sockets are kept, want two; %d drops", n, s.drops)
			}
		})
	}
}

// Given a sandbox whose names are served no more, when they are served again at once, then its address is free again in time.
func TestASandboxThatLeavesIsDropped(t *testing.T) {
	s := newShelf(t)
	l := newLab(t, func(l *lab) { l.Service.cfg.Keeper = s })
	l.Remove("box")
	if n := s.count("box"); n != 0 || s.drops != 1 {
		t.Errorf("%d sockets are kept after the sandbox left, %d drops", n, s.drops)
	}
	l.set(t)
	l.expect(t, "udp", "web", "10.0.0.2")
	if n := s.count("box"); n != 2 {
		t.Errorf("%d sockets are kept, want two", n)
	}
}

// Given kept sockets of which one is missing, or that are in the namespace of an earlier life, when the next Service begins, then the sandbox
// is answered, and two sockets are kept for it.
func TestWhatWasKeptIsNotAlwaysOfUse(t *testing.T) {
	for name, spoil := range map[string]func(*shelf, *lab){
		"one is missing": func(s *shelf, _ *lab) {
			_ = unix.Close(s.kept["box"][0])
			s.kept["box"] = s.kept["box"][1:]
		},
		"another namespace": func(_ *shelf, l *lab) { l.box.Netns = netnstest.NS(t, "again") },
		"a foreign socket": func(s *shelf, _ *lab) {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			s.kept["box"] = append([]int{fd}, s.kept["box"]...)
		},
		"one twice": func(s *shelf, _ *lab) {
			dup, err := unix.FcntlInt(uintptr(s.kept["box"][0]), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			s.kept["box"] = append(s.kept["box"], dup)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			l := newLab(t, func(l *lab) { l.Service.cfg.Keeper = s })
			l.Close()
			spoil(s, l)
			l.successor(t, s)
			l.set(t)
			l.expect(t, "udp", "web", "10.0.0.2")
			l.expect(t, "tcp", "web", "10.0.0.2")
			if n := s.count("box"); n != 2 {
				t.Errorf("%d sockets are kept, want two", n)
			}
		})
	}
}
