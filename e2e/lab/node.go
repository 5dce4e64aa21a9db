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
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/kernel"
)

// Node is a network namespace in the underlay.
type Node struct {
	Name string
	Path string // the file that the namespace is bound to
	Addr netip.Addr

	lab  *Lab
	port string // the underlay's end of eth0
}

const bridgeName = "br0"

// makeNode makes the namespace alone.
func (l *Lab) makeNode(name string, addr netip.Addr) (*Node, error) {
	n := &Node{Name: name, Path: filepath.Join(l.cfg.NetnsDir, l.cfg.Prefix+name), Addr: addr, lab: l}
	return n, kernel.MakeNetns(n.Path)
}

// Do runs f on a thread that is in the node's namespace; sockets that it opens and processes that it starts stay there.
func (n *Node) Do(f func() error) error { return Within(n.Path, f) }

// Within runs f in a namespace. The thread is not used again.
func Within(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		done <- func() error {
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer func() { _ = file.Close() }()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace %s: %w", path, err)
			}
			return f()
		}()
	}()
	return <-done
}

// Start starts a process in the node's namespace, in a session of its own. It does not end with its parent: the thread that starts it is
// not one that stays.
func (n *Node) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &unix.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = 0
	cmd.SysProcAttr.Setsid = true
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, n.mark())
	return n.Do(cmd.Start)
}

// Dial connects from the node.
func (n *Node) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = n.Do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Listen listens on the node.
func (n *Node) Listen(network, addr string) (l net.Listener, err error) {
	err = n.Do(func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}

// SetLink pulls the node's cable, or plugs it in again.
func (n *Node) SetLink(up bool) error {
	err := n.lab.br.link(n.port, func(link netlink.Link) error {
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	})
	if err != nil {
		return fmt.Errorf("set the cable of %s: %w", n.Name, err)
	}
	return nil
}

// link does something with one of the namespace's links.
func (n *Node) link(name string, f func(netlink.Link) error) error {
	return n.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return f(l)
	})
}

func (n *Node) makeBridge() error {
	err := n.Do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, MTU: 1500}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		return netlink.LinkSetUp(br)
	})
	if err != nil {
		return fmt.Errorf("make the underlay's bridge: %w", err)
	}
	return nil
}

// plug connects a node's eth0 to the underlay and gives it its address.
func (l *Lab) plug(n *Node, port string) error {
	n.port = port
	far, err := os.Open(n.Path)
	if err != nil {
		return fmt.Errorf("plug %s in: %w", n.Name, err)
	}
	defer func() { _ = far.Close() }()
	err = l.br.link(bridgeName, func(br netlink.Link) error {
		v := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port, MTU: 1500, MasterIndex: br.Attrs().Index, Flags: net.FlagUp},
			PeerName:  "eth0", PeerMTU: 1500, PeerNamespace: netlink.NsFd(far.Fd()),
		}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		return netlink.LinkSetUp(v)
	})
	if err != nil {
		return fmt.Errorf("plug %s in: %w", n.Name, err)
	}
	if err := n.link("eth0", n.address); err != nil {
		return fmt.Errorf("give %s its address: %w", n.Name, err)
	}
	return nil
}

// address gives eth0 the node's address, and all but outside a route to there.
func (n *Node) address(eth0 netlink.Link) error {
	a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(n.Addr, underlayNet.Bits()))}
	if err := errors.Join(netlink.AddrAdd(eth0, a), netlink.LinkSetUp(eth0)); err != nil {
		return err
	}
	if n.Addr == outsideAddr {
		return nil
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: outsideAddr.AsSlice()})
}

// addLoopback gives the node one more address.
func (n *Node) addLoopback(a netip.Addr) error {
	err := n.link("lo", func(lo netlink.Link) error {
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))})
	})
	if err != nil {
		return fmt.Errorf("give %s the address %s: %w", n.Name, a, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
