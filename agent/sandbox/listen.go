package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Forward is one published port: what reaches Host on this machine goes to Target. The supervisor holds a socket at Host, so that nobody
// else can have the port, and passes on what comes to it; that is little, because the kernel's rules take all but what the host sends to
// its own loopback, and what is for another family than the target's.
type Forward struct {
	Proto  string         `json:"proto"` // tcp or udp
	Host   netip.AddrPort `json:"host"`
	Target netip.AddrPort `json:"target,omitzero"` // zero: the sandbox cannot be reached now
}

// BindError says which port could not be had, and why, in the words of net.
type BindError struct {
	Index  int    `json:"index"` // of the Forward that was asked for
	Busy   bool   `json:"busy,omitempty"`
	Reason string `json:"reason"` // listen tcp4 0.0.0.0:80: bind: address already in use
}

func (e *BindError) Error() string { return e.Reason }

// Bounds of a supervisor's proxy.
const (
	maxConns    = 1024             // TCP connections of all ports together; more wait in the kernel
	maxSessions = 1024             // UDP clients of one port; more replace those that were silent the longest
	dialTime    = 10 * time.Second // to reach the target
	udpIdle     = 90 * time.Second // docker's
	halfIdle    = 10 * time.Minute // of a TCP connection that one side has ended, while the other says nothing
	acceptPause = 50 * time.Millisecond
)

// portSet are the published ports of a sandbox, open as long as they are wanted. The sockets are made by threads in the host's network.
type portSet struct {
	bounds bounds
	conns  chan struct{} // a slot for each TCP connection

	mu     sync.Mutex // makes changes follow each other; nothing that waits is done with it
	open   map[portName]openPort
	closed bool
}

// bounds are the constants above, for tests to shorten.
type bounds struct {
	conns, sessions          int
	dial, udpIdle, halfClose time.Duration
}

type portName struct {
	proto string
	host  netip.AddrPort
}

func (f Forward) name() portName { return portName{f.Proto, f.Host} }

// openPort is a socket with what comes by it.
type openPort interface {
	aim(target netip.AddrPort) // new connections go there
	stop()                     // ends everything and waits for it
}

func newPortSet(b bounds) *portSet {
	return &portSet{bounds: b, conns: make(chan struct{}, b.conns), open: map[portName]openPort{}}
}

func usualBounds() bounds {
	return bounds{conns: maxConns, sessions: maxSessions, dial: dialTime, udpIdle: udpIdle, halfClose: halfIdle}
}

// set makes the open ports those that are wanted. After an error, a *BindError where a port cannot be had, they are as before.
func (s *portSet) set(want []Forward) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrNotRunning
	}
	wanted := make(map[portName]bool, len(want))
	fresh := map[portNumber]bool{}
	for _, f := range want {
		wanted[f.name()] = true
		if s.open[f.name()] == nil {
			fresh[f.name().number()] = true
		}
	}
	var given []portName // up, for others of the same number
	for n, p := range s.open {
		if !wanted[n] && fresh[n.number()] {
			p.stop()
			delete(s.open, n)
			given = append(given, n)
		}
	}
	if err := s.add(want); err != nil {
		for _, n := range given { // nobody else was told of them
			if p, err := s.listen(n); err == nil {
				s.open[n] = p
			}
		}
		return err
	}
	for n, p := range s.open {
		if !wanted[n] {
			p.stop()
			delete(s.open, n)
		}
	}
	for _, f := range want {
		s.open[f.name()].aim(f.Target)
	}
	return nil
}

// portNumber is what two ports of different addresses may fight for.
type portNumber struct {
	proto string
	port  uint16
}

func (n portName) number() portNumber { return portNumber{n.proto, n.host.Port()} }

// add opens the ports that are not open, all of them or none.
func (s *portSet) add(want []Forward) error {
	var made []portName
	for i, f := range want {
		if s.open[f.name()] != nil {
			continue
		}
		p, err := s.listen(f.name())
		if err != nil {
			for _, n := range made {
				s.open[n].stop()
				delete(s.open, n)
			}
			return &BindError{Index: i, Busy: errors.Is(err, unix.EADDRINUSE), Reason: err.Error()}
		}
		s.open[f.name()] = p
		made = append(made, f.name())
	}
	return nil
}

func (s *portSet) listen(n portName) (openPort, error) {
	family := "6"
	if n.host.Addr().Is4() {
		family = "4"
	}
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	switch n.proto {
	case "tcp":
		l, err := c.Listen(context.Background(), "tcp"+family, n.host.String())
		if err != nil {
			return nil, err
		}
		return newTCPPort(l.(*net.TCPListener), s.conns, s.bounds), nil
	case "udp":
		l, err := net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(n.host))
		if err != nil {
			return nil, err
		}
		return newUDPPort(l, n.host.Addr().Is4(), s.bounds)
	}
	return nil, fmt.Errorf("listen %s %s: unknown protocol", n.proto, n.host)
}

// close gives all ports back, for good.
func (s *portSet) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for n, p := range s.open {
		p.stop()
		delete(s.open, n)
	}
}
