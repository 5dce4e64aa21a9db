package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rawSocket speaks rtnetlink as directly as it can be done: this is the floor that the kernel part of an attach stands beside.
type rawSocket struct {
	fd  int
	buf []byte
}

func openRaw(ns string) (*rawSocket, error) {
	r := &rawSocket{fd: -1, buf: make([]byte, 64<<10)}
	err := in(ns, func() (err error) {
		r.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a raw netlink socket: %w", err)
	}
	if err := unix.Bind(r.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("open a raw netlink socket: %w", err), r.close())
	}
	return r, nil
}

func (r *rawSocket) close() error { return unix.Close(r.fd) }

// send sends messages in one go; only the last is acknowledged. An error of any of them comes first.
func (r *rawSocket) send(reqs ...*nl.NetlinkRequest) error {
	var out []byte
	for i, q := range reqs {
		q.Seq = uint32(i + 1)
		if i == len(reqs)-1 {
			q.Flags |= unix.NLM_F_ACK
		}
		out = append(out, q.Serialize()...)
	}
	if err := unix.Sendto(r.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("raw netlink: %w", err)
	}
	n, _, err := unix.Recvfrom(r.fd, r.buf, 0)
	if err != nil {
		return fmt.Errorf("raw netlink: %w", err)
	}
	if n < 20 {
		return errors.New("raw netlink: a short answer")
	}
	if code := int32(binary.NativeEndian.Uint32(r.buf[16:])); code != 0 {
		return fmt.Errorf("raw netlink: message %d: %w", binary.NativeEndian.Uint32(r.buf[8:]), unix.Errno(-code))
	}
	return nil
}

// rawPort is an attach by hand: sandbox is the namespace of the far end.
type rawPort struct {
	name    string
	index   int // of both ends
	master  int
	file    *os.File // the sandbox's namespace
	addr    netip.Prefix
	gateway netip.Addr
}

// hardware is the hardware address that goes with an address, as weft has it.
func hardware(a netip.Addr) []byte {
	b := a.As4()
	return append([]byte{0x02, 0x42}, b[:]...)
}

// pair is the one message that makes both ends, each in its place.
func (p rawPort) pair() *nl.NetlinkRequest {
	q := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index, m.Flags, m.Change = int32(p.index), unix.IFF_UP, unix.IFF_UP
	q.AddData(m)
	q.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.name)))
	q.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1450)))
	q.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(p.master))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	far := nl.NewIfInfomsg(unix.AF_UNSPEC)
	far.Index = int32(p.index)
	peer.AddChild(far)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0"))
	peer.AddRtAttr(unix.IFLA_ADDRESS, hardware(p.addr.Addr()))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1450))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(p.file.Fd())))
	q.AddData(info)
	return q
}

// configure is the batch in the sandbox: up, address, default route.
func (p rawPort) configure() []*nl.NetlinkRequest {
	up := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index, m.Flags, m.Change = int32(p.index), unix.IFF_UP, unix.IFF_UP
	up.AddData(m)
	a := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	am := nl.NewIfAddrmsg(unix.AF_INET)
	am.Index, am.Prefixlen = uint32(p.index), uint8(p.addr.Bits())
	a.AddData(am)
	a.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.addr.Addr().AsSlice()))
	r := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	rm := nl.NewRtMsg()
	rm.Family = unix.AF_INET
	r.AddData(rm)
	r.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, p.gateway.AsSlice()))
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(p.index))))
	return []*nl.NetlinkRequest{up, a, r}
}

// linkIndex returns the index of a link in a namespace.
func linkIndex(ns, name string) (index int, err error) {
	err = in(ns, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		index = l.Attrs().Index
		return nil
	})
	return index, err
}
