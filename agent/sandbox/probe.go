package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const utsName = "uts"

// gone tells whether an error of a connection says that there is no supervisor any more.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) ||
		errors.Is(err, unix.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}

// connected tells whether the other side has not closed its end yet.
func (l *link) connected() bool {
	c, ok := l.Conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	there := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		there = err == nil && n > 0 || errors.Is(err, unix.EAGAIN)
	})
	return err == nil && there
}

// takeLock makes the calling process the supervisor of a run directory for as long as it lives.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("take the sandbox's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("the sandbox has a supervisor already: %w", err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write the sandbox's lock: %w", err)
	}
	return f, nil
}

// lockHolder returns the process that supervises a run directory; 0: none does.
func lockHolder(dir string) int {
	f, err := os.Open(filepath.Join(dir, lockName))
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	for range 100 { // who has just taken it may not have written its number yet
		if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
			return 0
		}
		var raw [16]byte
		n, _ := f.ReadAt(raw[:], 0)
		if pid, err := strconv.Atoi(string(raw[:n])); err == nil && pid > 1 {
			return pid
		}
		time.Sleep(time.Millisecond)
	}
	return 0
}

// endSupervisor kills the process that supervises a run directory, if one does, and waits until it is gone.
func endSupervisor(dir string) error {
	for limit := time.Now().Add(callTimeout); ; time.Sleep(2 * time.Millisecond) {
		pid := lockHolder(dir)
		if pid == 0 {
			return nil
		}
		if time.Now().After(limit) {
			return fmt.Errorf("supervisor %d did not end within %v of its killing", pid, callTimeout)
		}
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // it may be this process's own
	}
}

// endRemains kills what a dead supervisor left of a sandbox and waits until it is gone.
func endRemains(group, uts string) error {
	for limit := time.Now().Add(killTime); ; time.Sleep(2 * time.Millisecond) {
		left := killGroup(group)
		for _, pid := range inUTS(uts) {
			left = unix.Kill(pid, unix.SIGKILL) == nil || left
		}
		if !left {
			return nil
		}
		if time.Now().After(limit) {
			return fmt.Errorf("processes %v did not end within %v of their killing", append(groupProcesses(group), inUTS(uts)...), killTime)
		}
	}
}

// pinUTS holds a thread's UTS namespace by a file.
func pinUTS(dir string, thread int) error {
	path := filepath.Join(dir, utsName)
	if err := unpin(path); err != nil {
		return err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return fmt.Errorf("mark the sandbox's processes: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/uts", thread), path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mark the sandbox's processes: %w", err)
	}
	return nil
}

func unpin(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget the sandbox's processes: %w", err)
	}
	return nil
}
