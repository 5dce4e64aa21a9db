package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// UDPForward is a published UDP port: what is sent to Host goes to Target.
type UDPForward struct {
	Host   netip.AddrPort // unspecified: every address of the family
	Target netip.AddrPort // zero: nowhere
}

// FlushUDP forgets what the host's connection tracking has of these ports and is not of their targets: as long as a client goes on sending,
// an old entry would take its datagrams to where they went before. What is right stays, and so does what only passes through the host to such a
// port of another's.
func (k *Kernel) FlushUDP(fs []UDPForward) error {
	if len(fs) == 0 {
		return nil
	}
	host, err := os.Open(k.path(HostNS)) // beside the host's own socket: a dump of many flows takes its time
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = host.Close() }()
	h, err := netlink.NewHandleAt(netns.NsHandle(host.Fd()), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	defer h.Close()
	own, err := addressesOf(host)
	if err != nil {
		return fmt.Errorf("list the host's addresses: %w", err)
	}
	for family, is4 := range map[netlink.InetFamily]bool{unix.AF_INET: true, unix.AF_INET6: false} {
		stale := staleUDP{own: own, ports: map[uint16][]UDPForward{}}
		for _, f := range fs {
			if f.Host.Addr().Is4() == is4 {
				stale.ports[f.Host.Port()] = append(stale.ports[f.Host.Port()], f)
			}
		}
		if err := forgetFlows(h, family, stale); err != nil {
			return fmt.Errorf("forget the UDP flows of published ports: %w", err)
		}
	}
	return nil
}

// forgetFlows repeats a dump that was interrupted: what it did not show may be stale.
func forgetFlows(h *netlink.Handle, family netlink.InetFamily, stale staleUDP) error {
	for try := 0; len(stale.ports) > 0; try++ {
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, stale)
		if err == nil || try == dumpTries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return nil
}

// addressesOf are those that a namespace's interfaces have.
func addressesOf(ns *os.File) (map[netip.Addr]bool, error) {
	out := map[netip.Addr]bool{}
	err := inside(ns, func() error {
		all, err := net.InterfaceAddrs()
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				out[p.Addr().Unmap().WithZone("")] = true
			}
		}
		return err
	})
	return out, err
}

// staleUDP matches flows to published ports that lead elsewhere.
type staleUDP struct {
	own   map[netip.Addr]bool // the host's addresses
	ports map[uint16][]UDPForward
}

// MatchConntrackFlow is netlink's.
func (s staleUDP) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, _ := netip.AddrFromSlice(f.Forward.DstIP)
	src, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	dst, src = dst.Unmap(), src.Unmap()
	for _, p := range s.ports[f.Forward.DstPort] {
		if dst.IsLoopback() || !s.own[dst] || !p.Host.Addr().IsUnspecified() && p.Host.Addr() != dst {
			continue
		}
		return netip.AddrPortFrom(src, f.Reverse.SrcPort) != p.Target
	}
	return false
}
