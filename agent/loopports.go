package agent

import (
	"context"
	"net/netip"

	"weft/bridge"
	"weft/kernel"
	"weft/store/follow"
	"weft/store/record"
)

// portsPart owns what published ports have in the host's table. It is apart from the host's other part so that one port more costs the same
// however many there are, and the other part none of it.
const portsPart record.NetworkID = "ports"

// portChange is what has become of one sandbox's ports.
type portChange struct {
	want []bridge.Published   // all that it has now
	gone []record.PortBinding // what it had before, and others may have now
}

// doPorts waits until the kernel has a change of a sandbox's ports.
func (l *loop) doPorts(ctx context.Context, c portChange) error {
	return l.ask(ctx, request{network: portsPart, ports: &c, done: make(chan error, 1)})
}

// servePorts does what a change of one sandbox's ports needs, or all where something else is to be done yet.
func (l *loop) servePorts(ctx context.Context, v view, c portChange) error {
	if l.failed[portsPart].err != nil {
		return l.bringInLine(ctx, v, portsPart, follow.NetDirty{All: true})
	}
	want, part := bridge.RenderPublished(c.want), kernel.State{}
	take(part, want, l.have[portsPart])
	take(part, bridge.RenderPublished(left(c.gone, v.published)), l.have[portsPart])
	if err := l.apply(ctx, portsPart, kernel.Diff(want, part)); err != nil {
		return l.fail(portsPart, err)
	}
	return nil
}

// left are the bindings of gone that nobody has now. Where they led does not matter any more.
func left(gone []record.PortBinding, published func() []bridge.Published) []bridge.Published {
	if len(gone) == 0 {
		return nil
	}
	used := map[hostPort]bool{}
	for _, p := range published() {
		used[bound(p.Binding)] = true
	}
	var out []bridge.Published
	for _, b := range gone {
		if !used[bound(b)] {
			for _, target := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} { // whichever it led to
				out = append(out, bridge.Published{Binding: b, Target: target})
			}
		}
	}
	return out
}

func bound(b record.PortBinding) hostPort { return hostPort{b.Proto, b.HostAddr, b.HostPort} }
