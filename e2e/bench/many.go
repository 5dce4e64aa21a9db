package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/agent/registry"
	"weft/ipam"
	"weft/store"
	"weft/store/open"
	"weft/store/record"
)

// measureMany attaches a sandbox to a network that has 1,000 endpoints of another host and none here yet, in turns with a network that has
// none at all.
func (b *bench) measureMany(ctx context.Context) (err error) {
	const subnet = "10.60.0.0/16"
	crowded, id, err := b.network(ctx, subnet)
	if err != nil {
		return err
	}
	empty, _, err := b.network(ctx, "")
	if err != nil {
		return err
	}
	node, err := b.lab.AddNode("neighbour")
	if err != nil {
		return err
	}
	c, err := b.startChild(ctx, node, childSpec{Work: "neighbours", Times: remoteEndpoints, Crowds: []crowd{{id, subnet}}, VTEP: node.Addr.String()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	x, err := b.box(ctx, b.hosts[0])
	if err != nil {
		return err
	}
	y, err := b.box(ctx, b.hosts[0])
	if err != nil {
		return err
	}
	var p pairs
	for i := range b.n(11, 2) {
		if err := errors.Join(alone(ctx, []*box{x, y}), settle(ctx, quietTime)); err != nil {
			return err
		}
		w, f, err := inTurns(i, func() error { return x.connect(ctx, crowded) }, func() error { return y.connect(ctx, empty) })
		if err != nil {
			return err
		}
		p.add(w, f)
		if err := errors.Join(x.disconnect(ctx, crowded), y.disconnect(ctx, empty)); err != nil {
			return err
		}
	}
	b.report.pair("first attach, 1,000 remote endpoints", "ms", "the first attach into an empty network", p)
	return remove(ctx, x, y)
}

// crowd is a network with endpoints of hosts that are nothing but a process with a session.
type crowd struct{ Network, Subnet string }

// childNeighbours is a host of the cluster with many endpoints and nothing else. It writes its records, says so, and stays alive until its
// input ends.
func childNeighbours(ctx context.Context, spec childSpec, in io.Reader, out io.Writer) (err error) {
	s, err := open.Open(string(spec.Kind)+"://"+spec.Endpoint+"/weft", nil, open.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r := registry.New(registry.Config{Store: s, Picture: record.Empty, Now: time.Now})
	as, err := appear(ctx, r, spec)
	if err != nil {
		return err
	}
	for _, c := range spec.Crowds {
		if err := populate(ctx, r, as, c, spec.Host*spec.Times, spec.Times); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, in) // its end is what is waited for
	return closeSession(ctx, as.Session)
}

// appear makes this process a host that is alive.
func appear(ctx context.Context, r *registry.Registry, spec childSpec) (as registry.Actor, err error) {
	vtep, err := netip.ParseAddr(spec.VTEP)
	if err != nil {
		return as, err
	}
	h := record.Host{
		ID: record.HostID(fmt.Sprintf("0123456789abcdef%016x", spec.Host)), Name: fmt.Sprintf("neighbour%d", spec.Host),
		Advertise: netip.AddrPortFrom(vtep, 2376).String(), VTEP: vtep, Incarnation: 1, MTU: 1500, Started: time.Now().UTC(),
	}
	if _, _, err := r.RegisterHost(ctx, h); err != nil {
		return as, err
	}
	alive, err := r.OpenLiveness(ctx, registry.Life{
		Liveness: record.Liveness{Host: h.ID, Incarnation: 1, Instance: "bench"}, VTEP: vtep, TTL: 10 * time.Second,
	})
	return registry.Actor{Host: h.ID, Incarnation: 1, Session: alive}, err
}

func closeSession(ctx context.Context, s store.Session) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.Close(ctx)
}

// populate makes n endpoints in a network, of which from come before them, from the middle of its pool upwards.
func populate(ctx context.Context, r *registry.Registry, as registry.Actor, in crowd, from, n int) error {
	subnet, err := netip.ParsePrefix(in.Subnet)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	base := subnet.Addr().As4()
	for i := from; i < from+n; i++ {
		a := netip.AddrFrom4([4]byte{base[0], base[1], byte(128 + i/250), byte(1 + i%250)})
		g.Go(func() error {
			_, err := r.CreateEndpoint(ctx, as, &record.Endpoint{
				ID: record.EndpointID(registry.NewID()), Network: record.NetworkID(in.Network), Host: as.Host, Incarnation: as.Incarnation,
				Sandbox: record.SandboxID(registry.NewID()), Name: fmt.Sprintf("far%d", i), Addrs: []netip.Addr{a},
				MAC: record.MAC(ipam.MAC(a)), Running: true,
			})
			return err
		})
	}
	return g.Wait()
}
