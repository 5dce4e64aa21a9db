package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"weft/kernel"
)

// Adopt takes a network namespace of others in as a sandbox's: nothing runs there by weft, and Remove lets it go without a change. from is its
// file. What is there already stays, unless it is another one. After an error nothing is left.
func (h *Host) Adopt(ctx context.Context, id, from string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("take in %s: %w", from, err)
	}
	if err := os.Mkdir(h.runDir(id), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("take in %s: %w", from, err)
	}
	if err := kernel.BindNetns(from, h.NetnsPath(id)); err != nil {
		return errors.Join(err, h.clear(id))
	}
	return nil
}
