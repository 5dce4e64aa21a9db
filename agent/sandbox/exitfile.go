package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const exitName = "exit.json"

// writeExit puts an exit into a state directory so that it outlives the host's power. What reads it sees all of it or nothing.
func writeExit(dir string, e Exit) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write an exit status: %w", err)
	}
	temp := filepath.Join(dir, exitName+".new")
	if err := writeSynced(temp, append(raw, '\n')); err != nil {
		return fmt.Errorf("write an exit status: %w", errors.Join(err, os.Remove(temp)))
	}
	if err := os.Rename(temp, filepath.Join(dir, exitName)); err != nil {
		return fmt.Errorf("write an exit status: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write an exit status: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write an exit status: %w", err)
	}
	return nil
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// readExit returns the exit that a state directory tells of, if it does.
func readExit(dir string) (Exit, bool) {
	raw, err := os.ReadFile(filepath.Join(dir, exitName))
	if err != nil {
		return Exit{}, false
	}
	var e Exit
	return e, json.Unmarshal(raw, &e) == nil
}

// forgetExit: what runs has no exit.
func forgetExit(dir string) error {
	if err := os.Remove(filepath.Join(dir, exitName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the last exit status: %w", err)
	}
	return nil
}
