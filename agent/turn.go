package agent

import (
	"context"

	"weft/kernel"
	"weft/port"
	"weft/store/record"
)

// turn waits until the routes of a port that is there are as the boxes want them now.
func (l *loop) turn(ctx context.Context, n record.NetworkID, ep record.EndpointID) error {
	return l.ask(ctx, request{network: n, endpoint: ep, turned: true, done: make(chan error, 1)})
}

// routesOf is what have holds of a port's objects, and all of its sandbox's routes and rules: those that the port no longer wants go.
func routesOf(p port.Port, want, have kernel.State) kernel.State {
	part := kernel.State{}
	for k, o := range have {
		if k.NS == p.Netns && (k.Kind == kernel.KindRoute || k.Kind == kernel.KindRule) {
			part[k] = o
		}
	}
	take(part, want, have)
	return part
}
