package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	weftv1 "weft/proto/weft/v1"
	"weft/store/backup"
)

func (c *cli) backupCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "backup [OPTIONS]", Short: "Write all records of the cluster to a file", Args: exactly(0),
		Long: `Write all records of the cluster (networks, hosts, endpoints, fences) to a file, or to the standard output. The file is text with
checksums, and "weft restore" puts it into any store. It appears under its name only when it is whole; a new file is for its owner alone, one
that is replaced keeps its mode. A pipe or a device is written into.`,
		Example: `  weft backup -o weft-backup.txt
  weft backup | ssh other 'cat > weft-backup.txt'`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "-" {
				return c.backupFile(cmd.Context(), output)
			}
			if f, ok := c.env.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
				return errors.New("a backup is nothing for a terminal: give a file with -o, or redirect the output")
			}
			return c.backupTo(cmd.Context(), c.env.Out)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "File to write to (default: the standard output)")
	return cmd
}

// backupTo passes the agent's stream on.
func (c *cli) backupTo(ctx context.Context, w io.Writer) error {
	a, err := c.agent()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var done atomic.Int64
	defer c.progressOf(func() string { return "backing up: " + inBytes(done.Load()) })()
	stream, err := a.BackupStore(ctx, &weftv1.BackupStoreRequest{})
	if err != nil {
		return a.said(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return a.said(err)
		}
		n, err := w.Write(m.Data)
		if err != nil {
			return fmt.Errorf("write the backup: %w", err)
		}
		done.Add(int64(n))
	}
}

// verified reads a file from its beginning to its end. It is there again for reading from the beginning.
func verified(f io.ReadSeeker) (*backup.Reader, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	r, err := backup.NewReader(f)
	for err == nil {
		_, _, err = r.Next()
	}
	if !errors.Is(err, io.EOF) || r == nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	return r, nil
}

// inBytes is a number of bytes in words.
func inBytes(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
