package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/table"
	"weft/integrations/libnetwork"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) importCommand() *cobra.Command {
	return group("import", "Bring networks over from another system", `  weft import docker --from etcd2://192.0.2.7:2379 --dry-run
  weft import ls
  weft import release web db1`, c.importDocker(), c.importList(), c.importRelease())
}

// readWithin is how long an old store may take to give its tree.
const readWithin = time.Minute

// dockerImport are the flags of `import docker`.
type dockerImport struct {
	from     string
	opts     storeOpts
	dryRun   bool
	yes      bool
	overlaps bool
	format   string
}

func (c *cli) importDocker() *cobra.Command {
	f := dockerImport{opts: storeOpts{flag: "from-opt"}}
	cmd := &cobra.Command{
		Use: "docker --from URL [OPTIONS]", Short: "Import the networks of dockerd --cluster-store", Args: exactly(0),
		Long: `Read the overlay networks that Docker (up to 20.10) kept in its cluster store, show what will become of each, and
create them here with the same ID, name, subnets, gateways, labels and VNI. The address of each endpoint is kept for
the sandbox of the same name: it gets the address, and its MAC address, when it joins the network; nobody else does.
The old store is only read. What is here already is left alone, so the command may be given again. Options of the old
store (--from-opt) are kv.cacertfile, kv.certfile, kv.keyfile, kv.servername, kv.user, kv.passwordfile and
kv.tokenfile.`,
		Example: `  weft import docker --from etcd2://192.0.2.7:2379,192.0.2.8:2379 --dry-run
  weft import docker --from consul://192.0.2.7:8500/docker-prod --yes
  weft import docker --from zk://192.0.2.7:2181 \
    --from-opt kv.user=import --from-opt kv.passwordfile=/root/zk.pass`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.from == "" {
				return usage(cmd, codeFailure, "weft: say where Docker's networks are: --from etcd2://HOST:PORT, consul://HOST:PORT or zk://HOST:PORT, with the path that dockerd's --cluster-store had")
			}
			return c.runImport(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.from, "from", "", "URL of the old store: as dockerd's --cluster-store, with etcd2:// for etcd")
	fl.Var(&f.opts, "from-opt", "Option of the old store, as dockerd's --cluster-store-opt (KEY=VALUE[,KEY=VALUE…])")
	completeWith(cmd, "from-opt", cobra.FixedCompletions([]cobra.Completion{
		"kv.cacertfile=", "kv.certfile=", "kv.keyfile=", "kv.servername=", "kv.user=", "kv.passwordfile=", "kv.tokenfile=",
	}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	fl.BoolVar(&f.dryRun, "dry-run", false, "Only show the plan")
	fl.BoolVarP(&f.yes, "yes", "y", false, "Do not ask")
	fl.BoolVar(&f.overlaps, "allow-route-overlap", false, "Import also a subnet that overlaps a route of a host")
	fl.StringVar(&f.format, "format", "", "Go template, \"table TEMPLATE\", or \"json\"")
	return cmd
}

func (c *cli) runImport(ctx context.Context, f dockerImport) error {
	if f.format != "" && !f.dryRun && !f.yes {
		return errors.New("--format needs --dry-run or --yes: the question would stand in the middle of what is printed")
	}
	source, err := libnetwork.ParseSource(f.from, f.opts.vals)
	if err != nil {
		return err
	}
	reading, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	model, err := c.readOld(reading, source)
	if err != nil {
		return err
	}
	plan, err := c.planImport(ctx, model.Candidates(), f.overlaps)
	if err != nil {
		return err
	}
	for _, p := range model.Problems {
		fmt.Fprintf(c.env.Err, "WARNING: %s is left out: %s\n", p.Key, p.Err)
	}
	if f.format == "" || f.dryRun {
		if err := plan.show(c, source.String(), f.format); err != nil {
			return err
		}
	}
	networks, addresses := plan.todo()
	if f.dryRun || networks+addresses == 0 {
		return plan.showIdle(c, f)
	}
	if !f.yes && !c.confirm(fmt.Sprintf("\nCreate %s and keep %s? [y/N] ", networksOf(networks), addressesOf(addresses))) {
		_, err := fmt.Fprintln(c.env.Out, "Nothing was imported.")
		return err // as docker: a no is no failure
	}
	return c.carryOut(ctx, plan, f)
}

func (c *cli) readOld(ctx context.Context, s libnetwork.Source) (libnetwork.Model, error) {
	defer c.progress()()
	return libnetwork.Read(ctx, s)
}

// planImport asks the agent about those networks that weft can have at all.
func (c *cli) planImport(ctx context.Context, candidates []libnetwork.Candidate, overlaps bool) (importPlan, error) {
	plan := make(importPlan, len(candidates))
	r := &weftv1.PlanImportRequest{AllowRouteOverlap: overlaps}
	var asked []int
	for i, cand := range candidates {
		plan[i].Candidate = cand
		if cand.Obstacle != "" {
			plan[i].step = &weftv1.ImportPlan{Id: cand.Network.Id, Name: cand.Network.Name, Action: weftv1.ImportAction_IMPORT_ACTION_SKIP, Reason: cand.Obstacle}
			continue
		}
		asked = append(asked, i)
		r.Networks = append(r.Networks, cand.Network)
	}
	out, err := call(ctx, c, (*client).PlanImport, r)
	if err != nil {
		return nil, err
	}
	if len(out.Plans) != len(asked) {
		return nil, fmt.Errorf("the agent planned %d networks where it was asked about %d: compare `weft version`", len(out.Plans), len(asked))
	}
	for k, i := range asked {
		plan[i].step = out.Plans[k]
	}
	return plan, nil
}

// carryOut imports network after network. One that fails does not stop the others; the same command does the rest.
func (c *cli) carryOut(ctx context.Context, plan importPlan, f dockerImport) error {
	var done importPlan
	failed := false
	for _, p := range plan {
		if p.Obstacle != "" || !p.pending() {
			done = append(done, p)
			continue
		}
		out, err := call(ctx, c, (*client).ImportNetwork, &weftv1.ImportNetworkRequest{Network: p.Network, AllowRouteOverlap: f.overlaps})
		if errors.Is(err, errLost) {
			return err
		}
		if err == nil && out.Done.GetAction() == weftv1.ImportAction_IMPORT_ACTION_SKIP && p.step.Action != out.Done.Action {
			err = fmt.Errorf("import network %s: %s", p.step.Name, out.Done.Reason)
		}
		if err != nil {
			report(c.env.Err, err)
			failed = true
			continue
		}
		p.step = out.Done
		done = append(done, p)
	}
	if err := done.showDone(c, f.format); err != nil {
		return err
	}
	if failed {
		return &fault{code: codeFailure}
	}
	return nil
}

func (c *cli) importList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "ls [OPTIONS] [NETWORK]", Aliases: []string{"list"}, Short: "List addresses that are kept for sandboxes to come",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly(1)(cmd, args)
			}
			return nil
		},
		Example:           "  weft import ls\n  weft import ls web --format '{{.Name}} {{.Address}}'",
		ValidArgsFunction: c.completeNetworks(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &weftv1.ListKeptRequest{}
			if len(args) > 0 {
				r.Network = args[0]
			}
			out, err := call(cmd.Context(), c, (*client).ListKept, r)
			if err != nil {
				return err
			}
			if len(out.Kept) == 0 {
				if err := c.whyNothingIsKept(cmd.Context(), out); err != nil {
					return err
				}
			}
			list := table.List{Default: "{{.Network}}\t{{.Name}}\t{{.Address}}\t{{.Host}}", Titles: map[string]string{"Host": "WAS ON HOST", "CreatedAt": "CREATED AT"}}
			for _, k := range out.Kept {
				list.Rows = append(list.Rows, keptRow(k, &l))
			}
			if len(out.UnknownNetworks) > 0 {
				fmt.Fprintln(c.env.Err, "WARNING: "+notKnown(out.UnknownNetworks))
			}
			return l.show(c, list)
		},
	}
	l.add(cmd, "names")
	return cmd
}

// whyNothingIsKept tells an empty list that is true from one of an agent that cannot know.
func (c *cli) whyNothingIsKept(ctx context.Context, out *weftv1.ListKeptResponse) error {
	st, err := call(ctx, c, (*client).StoreStatus, &weftv1.StoreStatusRequest{})
	if err == nil {
		err = storeTrouble(st)
	}
	if err == nil && len(out.UnknownNetworks) > 0 {
		err = errors.New(notKnown(out.UnknownNetworks))
	}
	return err
}

func notKnown(networks []string) string {
	return fmt.Sprintf("what %s %s is not known now: the cluster store is not reachable", strings.Join(networks, ", "), numbered(len(networks), "keeps", "keep"))
}

func (c *cli) importRelease() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "release NETWORK [NAME...]", Short: "Give up addresses that are kept", Args: atLeast(1),
		Long:              "Give up addresses that are kept for sandboxes which will not come: from now on anybody may get them",
		Example:           "  weft import release web old1 old2\n  weft import release --all web",
		ValidArgsFunction: c.completeKept,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 1) {
				return usage(cmd, codeFailure, "weft: name those whose addresses are to be released, or give --all for all of the network")
			}
			out, err := call(cmd.Context(), c, (*client).ReleaseKept, &weftv1.ReleaseKeptRequest{Network: args[0], Names: args[1:]})
			if err != nil {
				return err
			}
			for _, name := range out.Released {
				fmt.Fprintln(c.env.Out, name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Release all that the network keeps")
	return cmd
}
