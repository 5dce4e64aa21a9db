package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// NetnsID tells network namespaces apart. The kernel gives a number to another one when nothing holds the first any more.
type NetnsID struct{ Dev, Ino uint64 }

// ErrNoNetns says that a file is no network namespace.
var ErrNoNetns = errors.New("it is no network namespace")

// WhichNetns returns which network namespace a file stands for: a bound one, or /proc/PID/ns/net. A missing file is fs.ErrNotExist.
func WhichNetns(path string) (NetnsID, error) {
	f, id, err := openNetns(path)
	if err != nil {
		return id, err
	}
	return id, f.Close()
}

func openNetns(path string) (*os.File, NetnsID, error) {
	fail := func(err error) (*os.File, NetnsID, error) {
		return nil, NetnsID{}, fmt.Errorf("network namespace %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe, or a device, is not waited for
	if err != nil {
		return fail(err)
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(f.Fd()), &fs), unix.Fstat(int(f.Fd()), &st)); err != nil {
		return fail(errors.Join(err, f.Close()))
	}
	if fs.Type != unix.NSFS_MAGIC {
		return fail(errors.Join(ErrNoNetns, f.Close()))
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return fail(errors.Join(ErrNoNetns, err, f.Close()))
	}
	return f, NetnsID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// BindNetns binds a network namespace of others to a file, which it makes: it lasts until RemoveNetns, whatever its owners do. Its loopback is up
// then. A file that stands for another namespace is replaced.
func BindNetns(from, path string) error {
	f, id, err := openNetns(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if have, err := WhichNetns(path); err == nil && have == id {
		return nil
	}
	if err := RemoveNetns(path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("bind network namespace %s: %w", from, err)
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return fmt.Errorf("bind network namespace %s: %w", from, err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), path, "none", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("bind network namespace %s: %w", from, err), os.Remove(path))
	}
	if err := inside(f, loopbackUp); err != nil {
		return errors.Join(fmt.Errorf("bring up the loopback of %s: %w", from, err), RemoveNetns(path))
	}
	return nil
}
