package agent

import (
	"maps"
	"net/netip"
	"slices"

	"weft/bridge"
	"weft/kernel"
	"weft/overlay"
	"weft/port"
	"weft/store/record"
)

// view is what one pass of the loop renders from.
type view struct {
	settings overlay.Settings
	picture  *record.Snapshot
	locals   map[record.NetworkID]presence
	answers  func(record.HostID) bool // whether another host's endpoints are to be had; nil: all are

	published func() []bridge.Published
	wants     map[record.NetworkID]kernel.State // what was rendered already; nil: it is rendered each time
}

// newView adds this host's own networks, which have their bridges here whether or not a sandbox is in them.
func newView(s overlay.Settings, p *record.Snapshot, locals map[record.NetworkID]presence) view {
	for n := range p.Local() {
		if _, here := locals[n.ID]; !here && n.IsLocal() {
			locals[n.ID] = presence{}
		}
	}
	return view{settings: s, picture: p, locals: locals}
}

func (v view) network(id record.NetworkID) (overlay.Network, bool) {
	n, ok := v.picture.Network(id)
	lo, here := v.locals[id]
	if !ok || !here {
		return overlay.Network{}, false
	}
	net, _ := v.picture.Net(id)
	return overlay.Network{Record: n, Endpoints: merged(v.settings.Self, net, lo), Ports: lo.ports, Hosts: v.vtep}, true
}

// render is all that the kernel should hold for a network.
func (v view) render(n overlay.Network) kernel.State {
	var out kernel.State
	if n.Record.IsLocal() {
		out = bridge.Render(bridge.Network{Record: n.Record, Ports: n.Ports, Talks: v.locals[n.Record.ID].talks})
	} else {
		out = overlay.Render(v.settings, n)
	}
	v.balance(out, n.Record.ID, n.Ports)
	return out
}

// renderPort is the part of render that one port needs.
func (v view) renderPort(n overlay.Network, p port.Port) kernel.State {
	var out kernel.State
	if n.Record.IsLocal() {
		out = bridge.RenderPort(bridge.Network{Record: n.Record, Ports: n.Ports}, p)
	} else {
		out = overlay.RenderPort(v.settings, n, p)
	}
	v.balance(out, n.Record.ID, []port.Port{p})
	return out
}

func (v view) vtep(id record.HostID) (netip.Addr, bool) {
	h, ok := v.picture.Host(id)
	if !ok {
		return netip.Addr{}, false
	}
	return h.VTEP, true
}

// known tells whether all is known of what a network should be. Where its endpoints are not, unknown is not none: nothing of it is deleted.
func (v view) known(id record.NetworkID) bool {
	if _, here := v.locals[id]; id == hostPart || !here {
		return true
	}
	_, exists := v.picture.Network(id)
	_, read := v.picture.Net(id)
	return exists && read
}

// want is what the kernel should hold for a network, or for all of them.
func (v view) want(id record.NetworkID) kernel.State {
	out, rendered := v.wants[id]
	if !rendered {
		if out = v.rendered(id); v.wants != nil {
			v.wants[id] = out
		}
	}
	return out
}

func (v view) rendered(id record.NetworkID) kernel.State {
	if id == portsPart {
		return bridge.RenderPublished(v.published())
	}
	if id != hostPart {
		n, ok := v.network(id)
		if !ok {
			return kernel.State{}
		}
		return v.render(n)
	}
	return bridge.RenderHost(v.host())
}

// host is what all networks need of the host itself.
func (v view) host() bridge.Host {
	h := bridge.Host{VXLANPort: v.settings.VXLANPort}
	for n := range v.picture.Networks() {
		if n.ConfigOnly {
			continue
		}
		switch _, here := v.locals[n.ID]; {
		case here && n.IsLocal():
			h.Locals = append(h.Locals, bridge.Network{Record: n})
		case here:
			h.Overlays = append(h.Overlays, n)
		}
		for _, p := range n.Pools {
			h.Pools = append(h.Pools, p.Subnet)
		}
	}
	for peer := range v.picture.Hosts() {
		h.VTEPs = append(h.VTEPs, peer.VTEP)
	}
	return h
}

// changed is the part of want and have that the changes of a few remote endpoints can touch; shown is the picture that have was rendered
// from.
func (v view) changed(id record.NetworkID, eps map[record.EndpointID]bool, shown *record.Net, have kernel.State) (want, part kernel.State) {
	n, ok := v.network(id)
	net, known := v.picture.Net(id)
	if !ok {
		return kernel.State{}, have
	}
	want, part = kernel.State{}, kernel.State{}
	switch {
	case !known: // unknown is not empty
		return want, part
	case n.Record.IsLocal(): // it has no remote endpoints
		v.rebalance(id, n.Ports, want, part, have)
		return want, part
	}
	for ep := range eps {
		if r, ok := net.Endpoint(ep); ok && r.Host != v.settings.Self {
			maps.Copy(want, overlay.RemotePort(v.settings, n, r))
		}
	}
	for ep := range eps {
		if shown == nil {
			break
		}
		if r, ok := shown.Endpoint(ep); ok && r.Host != v.settings.Self {
			take(part, overlay.RemotePort(v.settings, n, r), have)
		}
	}
	maps.Copy(want, overlay.Shared(v.settings, n)) // others of the host's endpoints may need what one has left
	for _, p := range n.Ports {                    // an address that came here meanwhile is the port's own now
		for k := range overlay.RenderPort(v.settings, n, p) {
			delete(part, k)
		}
	}
	take(part, want, have)
	v.rebalance(id, n.Ports, want, part, have)
	return want, part
}

// take adds to part what have holds of the keys of some state.
func take(part, keys, have kernel.State) {
	for k := range keys {
		if o, ok := have[k]; ok {
			part[k] = o
		}
	}
}

// spaces are the namespaces that hold something of weft's: its own, the host's, and those of the sandboxes.
func (v view) spaces(own []string) []string {
	out := append(own, kernel.HostNS)
	for _, lo := range v.locals {
		for _, p := range lo.ports {
			out = append(out, p.Netns)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// share divides what the kernel was found to have among the parts that want it; a network has all of its own namespace. What nobody wants stays in found.
func (v view) share(found kernel.State) map[record.NetworkID]kernel.State {
	out := map[record.NetworkID]kernel.State{portsPart: {}, hostPart: {}}
	of := map[string]kernel.State{} // by the namespace of its own
	for id := range v.locals {
		out[id] = make(kernel.State, len(v.want(id)))
		of[overlay.NetnsPath(v.settings, id)] = out[id]
	}
	for k, o := range found {
		if has, ok := of[k.NS]; ok {
			has[k] = o
			delete(found, k)
		}
	}
	for id := range v.locals {
		claim(out[id], v.want(id), found)
	}
	claim(out[portsPart], v.want(portsPart), found)
	claim(out[hostPart], v.want(hostPart), found)
	return out
}

// claim moves what want has keys of from found.
func claim(to, want, found kernel.State) {
	for k := range want {
		if o, ok := found[k]; ok {
			to[k] = o
			delete(found, k)
		}
	}
}

// here are the networks that are here.
func (v view) here() map[record.NetworkID]bool {
	out := map[record.NetworkID]bool{}
	for id := range v.locals {
		out[id] = true
	}
	return out
}
