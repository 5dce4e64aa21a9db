package dnssvc

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize  = 32
	packetSize = 1280 // of a question, and of an answer that needs no memory of its own
)

// mmsghdr is the kernel's struct mmsghdr (recvmmsg(2)).
type mmsghdr struct {
	unix.Msghdr
	n uint32
}

// batch reads and answers many packets with two system calls, and without an allocation. golang.org/x/net/ipv4 has the same calls, but
// makes an address for every packet. It belongs to one goroutine.
type batch struct {
	raw     syscall.RawConn
	packets [batchSize][packetSize]byte
	names   [batchSize]unix.RawSockaddrInet4
	iovs    [batchSize]unix.Iovec
	in      [batchSize]mmsghdr

	outIovs [batchSize]unix.Iovec
	out     [batchSize]mmsghdr
	sent, n int // of out

	got       int
	err       syscall.Errno
	readable  func(fd uintptr) bool // made once: a closure for each call would be an allocation
	writeable func(fd uintptr) bool
}

func newBatch(raw syscall.RawConn) *batch {
	b := &batch{raw: raw}
	b.readable, b.writeable = b.recv, b.send
	for i := range b.in {
		b.iovs[i].Base = &b.packets[i][0]
		b.iovs[i].SetLen(packetSize)
		h := &b.in[i]
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
	}
	return b
}

// read waits for packets and returns how many came.
func (b *batch) read() (int, error) {
	for i := range b.in {
		b.in[i].Namelen = unix.SizeofSockaddrInet4
	}
	b.n = 0
	if err := b.raw.Read(b.readable); err != nil {
		return 0, err
	}
	if b.err != 0 {
		return 0, b.err
	}
	return b.got, nil
}

func (b *batch) recv(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		b.got, b.err = int(n), errno
		return true
	}
}

// packet returns a packet that came, with room to answer in; whole is false where it was longer than the room.
func (b *batch) packet(i int) (p []byte, whole bool) {
	return b.packets[i][:b.in[i].n], b.in[i].Flags&unix.MSG_TRUNC == 0
}

// from is where a packet came from.
func (b *batch) from(i int) netip.AddrPort {
	n := &b.names[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&n.Port))[:])
	return netip.AddrPortFrom(netip.AddrFrom4(n.Addr), port)
}

// reply notes the answer to a packet; it is sent by write.
func (b *batch) reply(i int, answer []byte) {
	iov, h := &b.outIovs[b.n], &b.out[b.n]
	iov.Base = &answer[0]
	iov.SetLen(len(answer))
	h.Name, h.Namelen = b.in[i].Name, b.in[i].Namelen
	h.Iov = iov
	h.SetIovlen(1)
	b.n++
}

// write sends the answers. One that cannot be sent is lost, as any packet may be; the others go.
func (b *batch) write() error {
	for b.sent = 0; b.sent < b.n; {
		if err := b.raw.Write(b.writeable); err != nil {
			return err
		}
		if b.err != 0 {
			b.sent++
		}
	}
	for i := range b.n {
		b.outIovs[i].Base = nil // what did not fit into a packet is not kept
	}
	return nil
}

func (b *batch) send(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[b.sent])), uintptr(b.n-b.sent), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		case 0:
			b.sent += int(n)
		}
		b.err = errno
		return true
	}
}
