package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"
)

// aftermath is how long after a cable is back packets may still be lost: neighbours are asked for anew.
const aftermath = 2 * time.Second

// fault lets something happen, does some things meanwhile, and ends it.
func (s *soak) fault(ctx context.Context, f fault) error {
	s.say("%s (%d sandboxes, %d actions so far)", f, len(s.world.boxes), s.report.Actions)
	s.report.Faults[f.kind]++
	end, err := s.begin(ctx, f)
	if err != nil {
		return fmt.Errorf("%s: %w", f, err)
	}
	s.world.begin(f)
	began := time.Now()
	if err := s.churn(ctx, f.acts); err != nil {
		return fmt.Errorf("%s: %w", f, errors.Join(err, end()))
	}
	if err := wait(ctx, time.Until(began.Add(time.Duration(f.tenth)*100*time.Millisecond))); err != nil {
		return err
	}
	if err := end(); err != nil {
		return fmt.Errorf("end of %s: %w", f, err)
	}
	s.world.end(f)
	return nil
}

// begin makes a fault, and returns what ends it.
func (s *soak) begin(ctx context.Context, f fault) (end func() error, err error) {
	h := s.hosts[f.host]
	switch f.kind {
	case agentKilled:
		silent := s.asking(f.host)
		excuse(silent)
		return func() error {
			err := s.up(ctx, h.Host)
			forgive(silent, namesAgain)
			return err
		}, h.Kill()
	case powerLost:
		s.silence(f.host)
		return func() error {
			if err := s.up(ctx, h.Host); err != nil {
				return err
			}
			return s.speak(ctx, f.host)
		}, h.PowerOff(ctx)
	case storeGone:
		m := s.server.Members[0]
		return func() error {
			if err := m.Start(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, readyTime)
			defer cancel()
			return s.server.Wait(ctx)
		}, m.Kill()
	case cableCut:
		cut := s.touching(f.host, across)
		excuse(cut)
		return func() error {
			err := h.SetLink(true)
			forgive(cut, aftermath)
			return err
		}, h.SetLink(false)
	case rulesGone:
		return func() error { return nil }, h.Do(func() error { return exec.CommandContext(ctx, "nft", "flush", "ruleset").Run() })
	}
	return nil, fmt.Errorf("no such fault: %s", f.kind)
}

// namesAgain is within what time names are answered again once an agent is there.
const namesAgain = time.Second

func excuse(ways []*way) {
	for _, w := range ways {
		w.excuses.begin(time.Now())
	}
}

func forgive(ways []*way, after time.Duration) {
	for _, w := range ways {
		w.excuses.end(time.Now().Add(after))
	}
}
