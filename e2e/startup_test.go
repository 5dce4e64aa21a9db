package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fails starts an agent that must end by itself, with an error of one line that has the words.
func (h *host) fails(words []string, args ...string) {
	h.c.t.Helper()
	began := time.Now()
	r, err := h.Run(within(h.c.t, patience), args...)
	if err != nil {
		h.c.t.Error(err)
		return
	}
	took := time.Since(began)
	if r.Code == 0 || took > 5*time.Second {
		h.c.t.Errorf("weftd %s on %s: exit %d after %s; want another code within 5 s", strings.Join(args, " "), h.Name, r.Code, took)
	}
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	last := lines[len(lines)-1]
	for _, w := range words {
		if !strings.Contains(last, w) {
			h.c.t.Errorf("weftd %s on %s said last %q, want %q in it", strings.Join(args, " "), h.Name, last, w)
		}
	}
	if !strings.HasPrefix(last, "weftd: ") {
		h.c.t.Errorf("weftd %s on %s said last %q, want its name in front", strings.Join(args, " "), h.Name, last)
	}
}

func TestAnAgentThatCannotWorkSaysWhy(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	h := c.hosts[0]
	for _, x := range []struct{ args, words []string }{
		{[]string{"--cluster-stor", "x"}, []string{"unknown flag: --cluster-stor"}},
		{[]string{"nonsense"}, []string{"nonsense"}},
		{[]string{"--cluster-store", "foo://192.0.2.2:1"}, []string{"foo", "etcd://"}},
		{[]string{"--cluster-advertise", "eth9"}, []string{"--cluster-advertise eth9", "no interface is called eth9"}},
		{[]string{"--cluster-advertise", "203.0.113.9"}, []string{"no interface has the address 203.0.113.9"}},
		{[]string{"--data-addr", "203.0.113.9"}, []string{"--data-addr", "no interface has the address 203.0.113.9"}},
		{[]string{"--vxlan-port", "0"}, []string{"--vxlan-port"}},
		{[]string{"--log-level", "loud"}, []string{"--log-level", "loud"}},
		{[]string{"--embedded-listen", "192.0.2.99:2379"}, []string{"192.0.2.99:2379"}},
		{[]string{"--config", "/no/such/file"}, []string{"/no/such/file"}},
		{[]string{"--cluster-store-opt", "kv.user=x"}, []string{"kv.user"}},
		{[]string{"--default-addr-pool", "base=10.0.0.1/8,size=24"}, []string{"10.0.0.0/8"}},
	} {
		h.fails(x.words, x.args...)
	}
	if err := h.isEmpty(); err != nil {
		t.Error(err)
	}
}

func TestAnAgentNeedsRoot(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	h := c.hosts[0]
	h.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	must(t, os.Chmod(filepath.Dir(weftdPath), 0o755))
	h.fails([]string{"root"})
}

func TestTwoAgentsWithOneStateDirectory(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.up()
	h1.awaitJoined()
	h2.StateDir = h1.StateDir
	h2.fails([]string{h1.StateDir, "another agent uses this state directory", fmt.Sprint(h1.PID())})
	h1.weft("network", "create", "-d", "overlay", "web")
}

func TestTwoHostsWithOneTunnelAddress(t *testing.T) {
	t.Parallel()
	c, store := newClusterWithStore(t, 2)
	store.start()
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.up()
	h1.awaitJoined()
	h2.NoJoin = true // the first host cannot be reached from where its address is taken
	must(t, h2.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(h1.Addr.String() + "/32")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, a)
	}))
	h2.fails([]string{h1.Addr.String(), "host1"}, "--data-addr", h1.Addr.String())
}

// A machine that was cloned has the same host ID. Its agent meets the session of the first.
func TestAHostThatWasCloned(t *testing.T) {
	t.Parallel()
	c, s := newClusterWithStore(t, 2)
	s.start()
	h1, h2 := c.hosts[0], c.hosts[1]
	for _, h := range c.hosts { // a session of another agent is waited for as long as it may outlive that
		h.Args = []string{"--cluster-store-opt", "discovery.ttl=3"}
	}
	h1.up()
	h1.awaitJoined()
	must(t, h1.Stop(within(t, patience)))
	must(t, os.CopyFS(h2.StateDir, os.DirFS(h1.StateDir)))
	h1.up()
	h1.awaitJoined()
	r, err := h2.Run(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	if r.Code == 0 || !strings.Contains(r.Stderr, "host1") && !strings.Contains(r.Stderr, "another") {
		t.Errorf("exit %d, %s; want a refusal that says whose ID it is", r.Code, r.Stderr)
	}
	h1.weft("network", "create", "-d", "overlay", "web")
}

func TestAFullDisk(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.leavesAiling("a disk is full")
	h1, h2 := c.hosts[0], c.hosts[1]
	must(t, os.MkdirAll(h2.StateDir, 0o700))
	must(t, unix.Mount("weft-test", h2.StateDir, "tmpfs", 0, "size=4m"))
	c.start()
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web").echo()
	eventually(t, settle, func() error { return a.reaches(b.addr("web")) })
	traffic := a.flow(b.addr("web"))

	filler := filepath.Join(h2.StateDir, "filler")
	fill(t, filler)
	h2.refuses(125, "no space left on device", "run", "-d", "--name", "c", "--network", "web", "--", "sleep", forever)
	if got := h2.weft("ps", "-a", "--format", "{{.Names}}"); got != "b" {
		t.Errorf("sandboxes: %q, want b alone", got)
	}
	traffic.flows()
	if err := b.finds("a", a.addr("web")); err != nil {
		t.Error(err)
	}
	must(t, os.Remove(filler))
	d := h2.box("d", "web")
	eventually(t, settle, func() error { return a.finds("d", d.addr("web")) })
	traffic.end()
}

// fill writes until the disk is full.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for size := 1 << 16; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}
