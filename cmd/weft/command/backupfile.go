package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"weft/store/backup"
)

// backupFile writes to what has the name. A file gets what is whole, in one step; a pipe or a device is written into as the backup comes,
// and stays what it is.
func (c *cli) backupFile(ctx context.Context, name string) error {
	st, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c.replaceFile(ctx, name, 0o600)
	case err != nil:
		return notWritten(name, err)
	case st.IsDir():
		return fmt.Errorf("write the backup: %s is a directory; name a file in it", name)
	case c.isOutput(st): // `-o /dev/stdout >FILE`: the shell has opened it already
		return c.backupTo(ctx, c.env.Out)
	case st.Mode().IsRegular():
		return c.replaceFile(ctx, name, st.Mode().Perm())
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return notWritten(name, err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := c.backupTo(ctx, w); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return notWritten(name, err)
	}
	return nil
}

// isOutput tells whether a file is the standard output itself.
func (c *cli) isOutput(st os.FileInfo) bool {
	f, ok := c.env.Out.(*os.File)
	if !ok {
		return false
	}
	out, err := f.Stat()
	return err == nil && os.SameFile(st, out)
}

// replaceFile writes beside the file, makes sure that what was written is whole, and only then gives it its name.
func (c *cli) replaceFile(ctx context.Context, name string, mode fs.FileMode) (err error) {
	target, err := throughLinks(name)
	if err != nil {
		return notWritten(name, err)
	}
	f, err := os.CreateTemp(filepath.Dir(target), ".weft-backup-*") // 0600
	if err != nil {
		return notWritten(name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(f.Close()), os.Remove(f.Name()))
		}
	}()
	r, err := c.backupWhole(ctx, f, name)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Close()); err != nil {
		return notWritten(name, err)
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return notWritten(name, err)
	}
	_, err = fmt.Fprintf(c.env.Out, "%s: %s of cluster %s at revision %d\n", name, counted(r.Count(), "key"), r.Header().Cluster, r.Rev())
	return err
}

// backupWhole has the backup in f, and has read it.
func (c *cli) backupWhole(ctx context.Context, f *os.File, name string) (*backup.Reader, error) {
	w := bufio.NewWriterSize(f, 1<<20)
	if err := c.backupTo(ctx, w); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return nil, notWritten(name, err)
	}
	return verified(f)
}

// throughLinks is the file that a name leads to, which need not be there yet.
func throughLinks(name string) (string, error) {
	for range 40 { // as the kernel
		link, err := os.Readlink(name)
		switch {
		case err != nil: // it is no link, or nothing: opening it says what is wrong
			return name, nil
		case filepath.IsAbs(link):
			name = link
		default: // not cleaned: a ".." after a directory that is a link is not that directory's parent here
			name = filepath.Dir(name) + "/" + link
		}
	}
	return "", syscall.ELOOP
}

// notWritten names the file that the user named; the system's error would name another one.
func notWritten(name string, err error) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		err = p.Err
	case errors.As(err, &l):
		err = l.Err
	}
	return fmt.Errorf("write the backup to %s: %w", name, err)
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
