package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/kernel"
)

// A packet for the check of checksums is IPv4 and UDP, since that is what network cards know to compute checksums of. It goes from 127.0.0.1 to 127.0.0.1:
// every host's IP drops what comes from outside with such addresses, so that the packet ends where it was looked at.
const (
	ipSize     = 20
	udpSize    = 8
	sumSize    = 8 + 16 + 16 // magic, nonce, from
	listenTime = 2 * time.Second
	sumWait    = time.Second
	vnetSize   = 10 // struct virtio_net_hdr of linux/virtio_net.h
	vnetNeeds  = 1  // VIRTIO_NET_HDR_F_NEEDS_CSUM
	auxSize    = 20 // struct tpacket_auxdata of linux/if_packet.h
)

var sumMagic = []byte("weftsums")

// Checksums is how packets arrive whose checksum the sender's hardware may have computed.
type Checksums struct {
	Sent, Good, Wrong int // what is neither good nor wrong did not arrive
}

// Checksums sends packets to a host, whose checksums are left to the kernel and the network card, as sandboxes' are, and lets that host check them. Two hosts
// between which no hardware computes any find all of them good.
func (p *Prober) Checksums(ctx context.Context, host string) (Checksums, error) {
	if _, err := p.exchange(ctx, host, message{kind: listen}, patience); err != nil {
		return Checksums{}, err
	}
	p.mu.Lock()
	pair := p.pairs[host]
	p.mu.Unlock()
	to, err := net.ParseMAC(pair.MAC)
	if err != nil {
		return Checksums{}, fmt.Errorf("the tunnel's end at the other host: %w", err)
	}
	from, err := net.ParseMAC(pair.Way.MAC)
	if err != nil {
		return Checksums{}, fmt.Errorf("the tunnel's end here: %w", err)
	}
	n := newNonce()
	sizes := []int{sumSize, sumSize + 1, 512, max(sumSize, pair.Way.MTU-ipSize-udpSize)}
	got, done := p.await(host, n, len(sizes))
	defer done()
	var frames [][]byte
	for _, size := range sizes {
		frames = append(frames, sumFrame(from, to, n, idOf(p.Self), size))
	}
	if err := sendUnsummed(pair.Way, frames); err != nil {
		return Checksums{}, err
	}
	out := Checksums{Sent: len(sizes)}
	end := p.Clock.After(sumWait)
	for out.Good+out.Wrong < out.Sent {
		select {
		case m := <-got:
			if m.result == sumWrong {
				out.Wrong++
			} else {
				out.Good++
			}
		case <-end:
			return out, nil
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
	return out, nil
}

// sumFrame is a packet with a payload of some size. In the place of the checksum it has the sum of the pseudo header: the rest is left to who sends it.
func sumFrame(from, to net.HardwareAddr, n nonce, by id, size int) []byte {
	b := make([]byte, ethSize+ipSize+udpSize+size)
	copy(b, to)
	copy(b[6:], from)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[ethSize:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(ipSize+udpSize+size))
	copy(ip[12:], []byte{127, 0, 0, 1, 127, 0, 0, 1})
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip[:ipSize]))
	udp := ip[ipSize:]
	binary.BigEndian.PutUint16(udp[0:], 9) // discard (RFC 863)
	binary.BigEndian.PutUint16(udp[2:], 9)
	binary.BigEndian.PutUint16(udp[4:], uint16(udpSize+size))
	binary.BigEndian.PutUint16(udp[6:], sum(pseudo(ip)))
	p := udp[udpSize:]
	copy(p, sumMagic)
	copy(p[8:], n[:])
	copy(p[24:], by[:])
	for i := sumSize; i < size; i++ {
		p[i] = byte(i * 31)
	}
	return b
}

// pseudo is what a UDP checksum has of the packet's header (RFC 768).
func pseudo(ip []byte) []byte {
	b := append([]byte(nil), ip[12:20]...)
	b = append(b, 0, unix.IPPROTO_UDP)
	return binary.BigEndian.AppendUint16(b, binary.BigEndian.Uint16(ip[2:])-ipSize)
}

// sum is the Internet's checksum (RFC 1071), not inverted.
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for len(b) > 1 {
			s += uint32(binary.BigEndian.Uint16(b))
			b = b[2:]
		}
		if len(b) == 1 {
			s += uint32(b[0]) << 8
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// sendUnsummed sends packets as a sandbox's network stack does: their checksums are computed as late as possible.
func sendUnsummed(w Way, frames [][]byte) error {
	return kernel.Within(w.Netns, func() error {
		s, err := dialPacket(w, w.Tunnel, 0)
		if err != nil {
			return err
		}
		defer s.close()
		if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return fmt.Errorf("leave checksums to the kernel: %w", err)
		}
		var errs []error
		for _, f := range frames {
			head := make([]byte, vnetSize, vnetSize+len(f))
			head[0] = vnetNeeds
			binary.NativeEndian.PutUint16(head[6:], ethSize+ipSize)
			binary.NativeEndian.PutUint16(head[8:], 6)
			errs = append(errs, s.send(append(head, f...)))
		}
		return errors.Join(errs...)
	})
}

// sums listens for packets of the check, for a moment after it was asked to.
type sums struct {
	mu     sync.Mutex // guards what follows
	socket *packetSocket
	timer  chan struct{} // closed to end the listening
	done   sync.WaitGroup
}

// listen opens the ear's second socket where it is not open, and returns what ready says: 0 if it is.
func (e *ear) listen(p *Prober) uint8 {
	e.sums.mu.Lock()
	defer e.sums.mu.Unlock()
	if e.sums.socket != nil { // somebody else's check is under way: it has its moment, and this one repeats
		return 0
	}
	var s *packetSocket
	err := kernel.Within(e.way.Netns, func() (err error) {
		s, err = dialPacket(e.way, e.way.Bridge, unix.ETH_P_IP)
		if err != nil {
			return err
		}
		return unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
	})
	if err != nil {
		return 1
	}
	e.sums.socket, e.sums.timer = s, make(chan struct{})
	e.sums.done.Go(func() { s.readSums(func(frame []byte, unfinished bool) { e.check(p, frame, unfinished) }) })
	stop := e.sums.timer
	e.sums.done.Go(func() {
		select {
		case <-stop:
		case <-p.Clock.After(listenTime):
		}
		_ = s.file.Close()
		e.sums.mu.Lock()
		e.sums.socket = nil
		e.sums.mu.Unlock()
	})
	return 0
}

// close ends the listening and waits for its end.
func (s *sums) close() {
	s.mu.Lock()
	if s.socket != nil {
		close(s.timer)
	}
	s.mu.Unlock()
	s.done.Wait()
}

// check looks at a packet, and tells its sender how its checksum is.
func (e *ear) check(p *Prober, frame []byte, unfinished bool) {
	n, by, good, ok := checkSum(frame, unfinished)
	if !ok {
		return
	}
	result := uint8(sumGood)
	if !good {
		result = sumWrong
	}
	e.answer(message{kind: checked, vni: e.way.VNI, nonce: n, from: idOf(p.Self), to: by, size: headSize, result: result}, net.HardwareAddr(bytes.Clone(frame[6:12])))
}

// checkSum reads a packet of the check; ok is false for any other. Unfinished is one whose checksum no sender has had to compute yet.
func checkSum(frame []byte, unfinished bool) (n nonce, by id, good, ok bool) {
	if len(frame) < ethSize+ipSize+udpSize+sumSize || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return
	}
	ip := frame[ethSize:]
	size := int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0] != 0x45 || ip[9] != unix.IPPROTO_UDP || size < ipSize+udpSize+sumSize || size > len(ip) {
		return
	}
	p := ip[ipSize+udpSize:]
	if !bytes.Equal(p[:8], sumMagic) {
		return
	}
	return nonce(p[8:24]), id(p[24:40]), unfinished || sum(pseudo(ip), ip[ipSize:size]) == 0xffff, true
}

// readSums hands over frames, and whether their checksum is still to be computed, until the socket is closed.
func (s *packetSocket) readSums(receive func([]byte, bool)) {
	b, oob := make([]byte, frameSize), make([]byte, unix.CmsgSpace(auxSize))
	for {
		var n, oobn int
		var err error
		if rerr := s.raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), b, oob, 0)
			return !errors.Is(err, unix.EAGAIN)
		}); rerr != nil {
			return
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return
		default:
			receive(b[:n], notReady(oob[:oobn]))
		}
	}
}

// notReady reads the kernel's word on a frame's checksum.
func notReady(oob []byte) bool {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_CSUMNOTREADY != 0
		}
	}
	return false
}
