package agent

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"weft/agent/registry"
)

// maxArgString is the kernel's MAX_ARG_STRLEN: one string of a program's environment.
const maxArgString = 128 << 10

// keeper is a service manager that notes what it is told.
type keeper struct {
	t      *testing.T
	socket string
	conn   *net.UnixConn
	done   chan struct{}
	kept   map[string]int // files by their name; read after end
}

func newKeeper(t *testing.T) *keeper {
	t.Helper()
	k := &keeper{t: t, socket: filepath.Join(t.TempDir(), "notify"), done: make(chan struct{}), kept: map[string]int{}}
	var err error
	if k.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: k.socket, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.conn.Close(); <-k.done })
	go k.hear()
	return k
}

const endOfKeeping = "END=1\nFDNAME="

func (k *keeper) hear() {
	defer close(k.done)
	b := make([]byte, 1024)
	for {
		n, err := k.conn.Read(b)
		if err != nil || string(b[:n]) == endOfKeeping {
			return
		}
		text, name, _ := strings.Cut(string(b[:n]), "FDNAME=")
		if strings.HasPrefix(text, "FDSTOREREMOVE=1") {
			delete(k.kept, name)
		} else {
			k.kept[name]++
		}
	}
}

// agent is the store of an agent that begins with files of these names.
func (k *keeper) agent(names ...string) *fdStore {
	var files []*os.File
	for _, n := range names {
		files = append(files, k.file(n))
	}
	return newFDStore(slog.New(slog.DiscardHandler), k.socket, files)
}

func (k *keeper) file(name string) *os.File {
	k.t.Helper()
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), name)
	k.t.Cleanup(func() { _ = f.Close() })
	return f
}

// end returns what is kept when all has been heard.
func (k *keeper) end(s *fdStore) map[string]int {
	k.t.Helper()
	if err := s.tell(endOfKeeping); err != nil {
		k.t.Fatal(err)
	}
	<-k.done
	return k.kept
}

func size(kept map[string]int) (n int) {
	for name, files := range kept {
		n += files * (len(name) + 1)
	}
	return n
}

// Given as many sandboxes as the service manager keeps sockets for, their names fit into the one variable that the next agent gets, or it could
// not be started.
func TestNamesOfKeptSocketsFitIntoOneVariable(t *testing.T) {
	k := newKeeper(t)
	s := k.agent()
	f := k.file("")
	for range 4096 {
		id := registry.NewID()
		s.Keep(id, f)
		s.Keep(id, f)
	}
	kept := k.end(s)
	if n := len("LISTEN_FDNAMES=") + size(kept); len(kept) != 4096 || n >= maxArgString {
		t.Errorf("the names of %d sandboxes have %d bytes", len(kept), n)
	}
}

// Given what an older agent left, with names for which there is no room, each sandbox gets its sockets, and what is too much gets other names,
// by which it is found again.
func TestLongNamesOfKeptSocketsAreReplaced(t *testing.T) {
	k := newKeeper(t)
	var ids, names []string
	for range longNames + 50 {
		id := registry.NewID()
		ids = append(ids, id)
		names = append(names, longName(id), longName(id))
	}
	s := k.agent(names...)
	for _, id := range ids {
		if n := len(s.Take(id)); n != 2 {
			t.Fatalf("%d sockets of a sandbox", n)
		}
	}
	s.dropRest()
	kept := k.end(s)
	long := slices.Collect(func(yield func(string) bool) {
		for n := range kept {
			if strings.HasPrefix(n, longPrefix) && !yield(n) {
				return
			}
		}
	})
	if len(kept) != 50 || len(long) > 0 { // the first ones are kept as they are, and need no word
		t.Errorf("renamed: %d, of which %d are long", len(kept), len(long))
	}
	next := newKeeper(t).agent(slices.Collect(maps.Keys(kept))...)
	found := 0
	for _, id := range ids {
		found += len(next.Take(id))
	}
	if found != 50 {
		t.Errorf("the next agent finds %d of 50", found)
	}
}

// Given few sandboxes, an older agent finds their sockets; what is dropped is forgotten by its name.
func TestNamesOfKeptSocketsThatAnOlderAgentKnows(t *testing.T) {
	k := newKeeper(t)
	s := k.agent("dns-aa", "dns-aa", "dns-gone", "other")
	f := k.file("")
	s.Keep("bb", f)
	s.Keep("cc", f)
	if n := len(s.Take("aa")); n != 2 {
		t.Errorf("%d sockets", n)
	}
	s.Drop("cc")
	s.dropRest()
	if got := fmt.Sprint(k.end(s)); got != "map[dns-bb:1]" {
		t.Errorf("kept: %s", got)
	}
}
