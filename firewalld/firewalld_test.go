package firewalld_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/bridge"
	"weft/firewalld"
	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/port"
	"weft/store/record"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// host is a namespace with a D-Bus and, while it runs, a firewalld of its own, one local network with one sandbox, and another host outside.
type host struct {
	t       *testing.T
	self    netnstest.Host
	outside netnstest.Host
	sandbox string
	dir     string
	bus     string
	fw      *exec.Cmd
}

func newHost(t *testing.T) *host {
	t.Helper()
	under := netnstest.NewUnderlay(t)
	h := &host{t: t, self: under.Host(t), outside: under.Host(t), dir: t.TempDir()}
	h.bus = "unix:path=" + filepath.Join(h.dir, "bus")
	if err := os.WriteFile(filepath.Join(h.dir, "bus.conf"), fmt.Appendf(nil, busConfig, h.bus), 0o644); err != nil {
		t.Fatal(err)
	}
	h.spawn("dbus-daemon", "--config-file="+filepath.Join(h.dir, "bus.conf"), "--nofork", "--nopidfile")
	eventually(t, func() error { _, err := os.Stat(filepath.Join(h.dir, "bus")); return err })
	h.network()
	return h
}

// spawn starts a daemon in the host's namespace, which ends with the test at the latest.
func (h *host) spawn(args ...string) *exec.Cmd {
	h.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + h.self.NS}, args...)...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+h.bus)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		h.t.Fatalf("start %v: %v (the tests need Debian's firewalld and dbus: tools/test.sh deps)", args, err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if h.t.Failed() {
			h.t.Logf("%v: %s", args, out.String())
		}
	})
	return cmd
}

func (h *host) startFirewalld() {
	h.t.Helper()
	h.fw = h.spawn("firewalld", "--nofork", "--nopid", "--system-config", filepath.Join(h.dir, "etc"), "--log-file", filepath.Join(h.dir, "log"))
	eventually(h.t, func() error { _, err := h.try("firewall-cmd", "--state"); return err })
}

func (h *host) try(args ...string) (string, error) {
	cmd := exec.Command("nsenter", append([]string{"--net=" + h.self.NS}, args...)...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+h.bus)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%v: %w: %s", args, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// network makes a local network as the agent would, with a published port.
func (h *host) network() {
	h.t.Helper()
	k, err := kernel.Open(kernel.Config{Log: slog.New(slog.DiscardHandler), HostNS: h.self.NS, NetnsDir: filepath.Join(h.dir, "netns")})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := errors.Join(k.Close(), syscall.Unmount(filepath.Join(h.dir, "netns"), syscall.MNT_DETACH)); err != nil {
			h.t.Error(err)
		}
	})
	n := bridge.Network{Record: &record.Network{
		ID: record.NetworkID(strings.Repeat("0a", 32)), Driver: "bridge", MTU: 1500,
		Pools: []record.Pool{{Subnet: netip.MustParsePrefix("172.18.0.0/16"), Gateway: netip.MustParseAddr("172.18.0.1")}},
	}}
	h.sandbox = netnstest.NS(h.t, "sandbox")
	target := netip.MustParseAddr("172.18.0.2")
	ep := &record.Endpoint{ID: record.EndpointID(strings.Repeat("0b", 32)), MAC: "02:42:ac:12:00:02", Addrs: []netip.Addr{target}}
	n.Ports = []port.Port{{Endpoint: ep, Netns: h.sandbox, IfName: "eth0", Default: true}}
	want := bridge.Render(n)
	binding := record.PortBinding{Proto: "tcp", HostAddr: netip.IPv4Unspecified(), HostPort: 8080, Port: 9}
	maps.Copy(want, bridge.RenderHost(bridge.Host{Locals: []bridge.Network{n}, Published: []bridge.Published{{Binding: binding, Target: target}}}))
	ops := kernel.Missing(want, nil)
	for i, err := range k.Apply(context.Background(), ops) {
		if err != nil {
			h.t.Fatalf("%v: %v", ops[i], err)
		}
	}
	for _, ns := range []string{h.sandbox, h.outside.NS} {
		serve(h.t, ns)
	}
}

func serve(t *testing.T, ns string) {
	t.Helper()
	var l net.Listener
	netnstest.In(t, ns, func() (err error) {
		l, err = net.Listen("tcp", ":9")
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
}

func reach(ns, to string) error {
	return netnstest.Try(ns, func() error {
		c, err := net.DialTimeout("tcp", to, time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err = c.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
}

func (h *host) out() error { return reach(h.sandbox, h.outside.Addr.String()+":9") }

func (h *host) in() error { return reach(h.outside.NS, h.self.Addr.String()+":8080") }

func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestBesideARealFirewalld(t *testing.T) {
	h := newHost(t)
	if err := errors.Join(h.out(), h.in()); err != nil {
		t.Fatalf("without firewalld: %v", err)
	}
	k := firewalld.New(firewalld.Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Bus: h.bus})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { k.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()

	h.startFirewalld()
	if err := h.out(); err == nil {
		t.Fatal("the check itself does not work: firewalld lets everything pass")
	}
	if _, err := h.try("firewall-cmd", "--zone=internal", "--add-interface=eth7"); err != nil {
		t.Fatal(err)
	}
	theirs := h.zones(t)
	links := []string{"br-0a0a0a0a0a0a"}
	k.Keep(links)
	eventually(t, h.out)
	eventually(t, h.in)

	if _, err := h.try("firewall-cmd", "--reload"); err != nil {
		t.Fatal(err)
	}
	eventually(t, h.out)

	_ = h.fw.Process.Signal(syscall.SIGTERM)
	_ = h.fw.Wait()
	h.startFirewalld()
	eventually(t, h.out)
	eventually(t, h.in)

	if _, err := h.try("firewall-cmd", "--zone=trusted", "--remove-interface=br-0a0a0a0a0a0a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, h.out)
	if note := k.Note(); note != "" {
		t.Errorf("it complains: %s", note)
	}

	k.Keep(nil)
	eventually(t, func() error {
		if got := h.zones(t); strings.Contains(got, "br-0a0a0a0a0a0a") {
			return errors.New(got)
		}
		return nil
	})
	if !strings.Contains(theirs, "eth7") {
		t.Errorf("the check itself does not work: %s", theirs)
	}

	if _, err := h.try("firewall-cmd", "--zone=drop", "--add-interface=br-0a0a0a0a0a0a"); err != nil {
		t.Fatal(err)
	}
	k.Keep(links)
	eventually(t, func() error {
		if !strings.Contains(k.Note(), "zone drop") {
			return fmt.Errorf("the note is %q", k.Note())
		}
		return nil
	})
	if got := h.zones(t); !strings.Contains(got, "drop\n  interfaces: br-0a0a0a0a0a0a") {
		t.Errorf("the user's choice was not left alone: %s", got)
	}
}

// zones are the bindings of interfaces.
func (h *host) zones(t *testing.T) string {
	t.Helper()
	out, err := h.try("firewall-cmd", "--get-active-zones")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return l == "" }), "\n")
}

// Where there is no bus, or no firewalld on it, nothing happens, and its coming is noticed.
func TestWithoutABus(t *testing.T) {
	k := firewalld.New(firewalld.Config{Log: slog.New(slog.DiscardHandler), Bus: "unix:path=" + filepath.Join(t.TempDir(), "none")})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { k.Run(ctx); close(done) }()
	k.Keep([]string{"weft0"})
	k.Look()
	if note := k.Note(); note != "" {
		t.Errorf("it complains: %s", note)
	}
	cancel()
	<-done
}
