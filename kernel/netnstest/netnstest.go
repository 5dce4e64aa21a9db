// Package netnstest makes network namespaces, hosts and an underlay between them for tests. Nothing of it touches the namespace that the
// test process is in.
package netnstest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"weft/kernel"
)

// NS makes a namespace that ends with the test and returns its file.
func NS(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := kernel.MakeNetns(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kernel.RemoveNetns(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// In runs f in a namespace: sockets that it opens stay there.
func In(t testing.TB, ns string, f func() error) {
	t.Helper()
	if err := Try(ns, f); err != nil {
		t.Fatal(err)
	}
}

// Try runs f in a namespace and returns its error. Its thread comes back from there, or ends.
func Try(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		file, err := os.Open(ns)
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = file.Close() }()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = home.Close() }()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Underlay is a bridge in a namespace of its own that hosts are plugged into.
type Underlay struct {
	ns    string
	hosts int
}

// NewUnderlay makes the bridge.
func NewUnderlay(t testing.TB) *Underlay {
	t.Helper()
	u := &Underlay{ns: NS(t, "underlay")}
	In(t, u.ns, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br", MTU: 1500}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		return netlink.LinkSetUp(br)
	})
	return u
}

// Host is a namespace with an interface eth0 in the underlay.
type Host struct {
	NS   string
	Addr netip.Addr
}

// Host plugs a new host into the underlay, at 192.0.2.11 and up.
func (u *Underlay) Host(t testing.TB) Host {
	t.Helper()
	u.hosts++
	h := Host{NS: NS(t, fmt.Sprintf("host%d", u.hosts)), Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + u.hosts)})}
	far, err := netns.GetFromPath(h.NS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	In(t, u.ns, func() error {
		br, err := netlink.LinkByName("br")
		if err != nil {
			return err
		}
		v := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("h%d", u.hosts), MTU: 1500, MasterIndex: br.Attrs().Index, Flags: net.FlagUp},
			PeerName:  "eth0", PeerMTU: 1500, PeerNamespace: netlink.NsFd(far),
		}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		return netlink.LinkSetUp(v)
	})
	In(t, h.NS, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: h.Addr.AsSlice(), Mask: net.CIDRMask(24, 32)}}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
	return h
}
