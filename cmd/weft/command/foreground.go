package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

// process is a sandbox in the foreground. Its life has three parts: until the agent has said that it is attached, a signal ends this
// command; while it is attached, a signal is the process's; while the agent is away, a signal ends this command, not the process.
type process struct {
	c        *cli
	a        *client
	id       string // set, as are con and relay, before attached is
	con      *console
	relay    *relay
	keys     []byte // that leave it alone
	attached atomic.Bool
	ever     bool // it has been attached once
}

// interrupted is the cause of a context that a signal of the user ended.
type interrupted struct{ signal syscall.Signal }

func (i *interrupted) Error() string { return "interrupted by a signal" }

func (c *cli) runForeground(ctx context.Context, req *weftv1.CreateSandboxRequest, sigProxy bool, keys []byte, made func(id string) error) error {
	return c.foreground(ctx, sigProxy, func(ctx context.Context, p *process) error {
		p.keys = keys
		return p.live(ctx, req, made)
	})
}

// live makes the sandbox, runs it, and cleans up after it. A user who detaches leaves it as it is.
func (p *process) live(ctx context.Context, req *weftv1.CreateSandboxRequest, told func(id string) error) (err error) {
	made, err := call(ctx, p.c, (*client).CreateSandbox, req)
	if err != nil {
		return p.orSignal(ctx, err)
	}
	if err := told(made.Id); err != nil {
		p.c.discard(ctx, req, made.Id)
		return err
	}
	exit, err := p.join(ctx, made.Id, req.Stdin, req.Tty, true)
	if isDetached(err) {
		return nil
	}
	if exit != nil || !p.ever {
		p.c.cleanUp(ctx, req, made.Id)
	}
	if err != nil {
		return p.orSignal(ctx, err)
	}
	return ended(int(exit.Code), exit.Error)
}

// orSignal is err, or where a signal of the user was the reason, the exit code that says so.
func (p *process) orSignal(ctx context.Context, err error) error {
	var i *interrupted
	if !errors.As(context.Cause(ctx), &i) {
		return err
	}
	f := &fault{code: 128 + int(i.signal)}
	if p.ever {
		f.text = fmt.Sprintf("weft: sandbox %s goes on without this command.", table.ShortID(p.id))
	}
	return f
}

// run attaches, again and again where the agent goes away, until the process has ended.
func (p *process) run(ctx context.Context, start bool) (*weftv1.Exit, error) {
	exit, err := p.attach(ctx, start)
	for err != nil && ctx.Err() == nil && p.broken(err) {
		fmt.Fprintf(p.c.env.Err, "weft: lost the agent; sandbox %s goes on, waiting up to %s for the agent to come back%s",
			table.ShortID(p.id), p.c.give, p.con.newline())
		exit, err = p.resume(ctx)
	}
	return exit, err
}

func (p *process) attach(ctx context.Context, start bool) (*weftv1.Exit, error) {
	first := &weftv1.AttachStart{Ref: p.id, Stdin: p.relay.in != nil, Start: start, Size: p.con.size()}
	defer p.attached.Store(false)
	return p.relay.follow(ctx, p.a.AttachSandbox, &weftv1.StreamInput{Kind: &weftv1.StreamInput_Attach{Attach: first}}, func() {
		p.ever = true
		p.attached.Store(true)
	})
}

// broken tells a stream that broke, while the sandbox may go on, from an agent that refused. An agent that is being stopped ends its
// streams with codes of several kinds.
func (p *process) broken(err error) bool {
	if errors.Is(err, errLost) || errors.Is(err, errNoExit) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.Aborted, codes.Internal:
		return p.ever
	case codes.Unknown:
		_, fromAgent := status.FromError(err)
		return p.ever && fromAgent
	}
	return false
}

// resume finds the agent again, and what became of the sandbox.
func (p *process) resume(ctx context.Context) (*weftv1.Exit, error) {
	end := time.NewTimer(p.c.give)
	defer end.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		exit, err := p.again(ctx)
		starting := errors.Is(err, errLost) || status.Code(err) == codes.Unavailable
		if !starting {
			return exit, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-end.C:
			return nil, fmt.Errorf("the agent did not come back within %s; sandbox %s may go on, its exit code is not known here", p.c.give, table.ShortID(p.id))
		case <-tick.C:
		}
	}
}

func (p *process) again(ctx context.Context) (*weftv1.Exit, error) {
	short, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	r, err := p.a.InspectSandbox(short, &weftv1.InspectSandboxRequest{Ref: p.id})
	switch {
	case status.Code(err) == codes.NotFound:
		return nil, fmt.Errorf("sandbox %s ended and was removed while the agent was away; its exit code is not known", table.ShortID(p.id))
	case err != nil:
		return nil, err
	}
	switch r.Sandbox.Status {
	case "exited", "restarting":
		return r.Sandbox.Exit, nil
	case "created":
		return p.attach(ctx, true)
	}
	return p.attach(ctx, false)
}

// passSignals sends signals to the process by calls of their own: a stream whose process does not read its stdin is full.
func (p *process) passSignals(ctx context.Context, caught <-chan os.Signal, cancel context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-caught:
			sig := s.(syscall.Signal)
			if !p.attached.Load() {
				cancel(&interrupted{sig})
				return
			}
			short, stop := context.WithTimeout(ctx, dialTimeout)
			_, err := p.a.SignalSandbox(short, &weftv1.SignalSandboxRequest{Ref: p.id, Signal: int32(sig)})
			stop()
			if err != nil && ctx.Err() == nil && status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.NotFound {
				fmt.Fprintf(p.c.env.Err, "weft: pass %s on: %s%s", sig, plain(err), p.con.newline())
			}
		}
	}
}
