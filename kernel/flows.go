package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// departed matches the connections of a namespace that go to a virtual address, and through it to what is no member. TCP's are left: their end is
// their members' matter, and a member that only stops to take new ones finishes what it has.
type departed struct{ services []VIP }

// MatchConntrackFlow is netlink's.
func (l departed) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	to, by := addrOf(f.Forward.DstIP), addrOf(f.Reverse.SrcIP)
	if f.Forward.Protocol == unix.IPPROTO_TCP {
		return false
	}
	for _, s := range l.services {
		if s.Addr == to {
			return !slices.Contains(s.Members, by)
		}
	}
	return false
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// Looks for connections that a Balance leaves, and the pause between them. A packet that met the old table makes its connection only when it leaves
// the namespace, and no list shows it before: that is microseconds, unless its process was put off in between.
const (
	forgetLooks = 3
	forgetPause = time.Millisecond
)

// forget deletes the connections that a Balance leaves: at once, and where it replaced a table again, those that packets have made meanwhile.
func forget(c *conn, b Balance, replaced bool) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(c.ns.Fd()), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	defer h.Close()
	if err := forgetOnce(h, b); err != nil || !replaced {
		return err
	}
	for range forgetLooks - 1 {
		time.Sleep(forgetPause)
		if err := forgetOnce(h, b); err != nil {
			return err
		}
	}
	return nil
}

// forgetOnce deletes what is there. A dump that was interrupted is repeated: what it did not show may be one of them.
func forgetOnce(h *netlink.Handle, b Balance) error {
	for _, six := range []bool{false, true} {
		family := netlink.InetFamily(unix.AF_INET)
		if six {
			family = unix.AF_INET6
		}
		all := b.of(six)
		if len(all) == 0 {
			continue
		}
		for try := 0; ; try++ {
			_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, departed{all})
			if err == nil {
				break
			}
			if try == dumpTries || !errors.Is(err, netlink.ErrDumpInterrupted) {
				return fmt.Errorf("forget connections: %w", err)
			}
		}
	}
	return nil
}
