package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// actTime bounds one command. None takes longer, whatever the machine does beside.
const actTime = 30 * time.Second

// churn does a number of things, one after the other.
func (s *soak) churn(ctx context.Context, n int) error {
	for range n {
		a, ok := s.world.choose(s.rand)
		if !ok {
			return nil
		}
		if err := s.act(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// act does one thing, which must succeed.
func (s *soak) act(ctx context.Context, a action) error {
	if err := s.weft(ctx, a.host, a.args()...); err != nil {
		return err
	}
	s.world.done(a)
	s.report.Actions++
	return nil
}

// args are the command's.
func (a action) args() []string {
	switch a.verb {
	case doRun:
		args := []string{"run", "-d", "--name", a.box}
		for _, n := range a.nets {
			args = append(args, "--network", n)
		}
		if a.port != 0 {
			args = append(args, "-p", fmt.Sprintf("%d:80", a.port))
		}
		return append(args, "--", "sleep", "1000000")
	case doStop:
		return []string{"stop", "-t", "0", a.box}
	case doRestart:
		return []string{"restart", "-t", "0", a.box}
	case doRemove:
		return []string{"rm", "-f", a.box}
	case doConnect, doDisconnect:
		return []string{"network", string(a.verb), a.nets[0], a.box}
	case doCreate:
		return []string{"network", "create", "-d", "overlay", a.nets[0]}
	case doDrop:
		return []string{"network", "rm", a.nets[0]}
	}
	return []string{string(a.verb), a.box}
}

// weft runs a command against a host's agent.
func (s *soak) weft(ctx context.Context, host int, args ...string) error {
	_, err := s.ask(ctx, host, args...)
	return err
}

// ask runs a command and returns what it printed.
func (s *soak) ask(ctx context.Context, host int, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, actTime)
	defer cancel()
	h := s.hosts[host]
	r, err := h.Weft(ctx, args...)
	if err != nil {
		return "", fmt.Errorf("%s: %w", h.Name, err)
	}
	if r.Code != 0 {
		return r.Stdout, fmt.Errorf("%s$ weft %s: exit %d: %s%s", h.Name, strings.Join(args, " "), r.Code, r.Stdout, strings.TrimSpace(r.Stderr))
	}
	return r.Stdout, nil
}
