package agent

import (
	"context"

	"weft/store/record"
)

// awaitReleases lets the picture hear of what this host itself has just released and an attachment wants now: a store's watch may be a
// moment behind its writes. What is still there after that has another owner, or could not be released yet.
func (a *Agent) awaitReleases(ctx context.Context, sc *scope, id record.SandboxID, n record.NetworkID, want record.Attachment) {
	s, ok := a.boxes.get(id)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	for {
		changed := a.appliedSignal.wait()
		net, ok := sc.follower.Picture().Net(n)
		if !ok || !releasing(a.member.identity().Host, a.boxes.snapshot(), net, s.Name, want) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// releasing tells whether the name or an address that is wanted belongs, in the picture, to an endpoint that this host has let go of. It is pure.
func releasing(self record.HostID, all map[record.SandboxID]*record.Sandbox, net *record.Net, name string, want record.Attachment) bool {
	released := func(ep *record.Endpoint, taken bool) bool {
		if !taken || ep.ID == want.Endpoint || ep.Host != self {
			return false
		}
		s, ok := all[ep.Sandbox]
		return !ok || !hasEndpoint(s, ep.ID)
	}
	if released(net.ByName(name)) || released(net.ByMAC(want.MAC)) {
		return true
	}
	for f := range families {
		if addr := asked(want, f); addr.IsValid() && released(net.ByAddr(addr)) {
			return true
		}
	}
	return false
}
