package agent

import (
	"context"
	"sync"
	"time"

	"weft/agent/doctor"
	"weft/agent/probe"
	"weft/agent/registry"
	"weft/store/record"
)

// hostsAtOnce is how many paths are looked at beside each other.
const hostsAtOnce = 16

// examineTunnels probes every host that shares a network with this one.
func (a *Agent) examineTunnels(ctx context.Context, quick bool) []doctor.Check {
	var hosts []*record.Host
	for _, p := range probePairs(a.tunnels()) {
		if h, ok := a.picture().Host(record.HostID(p.Host)); ok {
			hosts = append(hosts, h)
		}
	}
	found := make([][]doctor.Check, len(hosts))
	turns := make(chan struct{}, hostsAtOnce)
	var wg sync.WaitGroup
	for i, h := range hosts {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			found[i] = a.examineTunnel(ctx, h, quick)
		})
	}
	wg.Wait()
	var out []doctor.Check
	for _, cs := range found {
		out = append(out, cs...)
	}
	if len(out) == 0 {
		out = append(out, doctor.Check{Name: "tunnel", Status: doctor.Skipped, Finding: "no other host has a sandbox in a network that this host has one in"})
	}
	return out
}

func (a *Agent) examineTunnel(ctx context.Context, h *record.Host, quick bool) []doctor.Check {
	s := a.settings()
	t := doctor.Tunnel{
		Host: h.Name, State: a.stateOf(a.follower.Picture(), h.ID), Port: s.VXLANPort, Here: s.VTEP, There: h.VTEP, Link: a.underlay.link, Overhead: registry.Overhead(s.VTEP),
	}
	var known bool
	for _, wait := range append([]time.Duration{0}, looks[:3]...) { // a network that has just come to a host is not ready there yet
		select {
		case <-a.clock.After(wait):
		case <-ctx.Done():
		}
		if t.Answers, known = a.askTunnel(ctx, h.ID); t.Answers || ctx.Err() != nil {
			break
		}
	}
	if !known { // no network is shared any more, or it is not built here: check kernel says why
		return nil
	}
	path := a.probes.Path(string(h.ID))
	t.RTT = path.RTT
	if !t.Answers {
		t.Heard = !path.Heard.IsZero() && a.clock.Now().Sub(path.Heard) < heardLately
		t.Kernel = a.probeTunnel(ctx, h)
		return t.Check()
	}
	if quick {
		return t.Check()
	}
	if sizes, err := a.probes.Sizes(ctx, string(h.ID)); err == nil {
		t.Sizes = &doctor.Sizes{MTU: sizes.MTU, Out: sizes.Out, Back: sizes.Back}
	}
	var sums probe.Checksums
	if sums, t.SumsFailed = a.probes.Checksums(ctx, string(h.ID)); t.SumsFailed == nil {
		t.Sums = &doctor.Sums{Sent: sums.Sent, Good: sums.Good, Wrong: sums.Wrong}
	}
	return t.Check()
}
