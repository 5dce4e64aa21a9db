package agent

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"weft/agent/api"
	"weft/store/record"
)

// stopTimeout is how long a stopped process has before it is killed where nobody says: docker stop's.
const stopTimeout = 10 * time.Second

// stopping fills what a caller leaves open with what the sandbox says, and that with docker's defaults.
func stopping(s *record.Sandbox, how api.Stopping) (syscall.Signal, time.Duration) {
	sig, timeout := how.Signal, stopTimeout
	if sig == 0 {
		sig = syscall.Signal(s.StopSignal)
	}
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	switch {
	case how.Timeout != nil:
		timeout = *how.Timeout
	case s.StopTimeout != nil:
		timeout = *s.StopTimeout
	}
	return sig, timeout
}

// StopSandbox ends a sandbox's process: with a signal, and after a time with SIGKILL. Its restart policy leaves it down.
func (a *Agent) StopSandbox(ctx context.Context, ref string, how api.Stopping) (*record.Sandbox, error) {
	s, err := a.boxes.find(ref)
	if err != nil {
		return nil, err
	}
	if err := ours(s, "stopped"); err != nil {
		return nil, err
	}
	if s, err = a.leaveDown(ctx, s.ID, false); err != nil || s.Status != record.SandboxRunning {
		return s, err
	}
	sig, timeout := stopping(s, how)
	if err := a.runner.Stop(ctx, string(s.ID), sig, timeout); err != nil {
		return nil, fmt.Errorf("stop sandbox %s: %w", s.Name, err)
	}
	return s, a.settled(ctx, s.ID)
}

// SignalSandbox sends a signal to a sandbox's process. One that asks the process to end also has its restart policy leave it down, as docker
// kill; one that processes take as a word (SIGHUP, SIGUSR1 and the like) does not.
func (a *Agent) SignalSandbox(ctx context.Context, ref string, sig syscall.Signal) error {
	s, err := a.boxes.find(ref)
	if err != nil {
		return err
	}
	if err := ours(s, "signalled"); err != nil {
		return err
	}
	if s.Status != record.SandboxRunning && s.Status != record.SandboxRestarting {
		return api.Refuse(api.InUse, "cannot kill sandbox: %s: sandbox %s is not running", ref, record.ShortID(s.ID))
	}
	if ends(s, sig) {
		if s, err = a.leaveDown(ctx, s.ID, false); err != nil || s.Status != record.SandboxRunning {
			return err
		}
	}
	if s.Status == record.SandboxRestarting {
		return api.Refuse(api.InUse, "sandbox %s is restarting, wait until it is running", s.Name)
	}
	return a.runner.Signal(ctx, string(s.ID), sig)
}

// ends tells whether a signal asks a process to end.
func ends(s *record.Sandbox, sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
		return true
	}
	return sig == syscall.Signal(s.StopSignal)
}

// leaveDown notes that a user wants a sandbox to be down: when its process has ended it stays so, and one that waits to be started again is
// down now. One that is to be removed then is so by the next agent too. It returns the sandbox as it is then.
func (a *Agent) leaveDown(ctx context.Context, id record.SandboxID, remove bool) (*record.Sandbox, error) {
	done, err := a.boxes.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer done()
	s, ok := a.boxes.get(id)
	if !ok {
		return nil, api.Refuse(api.NotFound, "No such sandbox: %s", record.ShortID(id))
	}
	switch {
	case s.Status == record.SandboxRestarting:
		next := edited(s)
		next.Stopped, next.Again, next.Removing = true, false, remove
		return next, a.giveUp(ctx, next)
	case s.Status == record.SandboxRunning && (!s.Stopped || s.Again || remove && !s.Removing):
		next := edited(s)
		next.Stopped, next.Again, next.Removing = true, false, remove
		return next, a.boxes.put(ctx, next)
	}
	return s, nil
}

// ours refuses what weft can do to processes of its own only.
func ours(s *record.Sandbox, what string) error {
	if s.External == "" {
		return nil
	}
	return api.Refuse(api.InUse, "%s is a namespace that others made (%s): weft runs nothing in it that could be %s", s.Name, s.External, what)
}

func (a *Agent) running(ref string) (*record.Sandbox, error) {
	s, err := a.boxes.find(ref)
	if err != nil {
		return nil, err
	}
	if err := ours(s, "entered"); err != nil {
		return nil, err
	}
	switch s.Status {
	case record.SandboxRunning:
		return s, nil
	case record.SandboxRestarting:
		return nil, api.Refuse(api.InUse, "sandbox %s is restarting, wait until it is running", s.Name)
	}
	return nil, api.Refuse(api.InUse, "sandbox %s is not running", s.Name)
}

// WaitSandbox waits until a sandbox's process has ended and its endpoints are down. One that waits to be started again is waited for until it
// has run once more, or is down.
func (a *Agent) WaitSandbox(ctx context.Context, ref string) (api.Exit, error) {
	s, err := a.boxes.find(ref)
	if err != nil {
		return api.Exit{}, err
	}
	if err := ours(s, "waited for"); err != nil {
		return api.Exit{}, err
	}
	if s.Status == record.SandboxRestarting {
		if s, err = a.await(ctx, s, func(s *record.Sandbox) bool { return s.Status != record.SandboxRestarting }); err != nil {
			return api.Exit{}, err
		}
	}
	if s.Status == record.SandboxRunning {
		e, err := a.runner.Wait(ctx, string(s.ID))
		if err != nil {
			return api.Exit{}, err
		}
		return api.Exit{Code: e.Code, Error: e.Error}, a.settled(ctx, s.ID)
	}
	return api.Exit{Code: s.ExitCode, Error: s.Error}, nil
}

// settled waits until the end of a sandbox's process has been dealt with.
func (a *Agent) settled(ctx context.Context, id record.SandboxID) error {
	s, ok := a.boxes.get(id)
	if !ok {
		return nil
	}
	life := s.Started
	_, err := a.await(ctx, s, func(s *record.Sandbox) bool { return s.Status != record.SandboxRunning || !s.Started.Equal(life) })
	return err
}

// await waits until a sandbox is as asked, or is gone, and returns it as it was last.
func (a *Agent) await(ctx context.Context, s *record.Sandbox, as func(*record.Sandbox) bool) (*record.Sandbox, error) {
	for {
		changed := a.ends.wait()
		now, ok := a.boxes.get(s.ID)
		if !ok {
			return s, nil
		}
		if s = now; as(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
}
