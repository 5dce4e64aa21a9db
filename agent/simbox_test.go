//go:build !race

package agent

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"weft/agent/sandbox"
	"weft/dnssvc"
)

// simBox is a sandbox of a host, whose process is nothing but its state.
type simBox struct {
	netns   bool
	running bool
	exit    *sandbox.Exit // of its last process
	ended   chan struct{} // closed when the process ends
}

func (b *simBox) end(e sandbox.Exit) {
	b.running, b.exit = false, &e
	close(b.ended)
}

// simRunner runs sandboxes for one life of an agent.
type simRunner struct{ *simLife }

// box does f with a sandbox under the host's lock; one that there is not is nil.
func (r simRunner) box(id string, f func(*simBox) error) (err error) {
	if dead := r.write(func() {
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		err = f(r.host.boxes[id])
	}); dead != nil {
		return dead
	}
	return err
}

func (r simRunner) Recover(_ context.Context, known []string, _ ...string) (map[string]bool, error) {
	live := map[string]bool{}
	err := r.box("", func(*simBox) error {
		for id, b := range r.host.boxes {
			switch {
			case !b.running || !slices.Contains(known, id):
				r.host.kernel.EndNamespace(r.NetnsPath(id))
				if b.running {
					b.end(sandbox.Exit{Code: 137})
				}
				if b.netns = false; !slices.Contains(known, id) {
					delete(r.host.boxes, id)
				}
			default:
				live[id] = true
			}
		}
		return nil
	})
	return live, err
}

func (r simRunner) Create(_ context.Context, id string, _ bool) error {
	return r.box(id, func(b *simBox) error {
		if b == nil {
			b = &simBox{}
			r.host.boxes[id] = b
		}
		b.netns = true
		r.host.kernel.AddNamespace(r.NetnsPath(id))
		return nil
	})
}

func (r simRunner) Start(_ context.Context, id string, _ sandbox.Spec) error {
	return r.box(id, func(b *simBox) error {
		if b == nil || !b.netns {
			return errors.New("it has no namespace")
		}
		b.running, b.exit, b.ended = true, nil, make(chan struct{})
		return nil
	})
}

func (r simRunner) Stop(_ context.Context, id string, sig syscall.Signal, _ time.Duration) error {
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	return r.box(id, func(b *simBox) error {
		if b == nil || !b.running {
			return sandbox.ErrNotRunning
		}
		r.host.endLocked(id, b, 128+int(sig))
		return nil
	})
}

// endLocked ends a process, and tells the agent if there is one.
func (h *simHost) endLocked(id string, b *simBox, code int) {
	b.end(sandbox.Exit{Code: code})
	if h.life != nil {
		select {
		case h.life.exited <- id:
		default:
		}
	}
}

func (r simRunner) Wait(ctx context.Context, id string) (e sandbox.Exit, err error) {
	var ended chan struct{}
	if err := r.box(id, func(b *simBox) error {
		if b == nil || b.ended == nil {
			return sandbox.ErrNotRunning
		}
		ended = b.ended
		return nil
	}); err != nil {
		return e, err
	}
	select {
	case <-ended:
	case <-ctx.Done():
		return e, ctx.Err()
	}
	e, _ = r.LastExit(id)
	return e, nil
}

func (r simRunner) LastExit(id string) (e sandbox.Exit, ok bool) {
	_ = r.box(id, func(b *simBox) error {
		if b != nil && b.exit != nil {
			e, ok = *b.exit, true
		}
		return nil
	})
	return e, ok
}

func (r simRunner) Remove(_ context.Context, id string, state bool) error {
	return r.box(id, func(b *simBox) error {
		if b == nil {
			return nil
		}
		r.host.kernel.EndNamespace(r.NetnsPath(id))
		if b.running {
			b.end(sandbox.Exit{Code: 137})
		}
		if b.netns = false; state {
			delete(r.host.boxes, id)
		}
		return nil
	})
}

func (r simRunner) Exited() <-chan string      { return r.exited }
func (r simRunner) NetnsPath(id string) string { return filepath.Join("/sim", r.host.name, id) }
func (r simRunner) LogPath(string) string      { return "" }
func (r simRunner) PID(string) int             { return 1 }
func (r simRunner) Close()                     {}

func (r simRunner) SetHosts(string, string) error  { return nil }
func (r simRunner) SetResolv(string, string) error { return nil }

func (r simRunner) Publish(context.Context, string, []sandbox.Forward) error { return nil }
func (r simRunner) Signal(context.Context, string, syscall.Signal) error     { return nil }

var errNotSimulated = errors.New("not simulated")

func (r simRunner) Adopt(context.Context, string, string) error { return errNotSimulated }

func (r simRunner) Attach(context.Context, string) (*sandbox.Stream, error) {
	return nil, errNotSimulated
}

func (r simRunner) Exec(context.Context, string, sandbox.Spec) (*sandbox.Stream, error) {
	return nil, errNotSimulated
}

func (r simRunner) ReadLog(context.Context, string, sandbox.LogOptions, func(sandbox.LogLine) error) error {
	return errNotSimulated
}

// simNames remembers which sandboxes have a resolver, and answers as theirs would.
type simNames struct {
	cfg dnssvc.Config

	mu    sync.Mutex // guards boxes
	boxes map[string]dnssvc.Sandbox
}

func (n *simNames) Set(_ context.Context, sb dnssvc.Sandbox) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.boxes[sb.ID] = sb
	return nil
}

func (n *simNames) Remove(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.boxes, id)
}

func (n *simNames) Close() {}
