package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Files is where pictures are kept, by name.
type Files interface {
	// Replace writes a file; a crash leaves the old one or the new one.
	Replace(name string, content []byte) error
	// Remove removes a file; one that is not there is no error.
	Remove(name string) error
	// All returns every file's content, by where it is, for errors to name it. One that cannot be read is in errs and left out. What a crash
	// left of files being written goes.
	All() (files map[string][]byte, errs []error)
}

// directory is Files on the disk.
type directory string

// newFile is the pattern of files being written.
const newFile = ".new-*"

func (d directory) Replace(name string, content []byte) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(string(d), newFile)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(string(d), name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (d directory) Remove(name string) error {
	if err := os.Remove(filepath.Join(string(d), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (d directory) All() (files map[string][]byte, errs []error) {
	halves, err := filepath.Glob(filepath.Join(string(d), newFile))
	for _, f := range halves {
		err = errors.Join(err, os.Remove(f))
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("clear unfinished pictures: %w", err))
	}
	paths, err := filepath.Glob(filepath.Join(string(d), "*.json"))
	if err != nil {
		return nil, append(errs, err)
	}
	files = map[string][]byte{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("saved picture: %w", err))
			continue
		}
		files[p] = b
	}
	return files, errs
}
