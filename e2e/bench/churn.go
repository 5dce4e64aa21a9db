package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

const leavers = 50

// measureChurn attaches sandboxes one after the other while 50 others of the same network are being detached, all at once, and when all is
// quiet.
func (b *bench) measureChurn(ctx context.Context) error {
	network, _, err := b.network(ctx, "")
	if err != nil {
		return err
	}
	crowd, err := b.boxesOn(ctx, b.hosts[0], b.n(leavers, 6))
	if err != nil {
		return err
	}
	comers, err := b.boxesOn(ctx, b.hosts[0], b.n(25, 3))
	if err != nil {
		return err
	}
	if err := comers[0].connect(ctx, network); err != nil { // stays: so that none is the network's first
		return err
	}
	var p pairs
	var all sample
	for range b.n(9, 1) {
		for _, x := range crowd {
			if err := x.connect(ctx, network); err != nil {
				return err
			}
		}
		quiet, err := attachAll(ctx, network, comers[1:])
		if err != nil {
			return err
		}
		left := detachAll(ctx, network, crowd)
		busy, err := attachAllNow(ctx, network, comers[1:])
		took, leaveErr := left()
		if err := errors.Join(err, leaveErr); err != nil {
			return err
		}
		all = append(all, took...)
		for i := range busy {
			p.add(busy[i], quiet[i])
		}
		if _, err := detachAll(ctx, network, comers[1:])(); err != nil {
			return err
		}
		if err := alone(ctx, slices.Concat(crowd, comers[1:])); err != nil {
			return err
		}
	}
	b.report.pair("attach while 50 others are detached", "ms", "the same attach when all is quiet", p, ratioAtMost(2))
	b.report.single("detach, as one of 50 at once", "ms", all)
	return remove(ctx, append(crowd, comers...)...)
}

// attachAll attaches sandboxes in the quiet, and detaches them again.
func attachAll(ctx context.Context, network string, boxes []*box) (sample, error) {
	if err := settle(ctx, quietTime); err != nil {
		return nil, err
	}
	s, err := attachAllNow(ctx, network, boxes)
	if err != nil {
		return nil, err
	}
	if _, err := detachAll(ctx, network, boxes)(); err != nil {
		return nil, err
	}
	return s, errors.Join(alone(ctx, boxes), settle(ctx, quietTime))
}

// alone waits until sandboxes have no interface but that of their host's own network: an agent answers before what it detached is deleted.
func alone(ctx context.Context, boxes []*box) error {
	for _, x := range boxes {
		err := until(ctx, func() error {
			return in(x.netns, func() error {
				links, err := netlink.LinkList()
				if err == nil && len(links) > 2 {
					err = fmt.Errorf("sandbox %s still has interface %s", x.name, links[2].Attrs().Name)
				}
				return err
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// quietTime is for what agents do after they have answered: deletes that they put off, and what other hosts make of them.
const quietTime = 300 * time.Millisecond

func attachAllNow(ctx context.Context, network string, boxes []*box) (s sample, err error) {
	for _, x := range boxes {
		took, err := timed(func() error { return x.connect(ctx, network) })
		if err != nil {
			return nil, err
		}
		s = append(s, took)
	}
	return s, nil
}

// detachAll begins to detach sandboxes, all at once. What it returns waits for the end of that.
func detachAll(ctx context.Context, network string, boxes []*box) (wait func() (sample, error)) {
	type result struct {
		took float64
		err  error
	}
	results := make(chan result, len(boxes))
	for _, x := range boxes {
		go func() {
			took, err := timed(func() error { return x.disconnect(ctx, network) })
			results <- result{took, err}
		}()
	}
	return func() (s sample, err error) {
		for range boxes {
			r := <-results
			s, err = append(s, r.took), errors.Join(err, r.err)
		}
		return s, err
	}
}
