package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"weft/kernel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLab(t *testing.T) *Lab {
	t.Helper()
	l, err := New(t.Context(), Config{Dir: filepath.Join(t.TempDir(), "lab")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left, err := Left(l.cfg); err != nil || len(left) > 0 {
			t.Errorf("after Close: %v, %v; want nothing left", left, err)
		}
	})
	return l
}

func addHost(t *testing.T, l *Lab, name string) *Host {
	t.Helper()
	h, err := l.AddHost(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

const soon = 5 * time.Second

// reaches tells whether a TCP connection from a node to an address of another comes about.
func reaches(t *testing.T, from, to *Node, addr string, patience time.Duration) bool {
	t.Helper()
	ln, err := to.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func TestHostsReachEachOtherAndTheOutside(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a, b := addHost(t, l, "a"), addHost(t, l, "b")
	if !reaches(t, a.Node, b.Node, b.Addr.String(), soon) {
		t.Error("a does not reach b")
	}
	if !reaches(t, a.Node, l.Outside(), l.OutsideAddr().String(), soon) {
		t.Error("a does not reach the outside by its default route")
	}
}

func TestACutCable(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a, b := addHost(t, l, "a"), addHost(t, l, "b")
	for _, up := range []bool{false, true} {
		if err := b.SetLink(up); err != nil {
			t.Fatal(err)
		}
		patience := 300 * time.Millisecond
		if up { // the kernel asks for b's hardware address once a second
			patience = soon
		}
		if got := reaches(t, a.Node, b.Node, b.Addr.String(), patience); got != up {
			t.Errorf("with the cable of b plugged in = %v: a reaches b = %v", up, got)
		}
	}
}

// mess makes of a host what an agent makes: a process of its own, a mount, a sandbox's namespace with a process in it.
func mess(t *testing.T, h *Host) (pids []int) {
	t.Helper()
	run := h.RunDir()
	sandbox := filepath.Join(run, "sandboxes", "ab12", "netns")
	if err := os.MkdirAll(filepath.Dir(sandbox), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(run, run, "none", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := kernel.MakeNetns(sandbox); err != nil {
		t.Fatal(err)
	}
	inside := exec.Command("sleep", "60")
	inside.Env = []string{"PATH=" + os.Getenv("PATH")} // the mark is not for what users run
	agent := exec.Command("sleep", "60")
	for cmd, start := range map[*exec.Cmd]func(*exec.Cmd) error{agent: h.Node.Start, inside: func(c *exec.Cmd) error { return Within(sandbox, c.Start) }} {
		if err := start(cmd); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, cmd.Process.Pid)
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // the test's own check is that it has ended before
			<-ended
		})
	}
	return pids
}

func gone(pids []int) bool {
	return !slices.ContainsFunc(pids, func(pid int) bool {
		raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err == nil && !strings.Contains(string(raw), ") Z ")
	})
}

func TestALabThatWasKilledIsSweptByTheNext(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "lab")
	first, err := New(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	pids := mess(t, addHost(t, first, "a"))
	if _, err := New(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrBusy) {
		t.Fatalf("a second lab in the same place: %v, want ErrBusy", err)
	}
	if gone(pids) {
		t.Fatal("the second lab swept the first one's processes away")
	}
	if err := first.Leave(); err != nil { // as if it had been killed: its lock is gone, and nothing else
		t.Fatal(err)
	}
	second, err := New(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if !gone(pids) {
		t.Error("processes of the first lab are still there")
	}
	addHost(t, second, "a")
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if left, err := Left(second.cfg); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestLossOfPower(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a, b := addHost(t, l, "a"), addHost(t, l, "b")
	others := mess(t, b)
	pids := mess(t, a)
	disk := filepath.Join(a.StateDir, "disk")
	if err := errors.Join(os.MkdirAll(a.StateDir, 0o755), os.WriteFile(disk, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := a.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !gone(pids) {
		t.Error("processes of the host are still there")
	}
	if gone(others) {
		t.Error("processes of the other host are gone")
	}
	if _, err := os.Stat(a.RunDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the run directory: %v, want none", err)
	}
	if _, err := os.Stat(disk); err != nil {
		t.Errorf("the state directory lost a file: %v", err)
	}
	if !reaches(t, a.Node, b.Node, b.Addr.String(), soon) {
		t.Error("the host is not plugged in again")
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, c := range []struct {
		text string
		want string
	}{{"", ""}, {"a\n", "a\n"}, {"a\nb\nc\n", "b\nc\n"}, {"a\nb\nc", "b\nc"}, {"\n\n\n", "\n\n"}} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := tail(path, 2); got != c.want {
			t.Errorf("the last two lines of %q: %q, want %q", c.text, got, c.want)
		}
	}
}

func TestTracesSince(t *testing.T) {
	before := Traces{Namespaces: []string{"a"}, Links: []string{"lo"}, Tables: []string{"2 filter"}}
	now := Traces{Namespaces: []string{"a", "b"}, Links: []string{"lo", "weft1"}, Tables: []string{"2 filter", "1 weft"}}
	want := []string{"network namespace b", "link weft1", "nftables table 1 weft"}
	if got := now.Since(before); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := before.Since(now); len(got) != 0 {
		t.Errorf("what has gone is no trace: %q", got)
	}
}

// However many nodes and hosts there are, each has an address of its own.
func TestNodesAndHostsShareNoAddress(t *testing.T) {
	t.Parallel()
	of := map[netip.Addr]string{outsideAddr: "outside"}
	for n := 1; n <= 60; n++ {
		for what, a := range map[string]netip.Addr{"node": nodeAddr(n), "host": hostAddr(n)} {
			if has, taken := of[a]; taken || !underlayNet.Contains(a) {
				t.Errorf("%s %d has %s, which is %s's", what, n, a, has)
			}
			of[a] = fmt.Sprintf("%s %d", what, n)
		}
	}
}
