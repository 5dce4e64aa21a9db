// Package bridge renders local networks into kernel state: a Linux bridge in the host's namespace, which is there as long as its network is, and
// a port for each endpoint of this host. It is pure.
package bridge

import (
	"net/netip"

	"weft/kernel"
	"weft/port"
	"weft/store/record"
)

// Network is a local network with this host's endpoints.
type Network struct {
	Record *record.Network
	Ports  []port.Port
}

// Render returns all that the kernel holds for a network, with ports or without.
func Render(n Network) kernel.State {
	out := kernel.State{}
	name := n.Record.Bridge()
	out.Add(kernel.Object{
		Key:  kernel.Key{Kind: kernel.KindBridge, NS: kernel.HostNS, Link: name},
		Spec: kernel.Bridge{MAC: port.MAC("bridge", string(n.Record.ID)), MTU: n.Record.MTU},
	})
	for _, p := range n.Record.Pools {
		if p.Gateway.IsValid() {
			key := kernel.Key{Kind: kernel.KindAddr, NS: kernel.HostNS, Link: name, Dst: netip.PrefixFrom(p.Gateway, p.Subnet.Bits()).String()}
			out.Add(kernel.Object{Key: key, Spec: kernel.Addr{}})
		}
	}
	for _, p := range n.Ports {
		renderPort(out, n, p)
	}
	return out
}

// RenderPort returns the part of Render's result that one port needs.
func RenderPort(n Network, p port.Port) kernel.State {
	out := kernel.State{}
	renderPort(out, n, p)
	return out
}

func renderPort(out kernel.State, n Network, p port.Port) {
	port.Render(out, n.Record, port.Place{NS: kernel.HostNS, At: kernel.Port{Master: n.Record.Bridge()}}, p)
}
