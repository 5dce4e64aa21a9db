package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Start runs a process in a sandbox that Create made. An error that is a *StartError says that what was asked for cannot be run; after
// any error nothing runs. Unless spec.Detached is set, the output is held for the Attach that is to follow at once.
func (h *Host) Start(ctx context.Context, id string, spec Spec) error {
	if err := checkID(id); err != nil {
		return err
	}
	if r := h.run(id); r != nil && !r.ended() {
		return fmt.Errorf("start sandbox %s: it is running already", id)
	}
	p, err := h.arrange(id, spec)
	if err != nil {
		return fmt.Errorf("start sandbox %s: %w", id, err)
	}
	r, err := h.launch(ctx, id, request{Op: opStart, Spec: &spec, Places: &p})
	if err != nil {
		err = errors.Join(err, h.endAll(id))
		var refused *StartError
		if errors.As(err, &refused) {
			return err // its words are what the user asked about
		}
		return fmt.Errorf("start sandbox %s: %w", id, err)
	}
	h.follow(r)
	return nil
}

// arrange writes the files that the child sees, and says where everything is.
func (h *Host) arrange(id string, spec Spec) (place, error) {
	p := place{ID: id, Shared: h.cfg.RunDir, Run: h.runDir(id), State: h.stateDir(id), Cgroup: h.cgroups.make(id)}
	if !spec.HostNetwork {
		p.Netns = h.NetnsPath(id)
	}
	if err := os.MkdirAll(p.State, 0o700); err != nil {
		return p, fmt.Errorf("make its state directory: %w", err)
	}
	hostname := spec.Hostname
	if hostname != "" {
		hostname += "\n"
	}
	for _, f := range []struct {
		name, content string
		given         *bool
	}{{hostsName, spec.Hosts, &p.Hosts}, {resolvName, spec.Resolv, &p.Resolv}, {hostnameName, hostname, &p.Hostname}} {
		path := filepath.Join(p.Run, f.name)
		if f.content != "" {
			if err := overwrite(path, []byte(f.content), 0o644); err != nil {
				return p, fmt.Errorf("write its %s: %w", f.name, err)
			}
		}
		_, err := os.Lstat(path)
		*f.given = err == nil
	}
	return p, nil
}

// launch starts a supervisor, has it start the child, and begins to watch it.
func (h *Host) launch(ctx context.Context, id string, q request) (*run, error) {
	v, err := h.takeReady(id)
	if err != nil {
		return nil, err
	}
	l := v.link
	r := &run{id: id, supervisor: v.pid, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	answer, err := l.call(time.Now().Add(callTimeout), q)
	if !stop() {
		err = errors.Join(err, ctx.Err())
	}
	r.pid, r.watched = answer.PID, l
	if err == nil && !q.Spec.Detached {
		r.held = l
		r.watched, _, err = watchSupervisor(h.runDir(id), time.Now().Add(callTimeout))
	}
	if err != nil {
		v.discard()
		return nil, err
	}
	return r, nil
}

// ready is a supervisor that waits for its first request. It ends when the agent does.
type ready struct {
	pid  int
	link *link
}

func (v ready) discard() {
	_ = v.link.Close()
	_ = unix.Kill(v.pid, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(v.pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// prepare has a supervisor get ready while the sandbox is attached to its networks: a binary of the agent's size takes its time. Where
// that is not possible, Start says why.
func (h *Host) prepare(id string) {
	h.mu.Lock()
	r := h.runs[id]
	_, there := h.prepared[id]
	h.mu.Unlock()
	if there || r != nil && !r.ended() {
		return
	}
	v, err := h.spawn(id)
	if err != nil {
		return
	}
	h.mu.Lock()
	closed := h.ctx.Err() != nil
	if !closed {
		h.prepared[id] = v
	}
	h.mu.Unlock()
	if closed {
		v.discard()
	}
}

// takeReady returns a sandbox's supervisor that is ready, or soon will be.
func (h *Host) takeReady(id string) (ready, error) {
	if v, ok := h.takePrepared(id); ok {
		return v, nil
	}
	return h.spawn(id)
}

func (h *Host) takePrepared(id string) (ready, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.prepared[id]
	delete(h.prepared, id)
	return v, ok
}

// spawn starts a supervisor: in a session and a control group of its own, so that whatever ends the agent leaves it alone, and with
// little memory.
func (h *Host) spawn(id string) (ready, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ready{}, fmt.Errorf("make a socket for its supervisor: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "supervisor"), os.NewFile(uintptr(fds[1]), "supervisor")
	defer func() { _ = ours.Close() }() // net has a copy
	defer func() { _ = theirs.Close() }()
	conn, err := net.FileConn(ours)
	if err != nil {
		return ready{}, fmt.Errorf("make a socket for its supervisor: %w", err)
	}
	cmd := &exec.Cmd{
		Path: h.cfg.Binary, Args: []string{supervisorName, id}, Dir: "/", ExtraFiles: []*os.File{theirs},
		Env:         []string{"GOMAXPROCS=2", "GOGC=off", "GOMEMLIMIT=24MiB", "PATH=" + defaultPath}, // see shrink
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if v, ok := os.LookupEnv("GORACE"); ok { // of the race detector, where the binary has it
		cmd.Env = append(cmd.Env, "GORACE="+v)
	}
	if dir := h.cgroups.make(supervisorsGroup); dir != "" {
		if g, err := os.Open(dir); err == nil {
			defer func() { _ = g.Close() }()
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(g.Fd())
		}
	}
	if err := cmd.Start(); err != nil {
		_ = conn.Close()
		return ready{}, fmt.Errorf("run its supervisor: %w", err)
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release() // reaped by its number, as one that the last agent started would be
	return ready{pid: pid, link: &link{Conn: conn}}, nil
}
