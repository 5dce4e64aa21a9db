package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"weft/agent/api"
	"weft/agent/sandbox"
	"weft/kernel"
	"weft/store"
	"weft/store/record"
)

// nextPort is the port after the last one that was given out: one that was free a moment ago is not given to another at once.
type nextPort struct{ n atomic.Uint32 }

// publishPorts brings a sandbox's published ports in line with what was asked for and with its networks: they belong to the one that its
// default route leads into, and there are none where there is no such network. First the supervisor takes the ports, or nothing is
// changed; then the record has them, and the rules follow. The caller has the sandbox's turn.
func (a *Agent) publishPorts(ctx context.Context, id record.SandboxID) error {
	s, ok := a.boxes.get(id)
	if !ok || !s.Up || s.NetworkMode != "" || s.External != "" || len(s.Ports) == 0 && !s.PublishAll {
		return nil
	}
	var wishes []portWish
	at := portNetwork(s)
	if n, ok := a.picture().Network(at); ok {
		wishes = portWishes(s, hostAddrs(n, hostHasIPv6()))
	} else if at != "" && !a.follower.Synced(store.Meta) { // unknown is not none: its ports stay as they are
		return nil
	}
	if len(wishes) == 0 && len(s.Published) == 0 {
		return nil
	}
	had := s.Published
	bs, err := a.takePorts(ctx, s, wishes)
	if err != nil {
		return err
	}
	sortBindings(bs)
	if !slices.Equal(bs, s.Published) {
		next := edited(s)
		next.Published = bs
		if err := a.boxes.put(ctx, next); err != nil {
			return err
		}
		s = next
	}
	return a.openPorts(ctx, s, had)
}

// openPorts makes the host's rules follow, and lets go of what the kernel remembers of older ones.
func (a *Agent) openPorts(ctx context.Context, s *record.Sandbox, had []record.PortBinding) error {
	want := publishedOf(s, a.picture().Network)
	if err := a.loop.doPorts(ctx, portChange{want: want, gone: had}); err != nil {
		return fmt.Errorf("publish the ports of sandbox %s: %w", s.Name, err)
	}
	a.flushUDP(s, append(udpFlows(want), endedFlows(had, want)...))
	return nil
}

// flushUDP goes without what it cannot do: clients that begin now are served all the same.
func (a *Agent) flushUDP(s *record.Sandbox, fs []kernel.UDPForward) {
	if err := a.kernel.FlushUDP(fs); err != nil {
		a.log.Warn("clients of published UDP ports may go on sending to where they led before", "sandbox", s.Name, "error", err)
	}
}

// closePorts takes the rules of a sandbox's ports away, which its record does not have any more.
func (a *Agent) closePorts(ctx context.Context, before *record.Sandbox) {
	if len(before.Published) == 0 {
		return
	}
	if err := a.loop.doPorts(ctx, portChange{gone: before.Published}); err != nil {
		a.log.Debug("the kernel still has the rules of ports that were let go", "sandbox", before.Name, "error", err)
	}
	a.flushUDP(before, endedFlows(before.Published, nil))
}

// takePorts has the sandbox's supervisor take a port for each wish, and give back all others. What the kernel refuses is looked for elsewhere,
// where there is a choice.
func (a *Agent) takePorts(ctx context.Context, s *record.Sandbox, wishes []portWish) ([]record.PortBinding, error) {
	taken := sync.OnceValue(func() func(string, netip.Addr, uint16) bool { return takenBy(a.boxes.snapshot(), s.ID) })
	c := choice{had: s.Published, refused: map[hostPort]bool{}}
	c.taken = func(proto string, addr netip.Addr, port uint16) bool { return taken()(proto, addr, port) }
	var err error
	if c.free, err = localPortRange(); err != nil {
		return nil, err
	}
	c.free.next = uint16(a.nextPort.n.Load())
	for {
		bs, of, err := c.choose(wishes)
		if err != nil {
			return nil, portFault(s, err)
		}
		err = a.runner.Publish(ctx, string(s.ID), forwards(s, bs))
		var refused *sandbox.BindError
		switch {
		case err == nil:
			a.rememberPorts(wishes, bs, of)
			return bs, nil
		case !errors.As(err, &refused) || refused.Index >= len(bs):
			return nil, portFault(s, err)
		case !refused.Busy || wishes[of[refused.Index]].exact():
			return nil, portFault(s, a.explainBind(refused, bs[refused.Index], s.ID))
		}
		b := bs[refused.Index]
		c.refused[hostPort{b.Proto, b.HostAddr, b.HostPort}] = true
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

func (a *Agent) rememberPorts(wishes []portWish, bs []record.PortBinding, of []int) {
	for i, b := range bs {
		if wishes[of[i]].first == 0 {
			a.nextPort.n.Store(uint32(b.HostPort) + 1)
		}
	}
}

// portFault is docker's.
func portFault(s *record.Sandbox, err error) error {
	return api.Refuse(api.InUse, "driver failed programming external connectivity on endpoint %s: %w", s.Name, err)
}

// explainBind adds to what the kernel said who has the port, or what there is to do.
func (a *Agent) explainBind(e *sandbox.BindError, b record.PortBinding, self record.SandboxID) error {
	if !e.Busy {
		if b.HostAddr.IsUnspecified() || e.Reason == "" {
			return e
		}
		return fmt.Errorf("%w: -p, or the network's option %s, names an address that no interface of this host has", e, OptHostBinding)
	}
	for _, o := range a.boxes.snapshot() {
		if o.ID == self || !o.Up {
			continue
		}
		for _, p := range o.Published {
			if clash(map[hostPort]bool{{p.Proto, p.HostAddr, p.HostPort}: true}, b.Proto, b.HostAddr, b.HostPort) {
				return fmt.Errorf("%w: Bind for %s failed: port is already allocated (sandbox %s publishes it)", e, netip.AddrPortFrom(b.HostAddr, b.HostPort), o.Name)
			}
		}
	}
	return fmt.Errorf("%w: a process of this host has the port", e)
}

// takenBy tells which ports other sandboxes publish.
func takenBy(all map[record.SandboxID]*record.Sandbox, self record.SandboxID) func(string, netip.Addr, uint16) bool {
	type number struct {
		proto string
		port  uint16
	}
	by := map[number]map[hostPort]bool{}
	for _, s := range all {
		if s.ID == self || !s.Up {
			continue
		}
		for _, b := range s.Published {
			n := number{b.Proto, b.HostPort}
			if by[n] == nil {
				by[n] = map[hostPort]bool{}
			}
			by[n][hostPort{b.Proto, b.HostAddr, b.HostPort}] = true
		}
	}
	return func(proto string, addr netip.Addr, port uint16) bool {
		return clash(by[number{proto, port}], proto, addr, port)
	}
}

// republish brings the ports of the sandboxes that the last agent left running in line: it may have died in the middle of a change.
func (a *Agent) republish(ctx context.Context) {
	select {
	case <-a.namesKnown: // the networks that the ports belong to, too
	case <-ctx.Done():
		return
	}
	if err := a.loop.do(ctx, portsPart, ""); err != nil { // as soon as anything may be written; nobody's turn is taken until then
		a.log.Debug("published ports are not in line yet", "error", err)
	}
	for _, s := range a.boxes.snapshot() {
		if !s.Up || len(s.Ports) == 0 && !s.PublishAll {
			continue
		}
		if err := a.republishOne(ctx, s.ID); err != nil && ctx.Err() == nil {
			a.log.Error("cannot bring the published ports of a sandbox in line", "sandbox", s.Name, "error", err)
		}
	}
}

func (a *Agent) republishOne(ctx context.Context, id record.SandboxID) error {
	done, err := a.boxes.lock(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	return a.publishPorts(ctx, id)
}

// localPortRange is the host's range of ports for those who ask for none, as docker's.
func localPortRange() (portRange, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return portRange{}, fmt.Errorf("find the range of free ports: %w", err)
	}
	return parsePortRange(string(text))
}

// hostHasIPv6 tells whether the host has addresses of that family, its loopback's at least.
func hostHasIPv6() bool {
	text, err := os.ReadFile("/proc/self/net/if_inet6")
	return err == nil && len(bytes.TrimSpace(text)) > 0
}
