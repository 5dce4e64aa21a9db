package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	weftv1 "weft/proto/weft/v1"
)

// fleet is a host with many sandboxes, in networks that many hosts have endpoints in.
type fleet struct {
	crowds  []crowd
	names   []string // of the networks
	boxes   []*box   // the i-th is in network i modulo how many there are
	remotes int      // endpoints of other hosts
	others  []*child // those hosts
}

// fleetSize is how many of each there are.
type fleetSize struct{ networks, hosts, local, remote int }

// makeFleet fills host a. Those hosts that are a session alone have nodes of their own, so that each has its address.
func (b *bench) makeFleet(ctx context.Context, n fleetSize) (f *fleet, err error) {
	f = &fleet{remotes: n.remote}
	for i := range n.networks {
		subnet := fmt.Sprintf("10.%d.0.0/16", 100+i)
		name, id, err := b.network(ctx, subnet)
		if err != nil {
			return f, err
		}
		f.names, f.crowds = append(f.names, name), append(f.crowds, crowd{id, subnet})
	}
	each := n.remote / n.networks / n.hosts
	for i := range n.hosts {
		node, err := b.lab.AddNode(b.name("neighbour"))
		if err != nil {
			return f, err
		}
		c, err := b.startChild(ctx, node, childSpec{Work: "neighbours", Host: i, Times: each, Crowds: f.crowds, VTEP: node.Addr.String()})
		if err != nil {
			return f, err
		}
		f.others = append(f.others, c)
	}
	b.say("  %d endpoints of %d hosts in %d networks", n.remote, n.hosts, n.networks)
	if f.boxes, err = b.crew(ctx, f.names, n.local); err != nil {
		return f, err
	}
	b.say("  %d sandboxes", n.local)
	return f, nil
}

// startsAtOnce is how many sandboxes are started at a time.
const startsAtOnce = 4

// crew starts sandboxes on host a, one after the other of them in one after the other of the networks.
func (b *bench) crew(ctx context.Context, networks []string, n int) ([]*box, error) {
	out := make([]*box, n)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(startsAtOnce)
	for i := range out {
		x := &box{host: b.hosts[0], name: b.name("near")}
		out[i] = x
		g.Go(func() error {
			if err := x.host.runBox(gctx, x.name, networks[i%len(networks)]); err != nil {
				return err
			}
			s, err := x.host.boxes.InspectSandbox(gctx, &weftv1.InspectSandboxRequest{Ref: x.name})
			if err != nil {
				return fmt.Errorf("look at sandbox %s: %w", x.name, err)
			}
			x.netns, x.pid = s.Sandbox.NetnsPath, int(s.Sandbox.Pid)
			return nil
		})
	}
	return out, g.Wait()
}

// end lets the other hosts go and removes the sandboxes.
func (f *fleet) end(ctx context.Context) error {
	var errs []error
	for _, c := range f.others {
		errs = append(errs, c.end())
	}
	var g errgroup.Group
	g.SetLimit(startsAtOnce)
	for _, x := range f.boxes {
		if x != nil && x.netns != "" {
			g.Go(func() error { return remove(ctx, x) })
		}
	}
	return errors.Join(append(errs, g.Wait())...)
}
