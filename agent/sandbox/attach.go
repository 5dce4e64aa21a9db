package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Attach returns the streams of a sandbox's process. The first one after a Start that was not detached has everything from the beginning;
// a later one, and one after seconds, what comes from now on. Of a process that has ended it has the exit only.
func (h *Host) Attach(ctx context.Context, id string) (*Stream, error) {
	r := h.run(id)
	if r == nil {
		if e, ok := h.LastExit(id); ok {
			return &Stream{exit: &e}, nil
		}
		return nil, fmt.Errorf("attach to sandbox %s: %w", id, ErrNotRunning)
	}
	if l := r.takeHeld(); l != nil {
		if claim(ctx, l) == nil {
			return &Stream{link: l, dir: h.runDir(id)}, nil
		}
		_ = l.Close() // too late: its supervisor did not wait any longer
	}
	l, _, err := h.connect(ctx, id, request{Op: opAttach})
	if errors.Is(err, ErrNotRunning) {
		e, err := h.Wait(ctx, id)
		if err != nil {
			return nil, err
		}
		return &Stream{exit: &e}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("attach to sandbox %s: %w", id, err)
	}
	return &Stream{link: l, dir: h.runDir(id)}, nil
}

// claim tells a supervisor that its held output has a reader, and makes sure that it has not let go of it.
func claim(ctx context.Context, l *link) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	if err := l.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return err
	}
	if err := l.send(frameClaim, nil); err != nil {
		return err
	}
	var r reply
	if err := l.receiveJSON(frameReply, &r); err != nil {
		return err
	}
	if !stop() {
		return ctx.Err()
	}
	return l.SetDeadline(time.Time{})
}

// Exec runs one more process in a sandbox, for as long as it lasts and the sandbox does. An error that is a *StartError says that it
// cannot be run.
func (h *Host) Exec(ctx context.Context, id string, spec Spec) (*Stream, error) {
	l, answer, err := h.connect(ctx, id, request{Op: opExec, Spec: &spec})
	var refused *StartError
	switch {
	case errors.As(err, &refused):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("run a process in sandbox %s: %w", id, err)
	}
	return &Stream{link: l, dir: h.runDir(id), target: answer.Exec}, nil
}
