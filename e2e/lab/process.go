package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a program that the lab has started, until it was waited for.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
	err   error         // of its end; read after ended
}

// launch starts cmd by start and waits for its end in the background.
func launch(cmd *exec.Cmd, start func(*exec.Cmd) error) (*process, error) {
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.err = cmd.Wait()
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// end sends a signal and waits for the end; when ctx is over first, it sends SIGKILL.
func (p *process) end(ctx context.Context, sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && p.running() {
		return fmt.Errorf("signal %s: %w", p.cmd.Path, err)
	}
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
	}
	_ = p.cmd.Process.Kill() // it has ended otherwise
	<-p.ended
	return fmt.Errorf("%s did not end after %s: %w", p.cmd.Path, sig, context.Cause(ctx))
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	at := len(raw)
	for n := 0; at > 0 && n <= lines; at-- {
		if raw[at-1] == '\n' && at < len(raw) {
			if n++; n == lines {
				break
			}
		}
	}
	return string(raw[at:])
}

// poll asks until what returns no error, or ctx is over.
func poll(ctx context.Context, every time.Duration, what func() error) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		err := what()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-t.C:
		}
	}
}
