package command

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"

	weftv1 "weft/proto/weft/v1"
)

func TestNoAgent(t *testing.T) {
	s := newShell(t)
	want := "Error: Cannot connect to the weft agent at unix://" + s.path + ". Is weftd running?\n"
	if r := s.run("network", "ls"); r.code != 1 || r.err != want || r.out != "" {
		t.Errorf("no socket: exit %d, %q", r.code, r.err)
	}
	if r := s.run("exec", "c1", "x"); r.code != 1 || r.err != want {
		t.Errorf("exec without a socket: exit %d, %q", r.code, r.err)
	}
	if r := s.run("inspect", "a", "b"); r.code != 1 || r.err != want || r.out != "" {
		t.Errorf("inspect says it more than once: exit %d, %q, %q", r.code, r.err, r.out)
	}
	if r := s.run("network", "rm", "a", "b"); r.code != 1 || r.err != want {
		t.Errorf("rm says it more than once: exit %d, %q", r.code, r.err)
	}
	// A socket that nobody listens on: what a killed agent leaves behind.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if r := s.run("network", "ls"); r.code != 1 || r.err != want {
		t.Errorf("dead socket: exit %d, %q", r.code, r.err)
	}
	if r := s.run("run", "x"); r.code != 125 || r.err != "weft: "+strings.TrimPrefix(strings.TrimSpace(want), "Error: ")+"\nSee 'weft run --help'.\n" {
		t.Errorf("run: exit %d, %q", r.code, r.err)
	}
}

func TestVersionWithoutAgentShowsTheClient(t *testing.T) {
	s := newShell(t)
	if r := s.run("version"); r.code != 1 || !strings.HasPrefix(r.out, "Client:\n Version: ") || strings.Contains(r.out, "Agent:") || !strings.Contains(r.err, "Cannot connect") {
		t.Errorf("exit %d, %q, %q", r.code, r.out, r.err)
	}
	newFake().serve(t, s.path)
	r := s.run("version")
	if r.code != 0 || !strings.Contains(r.out, "\nAgent:\n Version:      9.9\n") || !strings.Contains(r.out, "Store:        etcd://e:2379 (not reachable: refused)") {
		t.Errorf("exit %d, %q", r.code, r.out)
	}
}

func TestSocketWithoutPermission(t *testing.T) {
	a := &client{host: "unix:///x"}
	err := a.noAgent(&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)})
	if got := err.Error(); !strings.Contains(got, "Permission denied on the weft agent's socket at unix:///x.") {
		t.Error(got)
	}
}

// The environment gives the socket where -H does not.
func TestHostFlagWinsOverEnvironment(t *testing.T) {
	s := newShell(t)
	f := newFake()
	f.serve(t, s.path)
	if r := s.run("-H", "unix:///nowhere", "ps"); r.code != 1 || !strings.Contains(r.err, "unix:///nowhere") {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
	if r := s.run("ps", "--host", "unix://"+s.path); r.code != 0 {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
}

// An agent that dies while it works must not look like one that refused, nor like one that never was there.
func TestAgentDiesInACall(t *testing.T) {
	f, s := newFake(), newShell(t)
	var stop func()
	f.hang = func(ctx context.Context) {
		go stop()
		<-ctx.Done()
	}
	stop = f.serve(t, s.path)
	r := s.run("run", "-d", "x")
	if r.code != 125 || !strings.Contains(r.err, "went away before it answered") {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
}

func TestAgentOfAnotherVersion(t *testing.T) {
	s := newShell(t)
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	weftv1.RegisterClusterServer(server, newFake())
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if r := s.run("network", "ls"); r.code != 1 || !strings.Contains(r.err, "is of another version") {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
}

func TestStoreAwayIsSaid(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.unknown = true
	f.serve(t, s.path)
	if r := s.run("endpoint", "ls"); r.code != 0 || r.err != "WARNING: the endpoints of web, db are not known now: the cluster store is not reachable\n" {
		t.Errorf("endpoint ls: exit %d, %q", r.code, r.err)
	}
	if r := s.run("network", "inspect", "web"); r.code != 0 || !strings.HasPrefix(r.err, "WARNING: the endpoints of network web are not known now") {
		t.Errorf("network inspect: exit %d, %q", r.code, r.err)
	}
}
