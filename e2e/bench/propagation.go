package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	answerPort = 4242
	askEvery   = 200 * time.Microsecond
	firstTry   = 200 * time.Millisecond // a connection that takes longer has lost its first packet
)

var resolverAddr = netip.MustParseAddrPort("127.0.0.11:53")

// measurePropagation attaches a sandbox on a, in which something listens already, while one on b asks for its name all the time: how long
// from the start of the attach until b has the answer, and until b has a connection to the address in it.
func (b *bench) measurePropagation(ctx context.Context) (err error) {
	floor, err := b.newFloorAttach(ctx, "propagation")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.close()) }()
	network, _, err := b.network(ctx, "")
	if err != nil {
		return err
	}
	asking, err := b.box(ctx, b.hosts[1])
	if err != nil {
		return err
	}
	boxes, err := b.boxesOn(ctx, b.hosts[0], b.n(26, 3))
	if err != nil {
		return err
	}
	if err := errors.Join(asking.connect(ctx, network), boxes[0].connect(ctx, network)); err != nil { // so that both hosts have the network
		return err
	}
	var names, both pairs
	first := 0
	for i, x := range boxes[1:] {
		seen, f, err := b.propagate(ctx, i, floor, network, asking, x)
		if err != nil {
			return err
		}
		names.add(ms(seen.name), f)
		both.add(ms(seen.conn), f)
		if seen.conn-seen.name < firstTry {
			first++
		}
	}
	const peer = "raw attach and transaction, until a watch on b tells it"
	b.report.pair("attach on a → name resolves on b", "ms", peer, names)
	b.report.pair("attach on a → name and TCP on b", "ms", peer, both, atMost(10, "ms"))
	n := float64(len(boxes) - 1)
	b.report.single("address in the first answer takes TCP", "%", sample{100 * float64(first) / n}, atLeast(100, "%"))
	return remove(ctx, append(boxes, asking)...)
}

// sighting says when b saw what, since the attach began.
type sighting struct{ name, conn time.Duration }

func (b *bench) propagate(ctx context.Context, i int, floor *floorAttach, network string, asking, x *box) (s sighting, f float64, err error) {
	ln, err := listenIn(x.netns, netip.AddrPortFrom(netip.IPv4Unspecified(), answerPort))
	if err != nil {
		return s, 0, err
	}
	defer func() { err = errors.Join(err, unix.Close(ln)) }()
	weft := func() error {
		ready := make(chan struct{})
		var at time.Time // written before ready is used for the second time
		begun := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- in(asking.netns, func() error { return s.await(ctx, x.name, ready, begun, &at) })
		}()
		select {
		case <-ready:
		case err := <-done:
			return err
		}
		at = time.Now()
		close(begun)
		err := x.connect(ctx, network)
		return errors.Join(err, <-done)
	}
	raw := func() (err error) {
		f, err = b.rawPropagation(ctx, floor)
		return err
	}
	steps := []func() error{weft, raw}
	for j := range steps {
		if err := steps[(i+j)%2](); err != nil {
			return s, 0, err
		}
	}
	return s, f, nil
}

// await asks for a name until it is answered, and connects to the answer. It runs on a thread in the asking sandbox. ready is closed when
// the first question is out; begun is closed when at has been set.
func (s *sighting) await(ctx context.Context, name string, ready, begun chan struct{}, at *time.Time) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Connect(fd, sockaddr(resolverAddr)); err != nil {
		return fmt.Errorf("ask for %s: %w", name, err)
	}
	question, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	asked := false
	for id := uint16(1); ; id++ {
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not resolve on the other host: %w", name, context.Cause(ctx))
		}
		binary.BigEndian.PutUint16(question, id)
		if _, err := unix.Write(fd, question); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("ask for %s: %w", name, err)
		}
		if !asked {
			asked = true
			close(ready)
		}
		addr, err := answerWithin(fd, buf, askEvery)
		if err != nil {
			return fmt.Errorf("ask for %s: %w", name, err)
		}
		if !addr.IsValid() {
			continue
		}
		seen := time.Now()
		c, err := connectHere(netip.AddrPortFrom(addr, answerPort), 5*time.Second)
		if err != nil {
			return fmt.Errorf("connect to %s at %s, as b was told: %w", name, addr, err)
		}
		done := time.Now()
		<-begun
		s.name, s.conn = seen.Sub(*at), done.Sub(*at)
		return unix.Close(c)
	}
}

// answerWithin reads answers for a while; the zero Addr means that none had an address in it.
func answerWithin(fd int, buf []byte, wait time.Duration) (netip.Addr, error) {
	for end := time.Now().Add(wait); ; {
		n, err := unix.Read(fd, buf)
		if err == nil {
			if a := addressIn(buf[:n]); a.IsValid() {
				return a, nil
			}
			continue
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNREFUSED) {
			return netip.Addr{}, err
		}
		left := time.Until(end)
		if left <= 0 {
			return netip.Addr{}, nil
		}
		ts := unix.NsecToTimespec(int64(left))
		if _, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, &ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return netip.Addr{}, err
		}
	}
}

// addressIn returns the first address of a good answer.
func addressIn(packet []byte) netip.Addr {
	if len(packet) < 12 || packet[3]&0xf != dns.RcodeSuccess || binary.BigEndian.Uint16(packet[6:]) == 0 {
		return netip.Addr{}
	}
	var m dns.Msg
	if m.Unpack(packet) != nil {
		return netip.Addr{}
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A.To4())
			return addr
		}
	}
	return netip.Addr{}
}

// rawPropagation attaches by hand and waits until a client on b is told of the transaction.
func (b *bench) rawPropagation(ctx context.Context, floor *floorAttach) (_ float64, err error) {
	cli, err := b.client(b.hosts[1].Node)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cli.close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	key := b.name("key")
	told, err := cli.watch(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("watch on host b: %w", err)
	}
	attach, done, err := floor.prepare(ctx, key)
	if err != nil {
		return 0, err
	}
	took, err := timed(func() error {
		if err := attach(); err != nil {
			return err
		}
		select {
		case <-told:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("watch on host b: %w", context.Cause(ctx))
		}
	})
	return took, errors.Join(err, done())
}
