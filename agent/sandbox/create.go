package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"weft/kernel"
)

// Names in a sandbox's run directory.
const (
	hostsName    = "hosts"
	resolvName   = "resolv.conf"
	hostnameName = "hostname"
	lockName     = "lock"
)

// Create makes a sandbox's directory and, unless it is to be in the host's network, its network namespace, with loopback up and nothing
// else. What is there already stays. After an error nothing is left.
func (h *Host) Create(ctx context.Context, id string, hostNetwork bool) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("make sandbox %s: %w", id, err)
	}
	if err := os.Mkdir(h.runDir(id), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make sandbox %s: %w", id, err)
	}
	if !hostNetwork {
		if err := kernel.MakeNetns(h.NetnsPath(id)); err != nil {
			return errors.Join(fmt.Errorf("make sandbox %s: %w", id, err), h.clear(id))
		}
	}
	h.prepare(id)
	return nil
}

// SetHosts replaces the content of a sandbox's /etc/hosts; a process that runs sees it at once.
func (h *Host) SetHosts(id, content string) error {
	return h.setFile(id, hostsName, content)
}

// SetResolv replaces the content of a sandbox's /etc/resolv.conf; a process that runs sees it at once, if it was started with one.
func (h *Host) SetResolv(id, content string) error {
	return h.setFile(id, resolvName, content)
}

func (h *Host) setFile(id, name, content string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := overwrite(filepath.Join(h.runDir(id), name), []byte(content), 0o644); err != nil {
		return fmt.Errorf("write /etc/%s of sandbox %s: %w", name, id, err)
	}
	return nil
}

// overwrite replaces a file's content and keeps its inode: it may be bound elsewhere. A reader may see a part of it, so what the file says
// already is not written again.
func overwrite(path string, content []byte, mode os.FileMode) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, content) {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	if err == nil {
		err = f.Chmod(mode) // whatever the agent's mask is
	}
	return errors.Join(err, f.Close())
}

// Remove ends whatever runs in a sandbox and takes its namespace and its run-time files away; with state also its log and exit status.
// What is gone is no error.
func (h *Host) Remove(ctx context.Context, id string, state bool) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := h.finish(ctx, id); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	if err := h.clear(id); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	h.mu.Lock()
	delete(h.runs, id)
	h.mu.Unlock()
	if !state {
		return nil
	}
	if err := os.RemoveAll(h.stateDir(id)); err != nil {
		return fmt.Errorf("remove the log of sandbox %s: %w", id, err)
	}
	return nil
}

// clear removes what is left of a sandbox in which nothing runs any more, but its state.
func (h *Host) clear(id string) error {
	errs := []error{h.cgroups.remove(id), unpin(filepath.Join(h.runDir(id), utsName))}
	if _, err := os.Lstat(h.NetnsPath(id)); err == nil {
		errs = append(errs, kernel.RemoveNetns(h.NetnsPath(id)))
	}
	return errors.Join(append(errs, os.RemoveAll(h.runDir(id)))...)
}
