package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The VXLAN made by hand is the best that could be made of the same parts, in plain netlink calls: bridge and tunnel in a namespace of their
// own, bridge netfilter off, nothing learned, entries given beforehand; another VNI and UDP port than weft's on the same two hosts.
const (
	tunnelVNI  = 424242
	tunnelPort = 4790
	tunnelMTU  = 1450
)

// tunnelEnd is one host's side.
type tunnelEnd struct {
	host    string // namespaces
	inner   string
	sandbox string
	vtep    netip.Addr
	addr    netip.Prefix
}

// tunnelWay makes both sides.
func (b *bench) tunnelWay(y *yard) (way, error) {
	var ends [2]tunnelEnd
	for i := range ends {
		inner, err := y.add(fmt.Sprintf("inner%d", i))
		if err != nil {
			return way{}, err
		}
		sandbox, err := y.add(fmt.Sprintf("sandbox%d", i))
		if err != nil {
			return way{}, err
		}
		ends[i] = tunnelEnd{host: b.hosts[i].Path, inner: inner, sandbox: sandbox, vtep: b.hosts[i].Addr, addr: tunnelAddrs[i]}
	}
	for i := range ends {
		if err := ends[i].make(ends[1-i]); err != nil {
			return way{}, fmt.Errorf("make a VXLAN by hand: %w", err)
		}
	}
	return way{name: "VXLAN made by hand", from: ends[0].sandbox, to: ends[1].sandbox, addr: ends[1].addr.Addr()}, nil
}

func (e tunnelEnd) make(other tunnelEnd) error {
	err := withFile(e.inner, func(fd int) error {
		return in(e.host, func() error {
			return netlink.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: "vx0", MTU: tunnelMTU, Namespace: netlink.NsFd(fd), TxQLen: -1},
				VxlanId:   tunnelVNI, SrcAddr: e.vtep.AsSlice(), Port: tunnelPort, Learning: false, UDPCSum: false,
			})
		})
	})
	if err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", MTU: tunnelMTU, HardwareAddr: net.HardwareAddr{6, 0, 0, 0, 0, 1}, TxQLen: -1}}
	err = in(e.inner, func() error {
		for _, f := range []string{"iptables", "ip6tables", "arptables"} {
			if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+f, []byte("0"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge))
	})
	if err != nil {
		return err
	}
	if err := makePair(e.inner, "port0", e.sandbox, "eth0", tunnelMTU, bridge.Index, hardware(e.addr.Addr())); err != nil {
		return err
	}
	if err := in(e.inner, func() error { return e.forward(bridge, other) }); err != nil {
		return err
	}
	return setUp(e.sandbox, "eth0", e.addr)
}

// forward plugs the tunnel in and tells it, and the bridge, where everything is. It runs in the inner namespace.
func (e tunnelEnd) forward(bridge netlink.Link, other tunnelEnd) error {
	vx, err := netlink.LinkByName("vx0")
	if err != nil {
		return err
	}
	port, err := netlink.LinkByName("port0")
	if err != nil {
		return err
	}
	own, far := net.HardwareAddr(hardware(e.addr.Addr())), net.HardwareAddr(hardware(other.addr.Addr()))
	master := func(l netlink.Link, mac net.HardwareAddr) *netlink.Neigh {
		return &netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac}
	}
	return errors.Join(
		netlink.LinkSetMaster(vx, bridge), netlink.LinkSetUp(vx),
		netlink.LinkSetLearning(vx, false), netlink.LinkSetLearning(port, false), netlink.LinkSetFlood(vx, false),
		netlink.LinkSetBrNeighSuppress(vx, true),
		netlink.NeighSet(master(port, own)), netlink.NeighSet(master(vx, far)),
		netlink.NeighSet(&netlink.Neigh{
			LinkIndex: vx.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP | netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
			IP: other.vtep.AsSlice(), HardwareAddr: far,
		}),
		netlink.NeighSet(&netlink.Neigh{
			LinkIndex: bridge.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: other.addr.Addr().AsSlice(), HardwareAddr: far,
		}),
	)
}

// withFile calls f with a file's descriptor.
func withFile(path string, f func(fd int) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return f(int(file.Fd()))
}
