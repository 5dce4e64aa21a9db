package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// UDPForward is a published UDP port: what is sent to Host goes to Target.
type UDPForward struct {
	Host   netip.AddrPort // unspecified: every address of the family
	Target netip.AddrPort
}

// FlushUDP forgets what the host's connection tracking has of these ports and is not of their targets: as long as a client goes on sending,
// an old entry would take its datagrams to where they went before. What is right stays.
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
	for family, is4 := range map[netlink.InetFamily]bool{unix.AF_INET: true, unix.AF_INET6: false} {
		stale := staleUDP{}
		for _, f := range fs {
			if f.Host.Addr().Is4() == is4 {
				stale[f.Host.Port()] = append(stale[f.Host.Port()], f)
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
	for try := 0; len(stale) > 0; try++ {
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, stale)
		if err == nil || try == dumpTries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return nil
}

// staleUDP matches flows to published ports that lead elsewhere.
type staleUDP map[uint16][]UDPForward

// MatchConntrackFlow is netlink's.
func (s staleUDP) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, _ := netip.AddrFromSlice(f.Forward.DstIP)
	src, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	dst, src = dst.Unmap(), src.Unmap()
	for _, p := range s[f.Forward.DstPort] {
		if dst.IsLoopback() || !p.Host.Addr().IsUnspecified() && p.Host.Addr() != dst {
			continue
		}
		return netip.AddrPortFrom(src, f.Reverse.SrcPort) != p.Target
	}
	return false
}
