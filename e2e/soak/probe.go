package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"weft/e2e/lab"
)

const (
	probeEvery = 10 * time.Millisecond
	probeWait  = 2 * time.Second // after that, a packet without an echo is lost: the machine itself may stand still for a moment
	echoPort   = 7
	nameEvery  = 250 * time.Millisecond
	nameWait   = 2 * time.Second
)

// excuses are the times in which something may be lost.
type excuses struct {
	mu    sync.Mutex // guards spans
	spans [][2]time.Time
}

// begin and end enclose a fault; what follows within its aftermath is excused too, so that end takes the time until which.
func (e *excuses) begin(at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spans = append(e.spans, [2]time.Time{at})
}

func (e *excuses) end(until time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.spans {
		if e.spans[i][1].IsZero() {
			e.spans[i][1] = until
		}
	}
}

func (e *excuses) cover(at time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.spans, func(s [2]time.Time) bool {
		return !at.Before(s[0]) && (s[1].IsZero() || !at.After(s[1]))
	})
}

// probe counts what becomes of what is sent along one way. It lives as long as the soak; what sends and receives ends with the sandboxes' power.
type probe struct {
	excuses
	name string
	stop func() // nil: nothing is sent

	mu      sync.Mutex // guards what follows
	count   tally
	pending []uint64 // sent, and not yet echoed, in order
	at      map[uint64]time.Time
	next    uint64
	last    time.Time // of the newest echo
	missing []string  // a few of the losses that should not be, for the report
}

func newProbe(name string) *probe { return &probe{name: name, at: map[uint64]time.Time{}} }

// lostOne counts a loss of something that was sent at a time. The caller holds mu.
func (p *probe) lostOne(at time.Time, why string) {
	if p.cover(at) {
		p.count.excused++
		return
	}
	p.count.lost++
	if len(p.missing) < 5 {
		p.missing = append(p.missing, at.Format("15:04:05.000")+" "+why)
	}
}

func (p *probe) tally() (tally, []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.count
	t.name = p.name
	return t, slices.Clone(p.missing)
}

// end stops what is sent, and waits until it is known of all of it what became of it.
func (p *probe) end() {
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
}

// echoes answers in a namespace with what it gets, until the returned function is called.
func echoes(ns string) (stop func(), err error) {
	var c net.PacketConn
	err = lab.Within(ns, func() (err error) {
		c, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", echoPort))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("answer in %s: %w", ns, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64)
		for {
			n, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteTo(buf[:n], from) // what cannot be sent is missed by the other side
			}
		}
	})
	return func() { _ = c.Close(); wg.Wait() }, nil
}

// toEcho is a socket in a namespace for an address that echoes.
func toEcho(ns string, to netip.Addr) (c net.Conn, err error) {
	err = lab.Within(ns, func() (err error) {
		c, err = net.Dial("udp4", netip.AddrPortFrom(to, echoPort).String())
		return err
	})
	return c, err
}

// echoed sends one datagram and waits a moment for its echo.
func echoed(ns string, to netip.Addr) error {
	c, err := toEcho(ns, to)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	var b [8]byte
	if err := c.SetDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return err
	}
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	_, err = c.Read(b[:])
	return err
}

// packets begins to send numbered datagrams from a namespace to an address, which echoes them.
func (p *probe) packets(ns string, to netip.Addr) error {
	c, err := toEcho(ns, to)
	if err != nil {
		return fmt.Errorf("send along %s: %w", p.name, err)
	}
	p.mu.Lock()
	p.last = time.Time{}
	p.mu.Unlock()
	quit := make(chan struct{})
	var sending, receiving sync.WaitGroup
	sending.Go(func() { p.send(c, quit) })
	receiving.Go(func() { p.receive(c) })
	p.stop = func() {
		close(quit)
		sending.Wait()
		for end := time.Now().Add(probeWait); p.outstanding() > 0 && time.Now().Before(end); time.Sleep(probeEvery) {
		}
		_ = c.Close()
		receiving.Wait()
		p.sweep(time.Now().Add(probeWait))
	}
	return nil
}

func (p *probe) send(c net.Conn, quit <-chan struct{}) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	var b [8]byte
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
		}
		p.sweep(time.Now())
		p.mu.Lock()
		p.next++
		n := p.next
		p.pending, p.at[n] = append(p.pending, n), time.Now()
		p.count.sent++
		p.mu.Unlock()
		binary.BigEndian.PutUint64(b[:], n)
		_, _ = c.Write(b[:]) // what could not be sent has no echo
	}
}

func (p *probe) receive(c net.Conn) {
	var b [64]byte
	for {
		n, err := c.Read(b[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue // an ICMP error about an earlier packet
		}
		p.echoed(binary.BigEndian.Uint64(b[:8]), time.Now())
	}
}

func (p *probe) echoed(n uint64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, waits := p.at[n]; !waits {
		return
	}
	delete(p.at, n)
	if !p.last.IsZero() {
		p.count.longest = max(p.count.longest, now.Sub(p.last))
	}
	p.last = now
}

func (p *probe) outstanding() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.at)
}

// sweep counts what has had no echo for too long.
func (p *probe) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.pending) > 0 {
		n := p.pending[0]
		at, waits := p.at[n]
		if waits && now.Sub(at) < probeWait {
			return
		}
		p.pending = p.pending[1:]
		if waits {
			delete(p.at, n)
			p.lostOne(at, fmt.Sprintf("packet %d", n))
		}
	}
}

// names begins to ask a namespace's resolver for a name, which is to have this address.
func (p *probe) names(ns, name string, want netip.Addr) error {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(nameEvery)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			at := time.Now()
			err := asked(ns, name, want)
			now := time.Now()
			p.mu.Lock()
			p.count.sent++
			if err != nil {
				p.lostOne(at, err.Error())
			}
			p.count.longest = max(p.count.longest, now.Sub(at))
			p.mu.Unlock()
		}
	})
	p.stop = func() { close(quit); wg.Wait() }
	return nil
}

// asked asks for a name, which is to have this address.
func asked(ns, name string, want netip.Addr) error {
	got, err := lookup(ns, name)
	if err == nil && !slices.Equal(got, []netip.Addr{want}) {
		err = fmt.Errorf("%s is %v, want %s", name, got, want)
	}
	return err
}

// lookup asks a sandbox's own resolver. It is not Go's that asks, which has ideas of its own.
func lookup(ns, name string) (out []netip.Addr, err error) {
	var c net.Conn
	err = lab.Within(ns, func() (err error) {
		c, err = net.DialTimeout("udp4", "127.0.0.11:53", nameWait)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(nameWait)); err != nil {
		return nil, err
	}
	conn := &dns.Conn{Conn: c}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)); err != nil {
		return nil, err
	}
	m, err := conn.ReadMsg()
	if err != nil {
		return nil, fmt.Errorf("no answer about %s: %w", name, err)
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A.To4())
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, nil
}
