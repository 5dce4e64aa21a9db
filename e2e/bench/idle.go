package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// idleNetworks are what the agents watch meanwhile, beside the networks' list and the hosts.
const idleNetworks = 5

// measureIdle counts what agents that have nothing to do ask of the store: the segments with data that the store's server received. A request
// has one or more, a sign of life of the connection has one, too; so it is an upper bound of the requests.
func (b *bench) measureIdle(ctx context.Context) error {
	var boxes []*box
	for _, h := range b.hosts {
		x, err := b.box(ctx, h)
		if err != nil {
			return err
		}
		boxes = append(boxes, x)
	}
	for range idleNetworks - 1 { // and the sandbox's own
		name, _, err := b.network(ctx, "")
		if err != nil {
			return err
		}
		for _, x := range boxes {
			if err := x.connect(ctx, name); err != nil {
				return err
			}
		}
	}
	if err := settle(ctx, 3*time.Second); err != nil {
		return err
	}
	window := time.Duration(b.n(20, 4)) * time.Second
	var s sample
	for range b.n(3, 1) {
		before, err := b.received()
		if err != nil {
			return err
		}
		if err := settle(ctx, window); err != nil {
			return err
		}
		after, err := b.received()
		if err != nil {
			return err
		}
		n := 0
		for conn, segments := range after {
			n += int(segments - before[conn])
		}
		s = append(s, float64(n)/window.Seconds()/float64(len(b.hosts)))
	}
	name := fmt.Sprintf("requests of an idle agent, %d networks", idleNetworks)
	b.report.single(name, "/s", s, atMost(1+0.1*idleNetworks, "/s"))
	return remove(ctx, boxes...)
}

// received are the segments with data that the store's server has received, by the client's address.
func (b *bench) received() (map[string]uint32, error) {
	out := map[string]uint32{}
	err := b.store.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} { // a server may listen on both with one socket
			conns, err := netlink.SocketDiagTCPInfo(family)
			if err != nil {
				return err
			}
			for _, c := range conns {
				if c.InetDiagMsg != nil && c.TCPInfo != nil && c.InetDiagMsg.ID.SourcePort == ports[b.kind] && c.InetDiagMsg.ID.DestinationPort != 0 {
					out[fmt.Sprint(c.InetDiagMsg.ID.Destination, ":", c.InetDiagMsg.ID.DestinationPort)] = c.TCPInfo.Data_segs_in
				}
			}
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = errors.New("the store's server has no connections")
	}
	return out, err
}
