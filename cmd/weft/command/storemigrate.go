package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) storeMigrate() *cobra.Command {
	var to string
	var abort bool
	opts := storeOpts{flag: "to-opt"}
	cmd := &cobra.Command{
		Use: "migrate [OPTIONS] --to URL", Short: "Move the records to another store while the agents run", Args: exactly(0),
		Long: `Move the cluster's records to another store, of the same kind or another, while the agents run. Every agent first makes sure that it can reach
the new store, with the options given here: files that they name must exist on each host. Then the records are copied, and the agents
follow by themselves. No packet is lost; what is claimed meanwhile (a network, an address) waits for a moment. A move that is interrupted
before its end undoes itself, and can be begun again; --abort ends one whose host has died. Afterwards, change --cluster-store, and
--cluster-store-opt, of every host: until then each remembers where the records are.`,
		Example: `  weft store migrate --to consul://192.0.2.2:8500/weft \
    --to-opt kv.tokenfile=/etc/weft/token
  weft store migrate --to zk://192.0.2.2:2181,192.0.2.3:2181/weft
  weft store migrate --abort`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case abort && (to != "" || len(opts.vals) > 0):
				return usage(cmd, codeFailure, "weft: --abort goes without --to and --to-opt")
			case abort:
				return c.abortMigration(cmd.Context())
			case to == "":
				return usage(cmd, codeFailure, "weft: --to is missing: it names the store that the records are to move to")
			}
			return c.migrate(cmd.Context(), to, opts.vals)
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "URL of the new store, as --cluster-store of weftd has it")
	f.Var(&opts, "to-opt", "Option of the new store, as weftd's --cluster-store-opt (KEY=VALUE[,KEY=VALUE…])")
	f.BoolVar(&abort, "abort", false, "End a move that has not come to its end: everything goes on in the old store")
	completeWith(cmd, "to", cobra.FixedCompletions([]cobra.Completion{"etcd://", "consul://", "zk://"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	completeWith(cmd, "to-opt", cobra.FixedCompletions([]cobra.Completion{
		"kv.cacertfile=", "kv.certfile=", "kv.keyfile=", "kv.path=", "kv.user=", "kv.passwordfile=", "kv.tokenfile=", "kv.servername=",
	}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func (c *cli) migrate(ctx context.Context, to string, opts map[string]string) error {
	a, err := c.agent()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.MigrateStore(ctx, &weftv1.MigrateStoreRequest{To: to, Opts: opts})
	if err != nil {
		return a.said(err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the agent ended the move without a word; see weft store status")
		case err != nil:
			return a.said(err)
		case m.Done != nil:
			return c.migrated(m.Done, len(opts) > 0)
		}
		fmt.Fprintln(c.env.Out, m.Step)
	}
}

func (c *cli) migrated(r *weftv1.MigrateStoreResult, withOpts bool) error {
	pause := r.Pause.AsDuration().Round(time.Millisecond)
	fmt.Fprintf(c.env.Out, "Moved %s to %s. %s; claims had to wait for %s.\n", counted(r.Keys, "key"), r.To, following(r.Hosts), pause)
	also := ""
	if withOpts {
		also = ", and --cluster-store-opt to what --to-opt was here"
	}
	fmt.Fprintf(c.env.Out, "Now change --cluster-store of every host to %s%s.\n", r.To, also)
	if len(r.Behind) > 0 {
		return fmt.Errorf("not yet there: %s. They follow as soon as they can reach both stores: see weft store status there, and leave the old store running until then", strings.Join(r.Behind, ", "))
	}
	return nil
}

func following(hosts uint32) string {
	if hosts == 1 {
		return "1 host follows"
	}
	return fmt.Sprintf("%d hosts follow", hosts)
}

func (c *cli) abortMigration(ctx context.Context) error {
	r, err := call(ctx, c, (*client).AbortMigration, &weftv1.AbortMigrationRequest{})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.env.Out, "The move to %s is ended; everything goes on in the old store.\n", r.To)
	if r.Warning != "" {
		fmt.Fprintln(c.env.Err, "WARNING: "+r.Warning)
	}
	return nil
}
