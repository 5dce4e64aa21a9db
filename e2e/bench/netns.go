package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"weft/kernel"
)

// in runs f on a thread that is in a namespace: sockets that it opens stay there. The thread is not used again.
func in(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		done <- func() error {
			file, err := os.Open(ns)
			if err != nil {
				return fmt.Errorf("open network namespace: %w", err)
			}
			defer func() { _ = file.Close() }()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace %s: %w", ns, err)
			}
			return f()
		}()
	}()
	return <-done
}

// yard is a directory of namespaces of one part of the bench, with nothing of weft's agents in them. It is below the lab's directory, so
// that the lab's end is theirs, whatever happens.
type yard struct {
	dir  string
	made []string
}

func (b *bench) newYard(name string) *yard { return &yard{dir: filepath.Join(b.cfg.Dir, "yard", name)} }

// add makes a namespace and returns its file.
func (y *yard) add(name string) (string, error) {
	path := filepath.Join(y.dir, name)
	if err := kernel.MakeNetns(path); err != nil {
		return "", err
	}
	y.made = append(y.made, path)
	return path, nil
}

// clear removes all of them, and those that a kernel.Kernel has made in the directory.
func (y *yard) clear() error {
	var errs []error
	own, _ := filepath.Glob(filepath.Join(y.dir, "weft", "*")) // the pattern is a good one
	for _, ns := range append(y.made, own...) {
		errs = append(errs, kernel.RemoveNetns(ns))
	}
	y.made = nil
	return errors.Join(errs...)
}
