package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// arrangeMounts gives the calling thread's mount namespace the sandbox's own files of /etc, and takes weft's directory out of it: it is
// full of other sandboxes' namespaces, which must not live on because this one does. The host sees none of it.
func arrangeMounts(p place) error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	if err := bindFiles(p, "/etc"); err != nil {
		return err
	}
	if p.Netns != "" {
		_ = showNetwork() // a convenience: what asks the kernel by netlink sees the right links anyway
	}
	if err := unix.Unmount(p.Shared, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("leave %s out: %w", p.Shared, err)
	}
	return nil
}

// bindFiles binds the given files over those in a directory, wherever the links there lead.
func bindFiles(p place, etc string) error {
	layered := false
	for _, f := range []struct {
		given bool
		name  string
	}{{p.Hosts, hostsName}, {p.Resolv, resolvName}, {p.Hostname, hostnameName}} {
		if !f.given {
			continue
		}
		target, err := filepath.EvalSymlinks(filepath.Join(etc, f.name))
		if errors.Is(err, os.ErrNotExist) {
			target = filepath.Join(etc, f.name)
			if !layered {
				err, layered = coverDir(etc, filepath.Join(p.Run, "layer")), true
			} else {
				err = nil
			}
			if err == nil {
				err = replaceFile(target)
			}
		}
		if err == nil {
			err = unix.Mount(filepath.Join(p.Run, f.name), target, "none", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("put the sandbox's own file over %s: %w", filepath.Join(etc, f.name), err)
		}
	}
	return nil
}

// coverDir puts a layer over a directory that takes writes in its place. It is needed where the host has no such file, or a link that
// leads nowhere: nothing can be bound over that, and the host's directory is to stay as it is.
func coverDir(dir, layer string) error {
	if err := os.MkdirAll(layer, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", layer, "tmpfs", 0, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("make a layer: %w", err)
	}
	upper, work := filepath.Join(layer, "upper"), filepath.Join(layer, "work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)); err != nil {
		return fmt.Errorf("it does not exist, and no layer can be put over %s (make the file): %w", dir, err)
	}
	return nil
}

func replaceFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// showNetwork makes /sys tell of the links of the thread's network namespace and leaves the rest of it alone.
func showNetwork() error {
	fs, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }()
	for _, dir := range []string{"devices/virtual/net", "class/net"} {
		tree, err := unix.OpenTree(root, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return err
		}
		err = unix.MoveMount(tree, "", unix.AT_FDCWD, "/sys/"+dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
		_ = unix.Close(tree)
		if err != nil {
			return err
		}
	}
	return nil
}
