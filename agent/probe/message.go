// Package probe asks, through the very tunnel of a network, whether another host is at its other end: whether small packets pass, how large ones may be, and
// whether their checksums are right when they arrive. Probes are Ethernet frames of a type of their own between the hosts' ends of the tunnel.
//
//	prober ── vx0 ═══ UDP ═══ vx0 ── br0 ── the other agent's socket, which answers the same way
//
// The frames go to the hardware address of the tunnel's end and not to a sandbox's: a bridge gives them to its host, so that no sandbox sees them, and has
// no entry that leads there, nor a rule that lets that type pass a port, so that none can send them. A socket for a type of its own costs other
// packets nothing.
package probe

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
)

// EtherType is the first of those that IEEE 802 keeps for local experiments (RFC 9542).
const EtherType = 0x88b5

// kind is what a message is.
type kind uint8

const (
	echo    kind = iota + 1 // answer me
	answer                  // to an echo
	listen                  // be ready to look at checksums for a moment; answered with ready
	ready                   // to listen
	checked                 // how a packet's checksum was, which came without being asked by a message
)

// What a checksum was like.
const (
	sumGood  = 1
	sumWrong = 2
)

// id stands for a host: a hash of its name, since messages have a fixed form.
type id [16]byte

func idOf(host string) id {
	sum := sha256.Sum256([]byte(host))
	return id(sum[:16])
}

// nonce makes an answer one to a certain message: nobody guesses it.
type nonce [16]byte

// message is what a frame carries, in network byte order:
//
//	0 magic  4 version  5 kind  6 flags  7 result  8 VNI  12 size  14 –  16 nonce  32 from  48 to  64 CRC-32 of the rest  68 filling
//
// Size is that of the frame's content as it was sent; a frame that is shorter was cut. An answer has the size of what it answers, where that
// was asked for, and never more.
type message struct {
	kind   kind
	full   bool // the answer is to be as large
	result uint8
	vni    uint32
	size   int // at least headSize
	nonce  nonce
	from   id
	to     id
}

const (
	headSize  = 68
	ethSize   = 14
	version   = 1
	flagFull  = 1
	frameSize = 65536 // the largest that is read
)

var magic = [4]byte{'w', 'e', 'f', 't'}

// frame returns a message as an Ethernet frame.
func (m message) frame(from, to net.HardwareAddr) []byte {
	b := make([]byte, ethSize, ethSize+m.size)
	copy(b, to)
	copy(b[6:], from)
	binary.BigEndian.PutUint16(b[12:], EtherType)
	filling := bytes.Repeat(m.nonce[:], (max(0, m.size-headSize)+len(m.nonce)-1)/len(m.nonce))[:max(0, m.size-headSize)]
	var flags byte
	if m.full {
		flags = flagFull
	}
	b = append(b, magic[:]...)
	b = append(b, version, byte(m.kind), flags, m.result)
	b = binary.BigEndian.AppendUint32(b, m.vni)
	b = binary.BigEndian.AppendUint16(b, uint16(m.size))
	b = append(b, 0, 0)
	b = append(b, m.nonce[:]...)
	b = append(b, m.from[:]...)
	b = append(b, m.to[:]...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(filling))
	return append(b, filling...)
}

// errNoMessage is what is no message of ours, or was damaged on its way.
var errNoMessage = errors.New("no probe")

// parse reads a frame. What Ethernet has added at its end is left out.
func parse(b []byte) (m message, from net.HardwareAddr, err error) {
	if len(b) < ethSize+headSize || binary.BigEndian.Uint16(b[12:]) != EtherType {
		return message{}, nil, errNoMessage
	}
	from, p := net.HardwareAddr(bytes.Clone(b[6:12])), b[ethSize:]
	size := int(binary.BigEndian.Uint16(p[12:]))
	switch {
	case [4]byte(p) != magic:
		return message{}, nil, errNoMessage
	case p[4] != version:
		return message{}, nil, fmt.Errorf("%w: version %d", errNoMessage, p[4])
	case size < headSize || size > len(p):
		return message{}, nil, fmt.Errorf("%w: %d bytes of %d", errNoMessage, len(p), size)
	case crc32.ChecksumIEEE(p[headSize:size]) != binary.BigEndian.Uint32(p[64:]):
		return message{}, nil, fmt.Errorf("%w: its content was damaged", errNoMessage)
	}
	return message{
		kind: kind(p[5]), full: p[6]&flagFull != 0, result: p[7], vni: binary.BigEndian.Uint32(p[8:]), size: size,
		nonce: nonce(p[16:32]), from: id(p[32:48]), to: id(p[48:64]),
	}, from, nil
}
