package agent

import (
	"cmp"
	"slices"

	"weft/agent/api"
	"weft/kernel"
	"weft/port"
	"weft/store/record"
	"weft/vip"
)

// What balances connections to virtual addresses belongs to their network's part of the kernel's state: one table in each sandbox that has a
// port there. It follows from the picture and this host's sandboxes as all else, and from which hosts answer.

// balanced returns the virtual addresses of a network with their members that answer: of other hosts as the picture has them, of this one as
// its sandboxes are.
func (v view) balanced(id record.NetworkID) []kernel.VIP {
	net, ok := v.picture.Net(id)
	if !ok {
		return nil
	}
	own := v.locals[id].endpoints
	return vip.Services(net, func(alias string) []*record.Endpoint {
		var out []*record.Endpoint
		for _, ep := range net.Members(alias) {
			if ep.Host != v.settings.Self && (v.answers == nil || v.answers(ep.Host)) {
				out = append(out, ep)
			}
		}
		for _, ep := range own {
			if ep.HasVIPAlias(alias) {
				out = append(out, ep)
			}
		}
		return out
	})
}

// balance adds to out what balances in the sandboxes of a network's ports.
func (v view) balance(out kernel.State, id record.NetworkID, ports []port.Port) {
	all := v.balanced(id)
	for _, p := range ports {
		vip.Render(out, id, p.Netns, all)
	}
}

// balanceOf is all of what balances in a network in one word. It is compared in each pass: a host that answers no longer, or again, is no change
// of the network's records.
func (v view) balanceOf(id record.NetworkID) string {
	all := v.balanced(id)
	if len(all) == 0 {
		return ""
	}
	return kernel.Balance{VIPs: all}.String()
}

// rebalance adds to want and part all that balances in a network: any change of an endpoint may be one of a member.
func (v view) rebalance(id record.NetworkID, ports []port.Port, want, part, have kernel.State) {
	v.balance(want, id, ports)
	for _, p := range ports {
		k := kernel.Key{Kind: kernel.KindTable, NS: p.Netns, Link: vip.Table(id)}
		if o, ok := have[k]; ok {
			part[k] = o
		}
	}
}

// answering tells which hosts' endpoints are to be had.
func (a *Agent) answering(p *record.Snapshot) func(record.HostID) bool {
	return func(id record.HostID) bool { return a.health.Answers(p, id) }
}

// vipViews shows the virtual addresses of a network, by alias.
func vipViews(net *record.Net, eps []api.EndpointView) []api.VIPView {
	var out []api.VIPView
	for v := range net.AllVIPs() {
		view := api.VIPView{VIP: v}
		for _, ep := range eps {
			if ep.State == "running" && ep.HasVIPAlias(v.Alias) {
				view.Members = append(view.Members, ep.Name)
			}
		}
		out = append(out, view)
	}
	slices.SortFunc(out, func(x, y api.VIPView) int { return cmp.Compare(record.Fold(x.Alias), record.Fold(y.Alias)) })
	return out
}
