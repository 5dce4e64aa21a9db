// Package credential reads what identifies this host to its store, and the store to this host: certificates, keys and secrets, which are
// files and nothing else. Each use looks whether the files have changed and reads them again if so: they are rotated under a running agent.
// It stands beside the back ends: store/open makes these values of the options, and a back end asks them whenever it connects or logs in.
//
// A file that is gone, half written or wrong does not take away what it held before: that stays in use, and the log says so once.
package credential

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// maxSize of a file: a bundle of all public CAs is a quarter of it.
const maxSize = 1 << 20

// racy is how young a change may be for another one to leave the same times: those of files are as coarse as the kernel's tick.
const racy = 100 * time.Millisecond

// files are read together, and parsed into one value.
type files[T any] struct {
	paths []string
	parse func(contents [][]byte) (T, error)
	log   *slog.Logger

	mu     sync.Mutex    // guards what follows; not held while files are read
	seen   []fingerprint // of what last was read from; nil: look again
	last   T             // what they held when they could last be read
	warned string        // what is wrong with them since
}

// fingerprint tells one content of a path from another. Where a path leads to another file (a symbolic link that was switched), so does it.
type fingerprint struct {
	dev, ino     uint64
	size         int64
	mtime, ctime time.Time
}

// read reads the files the first time.
func read[T any](log *slog.Logger, parse func([][]byte) (T, error), paths ...string) (*files[T], error) {
	f := &files[T]{paths: paths, parse: parse, log: log}
	seen, err := f.look()
	if err != nil {
		return nil, err
	}
	f.last, err = f.load()
	f.seen = seen
	return f, err
}

// get returns what the files hold now, or held when they were last right.
func (f *files[T]) get() T {
	seen, err := f.look()
	f.mu.Lock()
	last, same := f.last, err == nil && seen != nil && slices.Equal(seen, f.seen)
	f.mu.Unlock()
	if same {
		return last
	}
	var now T
	if err == nil {
		now, err = f.load()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		if f.warned != err.Error() {
			f.warned = err.Error()
			f.log.Warn("cannot read a credential again; what it was before stays in use", "error", err)
		}
		return f.last
	}
	f.seen, f.last, f.warned = seen, now, ""
	return now
}

// look returns the files' fingerprints, and none where they have only just changed.
func (f *files[T]) look() ([]fingerprint, error) {
	var out []fingerprint
	settled := true
	for _, path := range f.paths {
		i, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		st, ok := i.Sys().(*syscall.Stat_t)
		if !ok || !i.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is no regular file", path)
		}
		p := fingerprint{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: time.Unix(st.Mtim.Unix()), ctime: time.Unix(st.Ctim.Unix())}
		settled = settled && time.Since(p.mtime).Abs() > racy && time.Since(p.ctime).Abs() > racy
		out = append(out, p)
	}
	if !settled {
		return nil, nil
	}
	return out, nil
}

func (f *files[T]) load() (T, error) {
	var contents [][]byte
	for _, path := range f.paths {
		b, err := content(path)
		if err != nil {
			var none T
			return none, err
		}
		contents = append(contents, b)
	}
	return f.parse(contents)
}

func content(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(b) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	case len(b) > maxSize:
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxSize)
	}
	return b, nil
}

// Exposed tells whether everybody on this machine may read a file that holds a secret.
func Exposed(path string) bool {
	i, err := os.Stat(path)
	return err == nil && i.Mode().Perm()&0o004 != 0
}
