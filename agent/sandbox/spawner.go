package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner is a thread that lives in the sandbox's namespaces: what it starts is in them too. It also reaps, so that nobody signals a
// process whose number has passed to another. It lives as long as the supervisor does, because the kernel sends a process's
// parent-death signal when the thread that started it ends.
type spawner struct {
	thread int
	tasks  chan func()
	known  map[int]chan unix.WaitStatus // processes that were started and not reaped; the thread's alone
}

// newSpawner starts the thread and brings it into the namespaces.
func newSpawner(p place, hostname string) (*spawner, error) {
	s := &spawner{tasks: make(chan func()), known: map[int]chan unix.WaitStatus{}}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: no other goroutine may run in these namespaces
		s.thread = unix.Gettid()
		err := enter(p, hostname)
		ready <- err
		if err == nil {
			s.loop()
		}
	}()
	if err := <-ready; err != nil {
		return nil, err // nobody takes its tasks
	}
	return s, nil
}

// enter leaves the host's mounts, name and network.
func enter(p place, hostname string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	unix.Umask(0o022)
	if p.Netns != "" {
		f, err := os.Open(p.Netns)
		if err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("enter network namespace %s: %w", p.Netns, err)
		}
	}
	if hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set the host name %q: %w", hostname, err)
		}
	}
	return arrangeMounts(p)
}

func (s *spawner) loop() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	for {
		select {
		case f, ok := <-s.tasks:
			if !ok {
				return
			}
			f()
		case <-died:
			s.reap()
		}
	}
}

// do runs f on the thread.
func (s *spawner) do(f func() error) error {
	done := make(chan error, 1)
	s.tasks <- func() { done <- f() }
	return <-done
}

// reap takes the status of whatever ended; orphans come here too. It tells whether no children are left.
func (s *spawner) reap() (childless bool) {
	for {
		var st unix.WaitStatus
		pid, err := unix.Wait4(-1, &st, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return errors.Is(err, unix.ECHILD)
		case pid == 0:
			return false
		default:
			if told, ok := s.known[pid]; ok {
				told <- st
				delete(s.known, pid)
			}
		}
	}
}

// childless tells whether nothing is left of what was started, however far down: orphans become children of the supervisor.
func (s *spawner) childless() bool {
	var none bool
	_ = s.do(func() error {
		none = s.reap()
		return nil
	})
	return none
}

// start runs a command with those files as its standard streams. It runs on the thread.
func (s *spawner) start(c command, tty bool, files [3]*os.File, cgroup *os.File) (int, <-chan unix.WaitStatus, error) {
	attr := &syscall.ProcAttr{Dir: c.dir, Env: c.env, Sys: &syscall.SysProcAttr{
		Setsid: true, Setctty: tty, Pdeathsig: unix.SIGKILL,
		Credential: &syscall.Credential{Uid: c.who.uid, Gid: c.who.gid, Groups: c.who.groups},
	}}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	if cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(cgroup.Fd())
	}
	pid, err := syscall.ForkExec(c.path, c.args, attr)
	if err != nil {
		return 0, nil, refused(c, err)
	}
	told := make(chan unix.WaitStatus, 1)
	s.known[pid] = told
	return pid, told, nil
}

// signal reaches a process that was started, and nobody else.
func (s *spawner) signal(pid int, sig syscall.Signal) error {
	return s.do(func() error {
		if _, ok := s.known[pid]; !ok {
			return ErrNotRunning
		}
		if err := unix.Kill(pid, sig); err != nil {
			return fmt.Errorf("send signal %d: %w", int(sig), err)
		}
		return nil
	})
}
