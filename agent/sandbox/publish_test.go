package sandbox

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func taken(at netip.AddrPort) bool {
	l, err := net.Listen("tcp4", at.String())
	if err == nil {
		_ = l.Close()
	}
	return err != nil
}

// The supervisor holds the ports from before the process runs to its end, and the sockets are the host's though the process has a network
// of its own.
func TestPortsLastAsLongAsTheProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.create()
	at, more := addrPort("127.0.0.1", freePort(t)), addrPort("127.0.0.1", freePort(t))
	target := tcpServer(t, says("hello"))
	if err := w.Publish(w.ctx, id, []Forward{{"tcp", at, target}}); err != nil {
		t.Fatal(err)
	}
	if got := hears(t, dialTCP(t, at)); got != "hello" {
		t.Errorf("before the start: %q", got)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	busy := l.Addr().(*net.TCPAddr).AddrPort()
	var refused *BindError
	if err := w.Publish(w.ctx, id, []Forward{{"tcp", at, target}, {"tcp", busy, target}}); !errors.As(err, &refused) || !refused.Busy || refused.Index != 1 {
		t.Errorf("a port that is taken: %v", err)
	}
	if err := w.Start(w.ctx, id, Spec{Command: shell("sleep 1000"), Detached: true}); err != nil {
		t.Fatal(err)
	}
	if got := hears(t, dialTCP(t, at)); got != "hello" {
		t.Errorf("after the start: %q", got)
	}
	if err := w.Publish(w.ctx, id, []Forward{{"tcp", busy, target}}); !errors.As(err, &refused) {
		t.Errorf("a port that is taken, while the process runs: %v", err)
	}
	if err := w.Publish(w.ctx, id, []Forward{{"tcp", at, target}, {"tcp", more, target}}); err != nil {
		t.Fatal(err)
	}
	if got := hears(t, dialTCP(t, more)); got != "hello" {
		t.Errorf("one more: %q", got)
	}
	if err := w.Stop(w.ctx, id, unix.SIGKILL, 0); err != nil {
		t.Fatal(err)
	}
	<-w.Exited()
	if taken(at) || taken(more) {
		t.Error("a port is taken after the end that was told")
	}
}

// An agent that goes takes nothing along; the next one aims the ports anew.
func TestPortsOutliveTheAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := worldIn(t, true, dir+"/run", dir+"/state")
	id := w.create()
	at := addrPort("127.0.0.1", freePort(t))
	if err := w.Publish(w.ctx, id, []Forward{{"tcp", at, tcpServer(t, says("old"))}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(w.ctx, id, Spec{Command: shell("sleep 1000"), Detached: true}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got := hears(t, dialTCP(t, at)); got != "old" {
		t.Errorf("without an agent: %q", got)
	}
	next, err := New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if live, err := next.Recover(w.ctx, []string{id}); err != nil || !live[id] {
		t.Fatalf("Recover: %v, %v", live, err)
	}
	if got := hears(t, dialTCP(t, at)); got != "old" {
		t.Errorf("with the next agent: %q", got)
	}
	if err := next.Publish(w.ctx, id, []Forward{{"tcp", at, tcpServer(t, says("new"))}}); err != nil {
		t.Fatal(err)
	}
	if got := hears(t, dialTCP(t, at)); got != "new" {
		t.Errorf("aimed anew: %q", got)
	}
	if err := next.Remove(w.ctx, id, true); err != nil {
		t.Fatal(err)
	}
	if taken(at) {
		t.Error("the port is taken after the removal")
	}
}

// A sandbox that never starts leaves no port taken.
func TestPortsOfASandboxThatDoesNotStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.create()
	at := addrPort("127.0.0.1", freePort(t))
	if err := w.Publish(w.ctx, id, []Forward{{"tcp", at, netip.AddrPort{}}}); err != nil {
		t.Fatal(err)
	}
	if !taken(at) {
		t.Error("the port is free while it is published")
	}
	if err := w.Start(w.ctx, id, Spec{Command: []string{"/no/such/file"}, Detached: true}); err == nil {
		t.Fatal("it started")
	}
	if taken(at) {
		t.Error("the port is taken")
	}
}
