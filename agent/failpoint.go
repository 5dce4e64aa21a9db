//go:build failpoint

package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"weft/agent/sandbox"
	"weft/kernel"
	"weft/store"
)

// withFailpoints gives a machine whose writes can be made to end the agent: while RUN-DIR/failpoint holds a number, writes are counted, of the
// journal, of both stores, of the kernel and of the sandboxes' supervisor, and the process kills itself when that many have been done; with a
// negative number, right before that one. The two differ where writes go on beside each other, and in what is done that is not counted: what is
// answered, said to others and written to other files.
func withFailpoints(m machine, cfg Config) machine {
	f := &failpoints{file: filepath.Join(cfg.RunDir, "failpoint")}
	disk, remote, sandboxes := m.disk, m.store, m.sandboxes
	m.disk = func(path string) (store.Store, error) {
		s, err := disk(path)
		return failingStore{s, f, filepath.Base(path)}, err
	}
	m.store = func(p place, log *slog.Logger) (store.Store, error) {
		s, err := remote(p, log)
		return failingStore{s, f, "store"}, err
	}
	m.sandboxes = func(cfg sandbox.Config) (runner, error) {
		r, err := sandboxes(cfg)
		return failingRunner{r, f}, err
	}
	m.kernel = failingKernel{m.kernel, f}
	return m
}

type failpoints struct {
	file string

	mu    sync.Mutex // guards what follows
	begun int
	done  int
}

// write counts a write that f does, and ends the process where it is the one, before or after it. What it was is noted beside the number.
func (f *failpoints) write(what string, do func()) {
	f.count(what, &f.begun, -1)
	do()
	f.count(what, &f.done, 1)
}

func (f *failpoints) count(what string, n *int, sign int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := os.ReadFile(f.file)
	if err != nil {
		f.begun, f.done = 0, 0
		return
	}
	*n++
	if end, err := strconv.Atoi(string(bytes.TrimSpace(b))); err == nil && *n*sign == end {
		_ = os.WriteFile(f.file+".at", []byte(what), 0o600)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type failingStore struct {
	store.Store
	points *failpoints
	name   string
}

func (s failingStore) Txn(ctx context.Context, t store.Txn) (rev store.Rev, err error) {
	if len(t.Then) == 0 {
		return s.Store.Txn(ctx, t)
	}
	s.points.write(fmt.Sprint("a write of ", s.name, " to ", t.Then[0].Key), func() { rev, err = s.Store.Txn(ctx, t) })
	return rev, err
}

type failingKernel struct {
	host
	points *failpoints
}

// Apply does half of the steps, and then the others.
func (k failingKernel) Apply(ctx context.Context, ops []kernel.Op) (errs []error) {
	for _, part := range [][]kernel.Op{ops[:len(ops)/2], ops[len(ops)/2:]} {
		if len(part) > 0 {
			k.points.write(fmt.Sprint("steps in the kernel up to ", part[len(part)-1]), func() { errs = append(errs, k.host.Apply(ctx, part)...) })
		}
	}
	return errs
}

type failingRunner struct {
	runner
	points *failpoints
}

func (r failingRunner) does(what string, do func() error) (err error) {
	r.points.write(what, func() { err = do() })
	return err
}

func (r failingRunner) Create(ctx context.Context, id string, hostNetwork bool) error {
	return r.does("a namespace made", func() error { return r.runner.Create(ctx, id, hostNetwork) })
}

func (r failingRunner) Start(ctx context.Context, id string, spec sandbox.Spec) error {
	return r.does("a process started", func() error { return r.runner.Start(ctx, id, spec) })
}

func (r failingRunner) Publish(ctx context.Context, id string, want []sandbox.Forward) error {
	return r.does("ports published", func() error { return r.runner.Publish(ctx, id, want) })
}

func (r failingRunner) Stop(ctx context.Context, id string, sig syscall.Signal, timeout time.Duration) error {
	return r.does("a process stopped", func() error { return r.runner.Stop(ctx, id, sig, timeout) })
}

func (r failingRunner) Remove(ctx context.Context, id string, state bool) error {
	return r.does("a sandbox removed", func() error { return r.runner.Remove(ctx, id, state) })
}

func (r failingRunner) SetHosts(id, content string) error {
	return r.does("hosts written", func() error { return r.runner.SetHosts(id, content) })
}

func (r failingRunner) SetResolv(id, content string) error {
	return r.does("resolv.conf written", func() error { return r.runner.SetResolv(id, content) })
}
