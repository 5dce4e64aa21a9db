package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"weft/e2e/lab"
)

// flow is traffic that never stops: numbered messages over one TCP connection, and numbered datagrams, all to be echoed.
type flow struct {
	t          testing.TB
	tcp, udp   atomic.Int64 // echoes seen
	lost       atomic.Int64 // datagrams without an echo
	longest    atomic.Int64 // time between two echoes on the connection
	stop       chan struct{}
	wg         sync.WaitGroup
	tcpErr     error // read after wg
	connection net.Conn
}

const flowPause = 2 * time.Millisecond

// flow starts traffic from a sandbox to one that echoes.
func (b *box) flow(to string) *flow {
	t := b.h.c.t
	t.Helper()
	f := &flow{t: t, stop: make(chan struct{})}
	c, err := b.dial("tcp4", net.JoinHostPort(to, echoPort), soon)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readGreeting(c, soon); err != nil {
		t.Fatal(err)
	}
	d, err := b.dial("udp4", net.JoinHostPort(to, echoPort), soon)
	if err != nil {
		t.Fatal(err)
	}
	f.connection = c
	f.wg.Go(func() { f.tcpErr = f.overTCP(c) })
	f.wg.Go(func() { f.overUDP(d) })
	t.Cleanup(func() {
		select {
		case <-f.stop:
		default:
			close(f.stop)
		}
		_, _ = c.Close(), d.Close()
		f.wg.Wait()
	})
	f.flows()
	return f
}

func (f *flow) running() bool {
	select {
	case <-f.stop:
		return false
	case <-time.After(flowPause):
		return true
	}
}

func (f *flow) overTCP(c net.Conn) error {
	var in, out [8]byte
	last := time.Now()
	for n := uint64(1); f.running(); n++ {
		binary.BigEndian.PutUint64(out[:], n)
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := c.Write(out[:]); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, in[:]); err != nil {
			return err
		}
		if in != out {
			return fmt.Errorf("message %d came back as %d", n, binary.BigEndian.Uint64(in[:]))
		}
		f.tcp.Add(1)
		f.longest.Store(max(f.longest.Load(), int64(time.Since(last))))
		last = time.Now()
	}
	return nil
}

func (f *flow) overUDP(c net.Conn) {
	var in, out [8]byte
	for n := uint64(1); f.running(); n++ {
		binary.BigEndian.PutUint64(out[:], n)
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, err := c.Write(out[:])
		if err == nil {
			_, err = c.Read(in[:])
		}
		if err != nil || in != out {
			f.lost.Add(1)
			continue
		}
		f.udp.Add(1)
	}
}

// flows waits until more of it has come through.
func (f *flow) flows() {
	f.t.Helper()
	tcp, udp := f.tcp.Load(), f.udp.Load()
	eventually(f.t, soon, func() error {
		if f.tcp.Load() < tcp+20 || f.udp.Load() < udp+20 {
			return errors.New("the traffic stands still")
		}
		return nil
	})
}

// end stops the traffic; nothing of it may have been lost.
func (f *flow) end() {
	f.t.Helper()
	close(f.stop)
	f.wg.Wait()
	f.t.Logf("%d messages, %d datagrams, lost %d, longest wait %s", f.tcp.Load(), f.udp.Load(), f.lost.Load(), time.Duration(f.longest.Load()))
	if f.tcpErr != nil || f.lost.Load() > 0 {
		f.t.Errorf("the connection ended with %v, and %d datagrams were lost; want no loss", f.tcpErr, f.lost.Load())
	}
}

// monitor records what the kernel tells of changes in a namespace: links, addresses, routes, forwarding and neighbour entries, nftables.
type monitor struct {
	wg sync.WaitGroup

	mu   sync.Mutex // guards what follows
	seen []string
	fds  []int // nil: closed
}

// quiet tells whether the kernel has said of the default network's bridge, to which nothing is connected, that it has no carrier: it does so a
// moment after the bridge was made.
func (h *host) quiet() error {
	return h.Do(func() error {
		l, err := netlink.LinkByName("weft0")
		if err == nil && l.Attrs().OperState != netlink.OperDown {
			err = fmt.Errorf("weft0 is %s", l.Attrs().OperState)
		}
		return err
	})
}

func watch(t testing.TB, ns string) *monitor {
	t.Helper()
	m := &monitor{}
	err := lab.Within(ns, func() error {
		groups := []int{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE}
		return errors.Join(m.open(unix.NETLINK_ROUTE, groups...), m.open(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES))
	})
	t.Cleanup(func() { m.stop() })
	must(t, err)
	return m
}

func (m *monitor) open(protocol int, groups ...int) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.fds = append(m.fds, fd)
	m.mu.Unlock()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return err
		}
	}
	// A read that wakes up now and then: that of a netlink socket is not ended by closing it.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		return err
	}
	m.wg.Go(func() { m.read(fd, protocol) })
	return nil
}

func (m *monitor) read(fd, protocol int) {
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			m.mu.Lock()
			closed := m.fds == nil
			m.mu.Unlock()
			if closed {
				return
			}
			continue
		}
		if err != nil {
			m.note(err.Error())
			return
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			m.note(err.Error())
		}
		for _, x := range msgs {
			if protocol == unix.NETLINK_ROUTE && x.Header.Type == unix.RTM_NEWNEIGH && isTransient(x.Data) {
				continue
			}
			m.note(fmt.Sprintf("protocol %d type %d: %x", protocol, x.Header.Type, x.Data))
		}
	}
}

// isTransient tells of a neighbour message whether the kernel itself has it come and go.
func isTransient(data []byte) bool {
	const stateAt, permanent = 8, unix.NUD_PERMANENT | unix.NUD_NOARP
	return len(data) > stateAt+1 && nl.NativeEndian().Uint16(data[stateAt:])&permanent == 0
}

func (m *monitor) note(s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = append(m.seen, s)
}

func (m *monitor) stop() []string {
	m.mu.Lock()
	fds := m.fds
	m.fds = nil
	m.mu.Unlock()
	m.wg.Wait()
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return m.seen
}

// networkSpaces are the files of a host's network namespaces, one for each network that it takes part in.
func (h *host) networkSpaces() []string {
	h.c.t.Helper()
	out, err := filepath.Glob(filepath.Join(h.RunDir(), "netns", "weft-*"))
	if err != nil {
		h.c.t.Fatal(err)
	}
	return out
}

func TestAnAgentIsKilledAndNobodyNotices(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	echo(c, c.lab.Outside().Path, c.lab.OutsideAddr().String())
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h3.box("a", "web"), h2.box("b", "web", "--ip", "10.0.0.77").echo()
	a2 := h2.box("a2", "web")
	h1.box("first", "web") // which brings the entry of host1's end of the tunnel
	addrA, addrB := a.addr("web"), b.addr("web")
	eventually(t, settle, func() error { return a.reaches(addrB) })

	across, local, egress := a.flow(addrB), a2.flow(addrB), b.flow(c.lab.OutsideAddr().String())
	eventually(t, settle, h2.quiet)
	monitors := map[string]*monitor{"the host": watch(t, h2.Path), "sandbox b": watch(t, b.netns)}
	for _, ns := range h2.networkSpaces() {
		monitors["network namespace "+filepath.Base(ns)] = watch(t, ns)
	}

	h2.kill()
	for _, f := range []*flow{across, local, egress} {
		f.flows()
	}
	began := time.Now()
	h2.up()
	limit := time.Second
	if raceEnabled {
		limit *= 3
	}
	eventually(t, patience, func() error { return b.finds("a", addrA) })
	if took := time.Since(began); took > limit {
		t.Errorf("names were answered %s after the agent's start, want at most %s", took, limit)
	} else {
		t.Logf("names were answered %s after the agent's start", took)
	}
	h2.awaitJoined()
	// And when it has heard of a change, so that it has been through all of its work.
	h1.box("later", "web")
	eventually(t, settle, func() error { return a2.finds("later", (&box{h: h1, name: "later"}).addr("web")) })
	eventually(t, settle, func() error { return a.finds("later", (&box{h: h1, name: "later"}).addr("web")) })
	for _, f := range []*flow{across, local, egress} {
		f.flows()
		f.end()
	}
	if got := b.addr("web"); got != addrB {
		t.Errorf("b has %s now, it had %s", got, addrB)
	}
	if pid := b.view().State.Status; pid != "running" {
		t.Errorf("b is %s", pid)
	}
	var added []string
	for where, m := range monitors {
		for _, s := range m.stop() {
			if where == "the host" || where == "sandbox b" {
				t.Errorf("in %s the kernel was changed: %s", where, s)
				continue
			}
			added = append(added, s)
		}
	}
	if len(added) > 3 { // the forwarding, bridge and neighbour entry of "later"
		t.Errorf("%d changes in the network's namespace, want the three entries of one new endpoint:\n%s", len(added), strings.Join(added, "\n"))
	}
}

func TestSandboxesThatEndWhileNoAgentIsThere(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	client := h1.box("client", "web")
	gate := filepath.Join(t.TempDir(), "gate")
	h2.weft("run", "-d", "--name", "b", "--network", "web", "--", "sh", "-c", "while ! [ -e "+gate+" ]; do sleep 0.01; done; exit 5")
	b := &box{h: h2, name: "b"}
	eventually(t, settle, func() error { return client.finds("b", b.addr("web")) })
	pid := inspectPID(h2, "b")
	h2.kill()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, func() error {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			return fmt.Errorf("process %d is still there", pid)
		}
		return nil
	})
	h2.up()
	eventually(t, settle, func() error { return client.finds("b") })
	if s := b.view().State; s.Status != "exited" || s.ExitCode != 5 {
		t.Errorf("b is %+v, want exited with code 5", s)
	}
}

func inspectPID(h *host, name string) int {
	h.c.t.Helper()
	v := inspect[struct{ State struct{ Pid int } }](h, "inspect", name)
	return v.State.Pid
}

func TestAStaticAddressIsKept(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	b := h2.box("b", "web", "--ip", "10.1.0.2")
	h2.weft("stop", "-t", "0", "b")
	h1.refuses(125, "Address already in use", "run", "-d", "--name", "thief", "--network", "web", "--ip", "10.1.0.2", "--", "sleep", forever)
	if got := h1.box("a", "web").addr("web"); got == "10.1.0.2" {
		t.Error("the address of a stopped sandbox was given away")
	}
	if err := h2.Restart(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	h2.weft("start", "b")
	if got := b.addr("web"); got != "10.1.0.2" {
		t.Errorf("after stop, restart of the agent and start it has %s", got)
	}
	h2.weft("restart", "-t", "0", "b")
	if got := b.addr("web"); got != "10.1.0.2" {
		t.Errorf("after a restart it has %s", got)
	}
	if got := h1.weft("endpoint", "ls", "-q"); got == "" {
		t.Error("no endpoints are listed")
	}
}

func TestLossOfPower(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	client := h1.box("client", "web")
	fixed, loose := h2.box("fixed", "web", "--ip", "10.1.0.50"), h2.box("loose", "web")
	eventually(t, settle, func() error { return client.finds("fixed", "10.1.0.50") })
	if err := h2.PowerOff(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	h1.refuses(125, "Address already in use", "run", "-d", "--name", "thief", "--network", "web", "--ip", "10.1.0.50", "--", "sleep", forever)

	h2.up()
	h2.awaitJoined()
	for _, b := range []*box{fixed, loose} {
		if got := b.view().State.Status; got != "exited" {
			t.Errorf("%s is %s after the loss of power, want exited", b.name, got)
		}
		eventually(t, settle, func() error { return client.finds(b.name) })
		h2.weft("start", b.name)
		b.netns = b.view().NetworkSettings.SandboxKey
		b.echo()
		eventually(t, settle, func() error { return client.finds(b.name, b.addr("web")) })
		eventually(t, settle, func() error { return client.reaches(b.addr("web")) })
	}
	if got := fixed.addr("web"); got != "10.1.0.50" {
		t.Errorf("fixed has %s now", got)
	}
}

// stopQuietly ends traffic whose other side has been stopped.
func (f *flow) stopQuietly() {
	close(f.stop)
	_ = f.connection.Close()
	f.wg.Wait()
}

// pictureSaved tells whether an agent has put what it knows on its disk.
func pictureSaved(h *host) error {
	found, err := filepath.Glob(filepath.Join(h.StateDir, "picture", "*"))
	if err == nil && len(found) < 2 {
		err = fmt.Errorf("on disk are %q", found)
	}
	return err
}
