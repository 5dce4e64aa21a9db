package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// run is one life of a sandbox: from the start of its process, or the finding of it, to its end.
type run struct {
	id         string
	pid        int
	supervisor int   // its process
	watched    *link // the exit comes by it

	done chan struct{} // closed when exit is there
	exit Exit

	mu   sync.Mutex // guards held
	held *link      // all the output since the start; nil: somebody has it, or nobody is to
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// takeHeld returns the link of the held output, once.
func (r *run) takeHeld() *link {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.held
	r.held = nil
	return l
}

func (r *run) close() {
	_ = r.watched.Close()
	if l := r.takeHeld(); l != nil {
		_ = l.Close()
	}
}

// watchSupervisor connects to a supervisor and asks for the exit.
func watchSupervisor(dir string, deadline time.Time) (*link, int, error) {
	l, err := dial(dir)
	if err != nil {
		return nil, 0, fmt.Errorf("reach the sandbox's supervisor: %w", err)
	}
	answer, err := l.call(deadline, request{Op: opWatch})
	if err != nil {
		_ = l.Close()
		return nil, 0, fmt.Errorf("watch the sandbox's process: %w", err)
	}
	return l, answer.PID, nil
}

// follow makes a run known and waits for its end.
func (h *Host) follow(r *run) {
	h.mu.Lock()
	old := h.runs[r.id]
	h.runs[r.id] = r
	if h.ctx.Err() == nil {
		h.wg.Go(func() { h.watch(r) })
	} else {
		defer r.close() // nobody waits for goroutines any more
	}
	h.mu.Unlock()
	if old != nil {
		old.close()
	}
}

func (h *Host) watch(r *run) {
	var e Exit
	err := r.watched.receiveJSON(frameExit, &e)
	if h.ctx.Err() != nil {
		return
	}
	if err != nil {
		e = h.lost(r.id)
	}
	r.exit = e
	close(r.done)
	h.wg.Go(func() { h.reap(r) })
	select {
	case h.exited <- r.id:
	case <-h.ctx.Done():
	}
}

// lost finds out how a sandbox ended whose supervisor does not tell, and ends what is left of it.
func (h *Host) lost(id string) Exit {
	if err := h.endAll(id); err != nil {
		h.cfg.Log.Error("cannot end what a dead supervisor left", "sandbox", id, "error", err)
	}
	if e, ok := readExit(h.stateDir(id)); ok {
		return e
	}
	e := Exit{Code: 128 + int(unix.SIGKILL), Error: "its supervisor was killed, and it was killed with it", At: time.Now().UTC()}
	if err := writeExit(h.stateDir(id), e); err != nil && !errors.Is(err, os.ErrNotExist) { // it may be removed meanwhile
		h.cfg.Log.Error("cannot keep how a sandbox ended", "sandbox", id, "error", err)
	}
	return e
}

// reap takes the status of a supervisor that this process started; of another's there is none to take. It may serve a slow reader for
// a while yet.
func (h *Host) reap(r *run) {
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		pid, err := unix.Wait4(r.supervisor, nil, unix.WNOHANG, nil)
		if pid != 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		select {
		case <-h.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// endAll ends a sandbox's supervisor, if it lives, and all of its processes.
func (h *Host) endAll(id string) error {
	if err := endSupervisor(h.runDir(id)); err != nil {
		return err
	}
	return endRemains(h.cgroups.path(id), filepath.Join(h.runDir(id), utsName))
}

// LastExit tells how a sandbox's process ended, where it did.
func (h *Host) LastExit(id string) (Exit, bool) {
	if checkID(id) != nil {
		return Exit{}, false
	}
	if r := h.run(id); r != nil {
		if !r.ended() {
			return Exit{}, false
		}
		return r.exit, true
	}
	return readExit(h.stateDir(id))
}

// Wait waits until a sandbox's process has ended and tells how.
func (h *Host) Wait(ctx context.Context, id string) (Exit, error) {
	r := h.run(id)
	if r == nil {
		if e, ok := h.LastExit(id); ok {
			return e, nil
		}
		return Exit{}, fmt.Errorf("wait for sandbox %s: %w", id, ErrNotRunning)
	}
	select {
	case <-r.done:
		return r.exit, nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for sandbox %s: %w", id, ctx.Err())
	case <-h.ctx.Done():
		return Exit{}, fmt.Errorf("wait for sandbox %s: the agent is ending", id)
	}
}

// Signal sends a signal to a sandbox's process.
func (h *Host) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	if _, err := h.ask(ctx, id, request{Op: opSignal, Signal: int(sig)}); err != nil {
		return fmt.Errorf("signal sandbox %s: %w", id, err)
	}
	return nil
}

// Stop sends a signal to a sandbox's process and, where that has not ended it in time, kills everything in the sandbox. It waits for the
// end. A negative timeout is endless. One that does not run is no error.
func (h *Host) Stop(ctx context.Context, id string, sig syscall.Signal, timeout time.Duration) error {
	r := h.run(id)
	if r == nil || r.ended() {
		return nil
	}
	q := request{Op: opStop, Signal: int(sig), Timeout: timeout.Milliseconds()}
	if timeout < 0 {
		q.Timeout = -1
	}
	if _, err := h.ask(ctx, id, q); err != nil && !errors.Is(err, ErrNotRunning) {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	if _, err := h.Wait(ctx, id); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// ask makes one request of a sandbox's supervisor.
func (h *Host) ask(ctx context.Context, id string, q request) (reply, error) {
	l, answer, err := h.connect(ctx, id, q)
	if err == nil {
		_ = l.Close()
	}
	return answer, err
}

// connect makes a request and keeps the connection.
func (h *Host) connect(ctx context.Context, id string, q request) (*link, reply, error) {
	if err := checkID(id); err != nil {
		return nil, reply{}, err
	}
	if r := h.run(id); r == nil || r.ended() {
		return nil, reply{}, ErrNotRunning
	}
	l, err := dial(h.runDir(id))
	if err != nil {
		if gone(err) {
			err = ErrNotRunning
		}
		return nil, reply{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	answer, err := l.call(time.Now().Add(callTimeout), q)
	switch {
	case !stop():
		err = errors.Join(ctx.Err(), err)
	case err != nil && gone(err):
		err = ErrNotRunning
	}
	if err != nil {
		_ = l.Close()
		return nil, reply{}, err
	}
	return l, answer, nil
}
