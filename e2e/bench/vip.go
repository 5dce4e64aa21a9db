package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	weftv1 "weft/proto/weft/v1"
)

const vipAlias = "balanced"

// measureVIP compares connections to an alias with a virtual address with those to the address of its one member, from a sandbox beside it that is in
// no network with such an alias: so what is counted is the translation and all that comes with it.
func (b *bench) measureVIP(ctx context.Context) error {
	direct, boxes, err := b.weftWay(ctx)
	if err != nil {
		return err
	}
	to := boxes[1]
	network, _, err := b.network(ctx, "")
	if err != nil {
		return err
	}
	client, err := b.box(ctx, b.hosts[0])
	if err != nil {
		return err
	}
	boxes = append(boxes, client)
	if err := client.connect(ctx, network); err != nil {
		return err
	}
	_, err = to.host.nets.Connect(ctx, &weftv1.ConnectRequest{Target: to.name, Attachment: &weftv1.Attachment{
		Network: network, Aliases: []string{vipAlias}, VipAliases: []string{vipAlias},
	}})
	if err != nil {
		return fmt.Errorf("connect %s with an alias: %w", to.name, err)
	}
	balanced := way{name: "weft, through an alias", from: client.netns, to: to.netns}
	err = until(ctx, func() error {
		if balanced.addr, err = virtualAddr(ctx, client.host, network); err != nil {
			return err
		}
		_, err := balanced.connects(1)
		return err
	})
	if err != nil {
		return err
	}
	var rates pairs
	for i := range b.n(61, 2) {
		var got [2]float64
		for j := range got {
			k := (i + j) % 2
			if got[k], err = []way{balanced, direct}[k].connects(b.n(200, 20)); err != nil {
				return err
			}
		}
		rates.add(got[0], got[1])
	}
	b.report.pair("connections to an alias with a virtual address", "/s", "connections to its member's own address, from where no alias has one", rates, ratioAtLeast(0.9))
	return remove(ctx, boxes...)
}

// virtualAddr is the virtual address in a network.
func virtualAddr(ctx context.Context, h *host, network string) (netip.Addr, error) {
	r, err := h.nets.InspectNetwork(ctx, &weftv1.InspectNetworkRequest{Ref: network})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look at network %s: %w", network, err)
	}
	for _, v := range r.VirtualAddresses {
		if v.Alias == vipAlias && len(v.Addresses) > 0 {
			return netip.ParseAddr(v.Addresses[0])
		}
	}
	return netip.Addr{}, errors.New("the alias has no virtual address yet")
}

// connects opens connections along the way one after the other, each of which the other end closes, and returns how many go in a second.
func (w way) connects(n int) (rate float64, err error) {
	ln, err := listenIn(w.to, netip.AddrPortFrom(netip.IPv4Unspecified(), flowPort))
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(ln) }()
	server := onThread(func() error {
		for range n {
			fd, err := exchange(ln, nil, func(ln int, _ []byte) (int, error) {
				fd, _, err := unix.Accept4(ln, unix.SOCK_CLOEXEC)
				return fd, err
			})
			if err != nil {
				return fmt.Errorf("accept along %s: %w", w.name, err)
			}
			_ = unix.Close(fd)
		}
		return nil
	})
	err = in(w.from, func() error {
		began := time.Now()
		for range n {
			fd, err := connectHere(netip.AddrPortFrom(w.addr, flowPort), 5*time.Second)
			if err != nil {
				return fmt.Errorf("connect along %s: %w", w.name, err)
			}
			var b [1]byte
			_, _ = exchange(fd, b[:], unix.Read) // until the other end has closed: this one does not keep the port then
			_ = unix.Close(fd)
		}
		rate = float64(n) / time.Since(began).Seconds()
		return nil
	})
	return rate, errors.Join(err, <-server)
}
