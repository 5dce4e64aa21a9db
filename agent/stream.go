package agent

import (
	"context"
	"errors"
	"io"
	"slices"
	"syscall"

	"weft/agent/api"
	"weft/agent/sandbox"
	"weft/store/record"
)

// stream is a sandbox's stream as the API wants it.
type stream struct {
	*sandbox.Stream
	exited func(sandbox.Exit) // called before the exit is told
}

func (s stream) Recv() (api.Output, error) {
	f, err := s.Stream.Recv()
	if err != nil {
		return api.Output{}, err
	}
	if f.Exit != nil {
		if s.exited != nil {
			s.exited(*f.Exit)
		}
		return api.Output{Exit: &api.Exit{Code: f.Exit.Code, Error: f.Exit.Error}}, nil
	}
	return api.Output{Data: f.Data, Stderr: f.Stderr}, nil
}

func (s stream) Resize(z api.Size) error         { return s.Stream.Resize(z.Rows, z.Columns) }
func (s stream) Signal(sig syscall.Signal) error { return s.Stream.Signal(sig) }

// AttachSandbox returns the streams of a sandbox's process; with r.Start it starts the sandbox once they are there.
func (a *Agent) AttachSandbox(ctx context.Context, r api.AttachRequest) (api.Stream, error) {
	s, err := a.boxes.find(r.Ref)
	if err != nil {
		return nil, err
	}
	if !r.Start {
		if err := attachable(s); err != nil {
			return nil, err
		}
	}
	done, err := a.boxes.lock(ctx, s.ID) // its end waits: an --rm sandbox must not be gone before it was attached to
	if err != nil {
		return nil, err
	}
	defer done()
	if r.Start {
		if _, err := a.start(ctx, s.ID, false); err != nil {
			return exitOf(err)
		}
	}
	st, err := a.runner.Attach(ctx, string(s.ID))
	if err != nil {
		return nil, err
	}
	if r.Size.Rows > 0 {
		err = st.Resize(r.Size.Rows, r.Size.Columns)
	}
	return stream{Stream: st, exited: func(sandbox.Exit) { _ = a.settled(ctx, s.ID) }}, err
}

// attachable refuses what has no streams now, in docker's words.
func attachable(s *record.Sandbox) error {
	if err := ours(s, "attached to"); err != nil {
		return err
	}
	switch s.Status {
	case record.SandboxRunning:
		return nil
	case record.SandboxRestarting:
		return api.Refuse(api.InUse, "You cannot attach to a restarting sandbox, wait until it is running")
	}
	return api.Refuse(api.InUse, "You cannot attach to a stopped sandbox, start it first")
}

// Exec runs one more process in a sandbox.
func (a *Agent) Exec(ctx context.Context, r api.ExecRequest) (api.Stream, error) {
	s, err := a.running(r.Ref)
	if err != nil {
		return nil, err
	}
	st, err := a.runner.Exec(ctx, string(s.ID), sandbox.Spec{
		Command: r.Command, Env: slices.Concat(linkEnv(s, a.legacyLinks(s)), s.Env, r.Env), User: r.User, Workdir: r.Workdir, TTY: r.TTY, Stdin: r.Stdin,
		Hostname: s.Hostname,
	})
	if err != nil {
		return exitOf(err)
	}
	if r.Size.Rows > 0 {
		err = st.Resize(r.Size.Rows, r.Size.Columns)
	}
	return stream{Stream: st}, err
}

// exitOf turns a command that could not be run into the exit that docker run has for it.
func exitOf(err error) (api.Stream, error) {
	var se *sandbox.StartError
	if !errors.As(err, &se) {
		return nil, err
	}
	return &ended{exit: api.Exit{Code: se.Code, Error: err.Error()}}, nil
}

// ended is the stream of a process that never ran.
type ended struct {
	exit api.Exit
	told bool
}

func (e *ended) Recv() (api.Output, error) {
	if e.told {
		return api.Output{}, io.EOF
	}
	e.told = true
	return api.Output{Exit: &e.exit}, nil
}

func (e *ended) Write(p []byte) (int, error) { return len(p), nil }
func (e *ended) CloseStdin() error           { return nil }
func (e *ended) Resize(api.Size) error       { return nil }
func (e *ended) Signal(syscall.Signal) error { return nil }
func (e *ended) Close() error                { return nil }
