package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) storeReseed() *cobra.Command {
	req := &weftv1.ReseedStoreRequest{}
	cmd := &cobra.Command{
		Use: "reseed [OPTIONS]", Short: "Put back what the hosts know into a store that lost it", Args: exactly(0),
		Long: `Put back what the hosts know into a store that has lost the cluster's records, or whose own tools have set it back. Such a store is not believed:
everything that runs goes on, and nothing new is claimed. Each host whose agent runs tells the store what it knows of the networks that it uses,
and the newest word on each counts: what was removed before the loss is not put back. Then all agents go on with the store, without a restart.

Hosts that are away put back what is their own when they come back; until then their addresses are held, as far as others know them. Where a
host is away that alone may know who is in a network, nothing is ended and the command says so; --force does without it. Where the command
breaks off, the store is still not believed, and running it again ends it. A backup is put back by weft restore instead.`,
		Example: `  weft store reseed --dry-run
  weft store reseed`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, (*client).ReseedStore, req)
			if err != nil {
				return err
			}
			return c.showReseed(r, req.DryRun)
		},
	}
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "Only say what this host would put back")
	cmd.Flags().BoolVar(&req.Force, "force", false, "Replace another cluster; do without hosts that are away")
	return cmd
}

func (c *cli) showReseed(r *weftv1.ReseedStoreResponse, dry bool) error {
	did, later := "Put back", "Not heard of yet (they put back what is their own when they are back)"
	if dry {
		did, later = "Would put back", "Would be asked for what they know"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, %s, %s; %d %s there.\n", did, counted(r.Networks, "network"), counted(r.Hosts, "host"), counted(r.Endpoints, "endpoint"), r.Same, numbered(int(r.Same), "was", "were"))
	for _, s := range r.Skipped {
		fmt.Fprintf(&b, "Left out: %s\n", s)
	}
	if len(r.Pending) > 0 {
		fmt.Fprintf(&b, "%s: %s\n", later, strings.Join(r.Pending, ", "))
	}
	_, err := fmt.Fprint(c.env.Out, b.String())
	return err
}
