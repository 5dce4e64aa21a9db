package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	weftv1 "weft/proto/weft/v1"
)

// What the commands that list and inspect have to show, as users may come to have it.
const (
	manyNetworks  = 1000
	manyEndpoints = 5000
)

// measureCommands runs whole commands, from the start of the process to its end: a list of many networks, and an inspect of a network with many
// endpoints on a host that takes part in it, and on one that has to ask the store.
func (b *bench) measureCommands(ctx context.Context) (err error) {
	const subnet = "10.61.0.0/16"
	crowded, id, err := b.network(ctx, subnet)
	if err != nil {
		return err
	}
	node, err := b.lab.AddNode("townsfolk")
	if err != nil {
		return err
	}
	c, err := b.startChild(ctx, node, childSpec{Work: "neighbours", Times: b.n(manyEndpoints, 100), Crowds: []crowd{{id, subnet}}, VTEP: node.Addr.String()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	if err := b.fill(ctx, b.n(manyNetworks, 20)); err != nil {
		return err
	}
	x, err := b.box(ctx, b.hosts[0])
	if err != nil {
		return err
	}
	if err := x.connect(ctx, crowded); err != nil {
		return err
	}
	a, other := b.hosts[0], b.hosts[1]
	for _, m := range []struct {
		name  string
		host  *host
		limit float64
		least int // lines
		args  []string
	}{
		{"network ls, 1,000 networks", a, 100, manyNetworks, []string{"network", "ls"}},
		{"network inspect, 5,000 endpoints", a, 200, manyEndpoints, []string{"network", "inspect", crowded}},
		{"network inspect, asking the store", other, 200, manyEndpoints, []string{"network", "inspect", crowded}},
	} {
		var s sample
		for range b.n(15, 2) {
			took, err := timed(func() error { return m.host.lists(ctx, b.n(m.least, 20), m.args...) })
			if err != nil {
				return err
			}
			s = append(s, took)
		}
		b.report.single(m.name, "ms", s, atMost(m.limit, "ms"))
	}
	return remove(ctx, x)
}

// fill makes networks until the cluster has so many.
func (b *bench) fill(ctx context.Context, n int) error {
	r, err := b.hosts[0].nets.ListNetworks(ctx, &weftv1.ListNetworksRequest{})
	if err != nil {
		return fmt.Errorf("list the networks: %w", err)
	}
	last := ""
	for range n - len(r.Networks) {
		last = b.name("net")
		if _, err := b.hosts[0].nets.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Name: last, Driver: "overlay"}); err != nil {
			return fmt.Errorf("create a network: %w", err)
		}
	}
	if last == "" {
		return nil
	}
	return until(ctx, func() error {
		_, err := b.hosts[1].nets.InspectNetwork(ctx, &weftv1.InspectNetworkRequest{Ref: last})
		return err
	})
}

// lists runs a command that must print so many lines.
func (h *host) lists(ctx context.Context, least int, args ...string) error {
	r, err := h.Weft(ctx, args...)
	switch n := strings.Count(r.Stdout, "\n"); {
	case err != nil:
		return err
	case r.Code != 0 || n < least:
		return fmt.Errorf("weft %s: exit %d, %d lines: %s", strings.Join(args, " "), r.Code, n, r.Stderr)
	}
	return nil
}
