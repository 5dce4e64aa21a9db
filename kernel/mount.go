package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// mounts wakes whenever something is mounted or unmounted: a namespace that has lost its file has lost a mount.
type mounts struct {
	table int // /proc/self/mountinfo (proc(5)); a poller beside this one, such as the runtime's of an os.File, would take its events
	stop  int // an eventfd
}

func watchMounts() (*mounts, error) {
	table, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("watch mounts: %w", err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch mounts: %w", err), unix.Close(table))
	}
	return &mounts{table, stop}, nil
}

// hear calls changed after each change, those together that come together, until Close.
func (m *mounts) hear(changed func()) {
	defer func() { _, _ = unix.Close(m.table), unix.Close(m.stop) }()
	stop := unix.PollFd{Fd: int32(m.stop), Events: unix.POLLIN}
	fds := []unix.PollFd{stop, {Fd: int32(m.table), Events: unix.POLLPRI}}
	rest := []unix.PollFd{stop}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if fds[0].Revents != 0 {
			return
		}
		if fds[1].Revents == 0 {
			continue
		}
		if n, err := unix.Poll(rest, int(watchGather.Milliseconds())); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		changed()
	}
}

// Close ends hear, which closes what it uses.
func (m *mounts) Close() error {
	_, err := unix.Write(m.stop, binary.NativeEndian.AppendUint64(nil, 1))
	return err
}

// lostNamespaces tells which networks' namespaces have lost their files, or stand for none.
func (k *Kernel) lostNamespaces(tell func(Change) bool) {
	for _, ns := range k.spaces.list(k.own) {
		if !isNetns(ns) {
			tell(Change{Key: Key{Kind: KindNetns, NS: ns}})
		}
	}
}
