package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"weft/store/backup"
)

// backupSource is the file of a backup, which can be read more than once.
type backupSource struct {
	*os.File
	name string // for the user
}

// openBackup opens a file or, for "-", the standard input. What can be read only once, such as a pipe, is read into a file first.
func (c *cli) openBackup(name string) (*backupSource, error) {
	if name == "-" {
		f, err := spool(c.env.In)
		if err != nil {
			return nil, fmt.Errorf("read the backup from the standard input: %w", err)
		}
		return &backupSource{f, "the standard input"}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the backup: %w", err), f.Close())
	}
	if st.Mode().IsRegular() {
		return &backupSource{f, name}, nil
	}
	defer func() { _ = f.Close() }() // nothing was written
	spooled, err := spool(f)
	if err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	return &backupSource{spooled, name}, nil
}

// isInput tells whether a name is that of the standard input, which cannot answer questions then.
func (c *cli) isInput(name string) bool {
	f, ok := c.env.In.(*os.File)
	if !ok || name == "-" {
		return name == "-"
	}
	in, inErr := f.Stat()
	st, err := os.Stat(name)
	return inErr == nil && err == nil && os.SameFile(st, in)
}

// spool reads everything into a file that only this process has: without a name, it goes with the process, however that ends.
func spool(r io.Reader) (*os.File, error) {
	f, err := os.CreateTemp("", "weft-restore-*") // 0600
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := io.Copy(f, r); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// read reads the whole backup, and says of what is none that it is none.
func (s *backupSource) read() (*backup.Reader, error) {
	start := make([]byte, 64)
	n, err := io.ReadFull(s, start)
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s is not a weft backup: it is empty", s.name)
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("read the backup: %w", err)
	case !likeBackup(start[:n]):
		return nil, fmt.Errorf("%s is not a weft backup", s.name)
	}
	r, err := verified(s)
	var d *backup.DamagedError
	if errors.As(err, &d) {
		return nil, fmt.Errorf("%s: %w; nothing was written", s.name, err)
	}
	return r, err
}

var checksummed = regexp.MustCompile(`^[0-9a-f]{8} \{`)

// likeBackup tells whether a file begins as a backup, if a damaged one.
func likeBackup(start []byte) bool {
	return checksummed.Match(start) || bytes.Contains(start, []byte(`"`+backup.Format+`"`))
}
