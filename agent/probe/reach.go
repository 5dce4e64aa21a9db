package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"weft/kernel"
)

// Through is how the kernel of another host can be asked in a network that has IPv4: its bridge there has the gateway's address, as each host's has, and its
// answer comes to an endpoint of this host. That one's sandbox gets an answer to what it has not asked, and drops it.
type Through struct {
	Way     Way
	MAC     string     // of the other host's end of the tunnel
	From    netip.Addr // of an endpoint here
	Gateway netip.Addr
}

// Reaches asks another host's kernel through the tunnel, whether or not there is an agent: it is an ICMP echo to the gateway's address at the other host.
func (p *Prober) Reaches(ctx context.Context, t Through, wait time.Duration) error {
	to, err := net.ParseMAC(t.MAC)
	if err != nil {
		return fmt.Errorf("the tunnel's end at the other host: %w", err)
	}
	from, err := net.ParseMAC(t.Way.MAC)
	if err != nil {
		return fmt.Errorf("the tunnel's end here: %w", err)
	}
	n := newNonce()
	var s *packetSocket
	err = kernel.Within(t.Way.Netns, func() (err error) {
		s, err = dialPacket(t.Way, t.Way.Tunnel, 0)
		if err != nil {
			return err
		}
		return s.hearEchoes(t.Way.Tunnel, binary.BigEndian.Uint16(n[:]))
	})
	if err != nil {
		if s != nil {
			s.close()
		}
		return fmt.Errorf("open a socket for probes in %s: %w", t.Way.Netns, err)
	}
	heard := make(chan struct{}, 1)
	s.done.Go(func() {
		s.read(func(frame []byte) {
			if isReply(frame, n) {
				signal(heard)
			}
		})
	})
	defer s.close()
	if err := s.send(echoFrame(from, to, t.From, t.Gateway, n)); err != nil {
		return errors.Join(ErrSilent, err)
	}
	select {
	case <-heard:
		return nil
	case <-p.Clock.After(wait):
		return ErrSilent
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hearEchoes makes the socket hear ICMP echo replies with an identifier on a link, before its bridge takes them, and nothing else.
func (s *packetSocket) hearEchoes(link string, ident uint16) error {
	in, err := net.InterfaceByName(link)
	if err != nil {
		return fmt.Errorf("interface %s: %w", link, err)
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 7},
		bpf.LoadAbsolute{Off: ethSize + 9, Size: 1}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: ethSize + ipSize, Size: 1}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 3},
		bpf.LoadAbsolute{Off: ethSize + ipSize + 4, Size: 2}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(ident), SkipTrue: 1},
		bpf.RetConstant{Val: frameSize}, bpf.RetConstant{Val: 0},
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return errors.Join(
		unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: in.Index}),
	)
}

const icmpSize = 8

// echoFrame asks the other host's bridge.
func echoFrame(from, to net.HardwareAddr, src, dst netip.Addr, n nonce) []byte {
	b := make([]byte, ethSize+ipSize+icmpSize+len(n))
	copy(b, to)
	copy(b[6:], from)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[ethSize:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_ICMP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip[:ipSize]))
	icmp := ip[ipSize:]
	icmp[0] = 8
	copy(icmp[4:], n[:2])
	copy(icmp[icmpSize:], n[:])
	binary.BigEndian.PutUint16(icmp[2:], ^sum(icmp))
	return b
}

// isReply tells whether a frame is the answer to the echo with that content.
func isReply(frame []byte, n nonce) bool {
	at := ethSize + ipSize + icmpSize
	return len(frame) >= at+len(n) && nonce(frame[at:at+len(n)]) == n
}
