package agent

import (
	"maps"

	"weft/store/record"
)

// Before it is known what the cluster's networks should be here, nothing of them is written or deleted. This host's own are known from the first
// moment and wait for nobody: until then a pass sees them alone, and takes of what the kernel has only what they want.

// ownAlone leaves this host's own networks in a view, and of requests those that concern them; the others are put off.
func (l *loop) ownAlone(v view, rs []request) []request {
	var now []request
	for _, r := range rs {
		if r.ports == nil && v.ofCluster(r.network) {
			l.early = append(l.early, r)
		} else {
			now = append(now, r)
		}
	}
	maps.DeleteFunc(v.locals, func(id record.NetworkID, _ presence) bool { return v.ofCluster(id) })
	return now
}

// ofCluster tells a network of the cluster: one that is not this host's own, and that the picture or a sandbox here has.
func (v view) ofCluster(id record.NetworkID) bool {
	if n, ok := v.picture.Network(id); ok {
		return !n.IsLocal()
	}
	_, here := v.locals[id]
	return here
}
