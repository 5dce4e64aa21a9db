package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"weft/bridge"
	"weft/firewalld"
	"weft/kernel"
)

// firewalldTable is there where firewalld runs in this host's namespace: the system's bus may be another namespace's.
const firewalldTable = "inet firewalld"

// obstaclesWait is how long a reply may wait for what other firewalls do.
const obstaclesWait = 2 * time.Second

func (a *Agent) newFirewalld() firewall {
	return a.machine.firewall(firewalld.Config{Log: a.log, Here: func(ctx context.Context) bool {
		here, err := a.kernel.HasTable(ctx, firewalldTable)
		if err != nil {
			a.log.Warn("cannot tell whether firewalld has rules here", "error", err)
		}
		return here
	}})
}

// neighbours tells whoever lives beside other firewalls that one of them has changed something.
func (l *loop) neighbours(changes []kernel.Change) {
	if l.firewall != nil && slices.ContainsFunc(changes, func(c kernel.Change) bool {
		return c.Doubt || c.Kind == kernel.KindGuest && strings.HasPrefix(c.Link, firewalldTable)
	}) {
		l.firewall.Look()
	}
}

// obstacles are the notes on other firewalls that drop what weft's rules let pass.
func (a *Agent) obstacles() []string {
	ctx, cancel := context.WithTimeout(context.Background(), obstaclesWait)
	defer cancel()
	six := false
	for n := range a.picture().Networks() {
		six = six || n.IPv6
	}
	out, err := a.kernel.Obstacles(ctx, bridge.Passed, six)
	if err != nil {
		a.log.Warn("cannot tell whether another firewall is in the way", "error", err)
	}
	if note := a.firewall.Note(); note != "" {
		out = append(out, note)
	}
	return out
}
