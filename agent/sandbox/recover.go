package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// recoverTimeout is how long a supervisor that lives may take to answer a new agent.
const recoverTimeout = 3 * time.Second

// Recover takes up what the last agent left. It returns which of the known sandboxes run; from now on their ends are told. Whatever else
// runs is ended, and what does not run loses all but its log and its exit; what is not known loses these too. Namespaces of others that were
// adopted stay as they are.
func (h *Host) Recover(ctx context.Context, known []string, adopted ...string) (map[string]bool, error) {
	mine := map[string]bool{}
	for _, id := range known {
		mine[id] = true
	}
	found, err := h.leftovers()
	if err != nil {
		return nil, err
	}
	for _, id := range adopted {
		delete(found, id)
	}
	live := map[string]bool{}
	var errs []error
	var mu sync.Mutex // guards live and errs
	var wg sync.WaitGroup
	turns := make(chan struct{}, recoversAtOnce)
	for id := range found {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			lives, err := h.takeUp(ctx, id, mine[id])
			mu.Lock()
			defer mu.Unlock()
			if lives {
				live[id] = true
			}
			errs = append(errs, err)
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("take up sandboxes: %w", err)
	}
	return live, errors.Join(errs...)
}

// recoversAtOnce is how many supervisors are asked at a time: each has to wake up, and one may be about to start its process.
const recoversAtOnce = 32

// takeUp finds a sandbox that runs, and ends what is left of one that does not, or that nobody knows.
func (h *Host) takeUp(ctx context.Context, id string, known bool) (lives bool, err error) {
	if ctx.Err() != nil {
		return false, nil // Recover says so
	}
	if known {
		if r, ok := h.find(id); ok {
			h.follow(r)
			return true, nil
		}
	}
	return false, h.sweep(ctx, id, known)
}

// leftovers lists the IDs of all that is there of any sandbox.
func (h *Host) leftovers() (map[string]bool, error) {
	found := map[string]bool{}
	for _, dir := range []string{h.cfg.RunDir, h.cfg.StateDir} {
		es, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("list sandboxes: %w", err)
		}
		for _, e := range es {
			if e.IsDir() && checkID(e.Name()) == nil {
				found[e.Name()] = true
			}
		}
	}
	for _, id := range h.cgroups.names() {
		if checkID(id) == nil {
			found[id] = true
		}
	}
	return found, nil
}

// find connects to a sandbox's supervisor. It fails where there is none, and where the process has ended already.
func (h *Host) find(id string) (*run, bool) {
	pid := lockHolder(h.runDir(id))
	if pid == 0 {
		return nil, false
	}
	for end := time.Now().Add(recoverTimeout); ; time.Sleep(5 * time.Millisecond) { // it may be about to start its process
		l, child, err := watchSupervisor(h.runDir(id), end)
		if err == nil {
			r := &run{id: id, pid: child, supervisor: pid, watched: l, done: make(chan struct{})}
			return r, true
		}
		if !gone(err) || time.Now().After(end) || lockHolder(h.runDir(id)) == 0 {
			h.cfg.Log.Warn("a sandbox's supervisor does not answer", "sandbox", id, "error", err)
			return nil, false
		}
	}
}

// sweep ends a sandbox that nobody knows or whose supervisor is dead.
func (h *Host) sweep(ctx context.Context, id string, keep bool) error {
	if keep && h.supervised(id) {
		if _, told := readExit(h.stateDir(id)); !told {
			h.lost(id)
		}
	}
	return h.Remove(ctx, id, !keep)
}

// supervised tells whether a supervisor was there since the sandbox was made.
func (h *Host) supervised(id string) bool {
	_, err := os.Lstat(filepath.Join(h.runDir(id), lockName))
	return err == nil
}

// finish ends whatever runs in a sandbox, and waits for it.
func (h *Host) finish(ctx context.Context, id string) error {
	if v, ok := h.takePrepared(id); ok {
		v.discard()
	}
	if r := h.run(id); r != nil && !r.ended() {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if err := h.Stop(ctx, id, unix.SIGKILL, 0); err != nil {
			h.cfg.Log.Warn("a sandbox's supervisor does not end it", "sandbox", id, "error", err)
		}
	}
	if r := h.run(id); r != nil && r.ended() {
		r.close() // a supervisor may still serve a slow reader: it needs nothing of what is removed
		return endRemains(h.cgroups.path(id), filepath.Join(h.runDir(id), utsName))
	}
	return h.endAll(id)
}
