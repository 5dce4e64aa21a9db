package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/spf13/cobra"

	weftv1 "weft/proto/weft/v1"
)

// restoring is what `weft restore` was told.
type restoring struct{ dryRun, yes, force bool }

func (c *cli) restoreCommand() *cobra.Command {
	var o restoring
	cmd := &cobra.Command{
		Use: "restore [OPTIONS] FILE|-", Short: "Put a backup into the cluster's store", Args: exactly(1),
		Long: `Put a backup into the store that the agent of this host is configured with, make the cluster one with its records again, and check the
store. The file is read whole before anything is written. While the restore goes on, no agent uses the store, and sandboxes and their
networking go on as they are; where it breaks off, run the same command again. A store that holds another cluster is replaced with --force
only. FILE may also be a pipe, or - for the standard input; --yes is needed then.`,
		Example: `  weft restore --dry-run weft-backup.txt
  weft restore weft-backup.txt
  ssh other cat weft-backup.txt | weft restore --yes -`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.restore(cmd.Context(), args[0], o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "Only say what would be done")
	f.BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
	f.BoolVar(&o.force, "force", false, "Also replace another cluster")
	return cmd
}

func (c *cli) restore(ctx context.Context, name string, o restoring) error {
	if !o.yes && !o.dryRun && c.isInput(name) {
		return errors.New("a backup from the standard input leaves none to answer the question: give --yes, or --dry-run first")
	}
	f, err := c.openBackup(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing was written
	r, err := f.read()
	if err != nil {
		return err
	}
	h := r.Header()
	fmt.Fprintf(c.env.Out, "Backup of cluster %s, taken %s at revision %d: %s.\n", h.Cluster, h.Time.Local().Format("2006-01-02 15:04:05 -0700"), h.Rev, counted(r.Count(), "key"))
	plan, err := c.sendBackup(ctx, f, &weftv1.RestoreStart{DryRun: true, Force: o.force})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.env.Out, "%s to write, %d to delete, %d %s as in the backup%s.\n", counted(plan.Puts, "key"), plan.Dels, plan.Same, numbered(int(plan.Same), "is", "are"), replaces(plan, h.Cluster))
	if o.dryRun {
		return nil
	}
	if !o.yes && !c.confirm("The cluster's records become those of the backup. What was made since is gone, but for the endpoints of sandboxes that run.\nContinue? [y/N] ") {
		return &fault{code: codeFailure, text: "Nothing was restored."}
	}
	return c.restoreFrom(ctx, f, o.force)
}

func (c *cli) restoreFrom(ctx context.Context, f io.ReadSeeker, force bool) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	done, err := c.sendBackup(ctx, f, &weftv1.RestoreStart{Force: force})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.env.Out, "Restored: %s written, %d deleted.\n", counted(done.Puts, "key"), done.Dels)
	return c.afterRestore(done)
}

func replaces(plan *weftv1.RestoreStoreResponse, cluster string) string {
	switch plan.Replaced {
	case "", cluster:
		return ""
	}
	return "; it replaces cluster " + plan.Replaced
}

// afterRestore shows what the check of the restored store found.
func (c *cli) afterRestore(done *weftv1.RestoreStoreResponse) error {
	if len(done.Findings) == 0 {
		return nil
	}
	check := &weftv1.CheckStoreResponse{Findings: done.Findings}
	if err := c.showFindings(check, &listing{}); err != nil {
		return err
	}
	return &fault{code: codeFailure, text: "Error: the backup was restored as it is, and what is above was wrong in it, or is not right yet: see weft store check"}
}

// sendBackup sends a file to the agent, which checks it as well.
func (c *cli) sendBackup(ctx context.Context, f io.Reader, start *weftv1.RestoreStart) (*weftv1.RestoreStoreResponse, error) {
	a, err := c.agent()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sent atomic.Int64
	defer c.progressOf(func() string { return "restoring: " + inBytes(sent.Load()) })()
	stream, err := a.RestoreStore(ctx)
	if err != nil {
		return nil, a.said(err)
	}
	err = stream.Send(&weftv1.RestoreChunk{Part: &weftv1.RestoreChunk_Start{Start: start}})
	for buf := make([]byte, 64<<10); err == nil; {
		var n int
		n, err = f.Read(buf)
		if n > 0 {
			if sendErr := stream.Send(&weftv1.RestoreChunk{Part: &weftv1.RestoreChunk_Data{Data: buf[:n]}}); sendErr != nil {
				break // the agent has said why
			}
			sent.Add(int64(n))
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	r, err := stream.CloseAndRecv()
	return r, a.said(err)
}
