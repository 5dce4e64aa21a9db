package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) hostCommand() *cobra.Command {
	return group("host", "Look after the hosts of the cluster", "  weft host ls\n  weft host inspect h2\n  weft host rm h2", c.hostList(), c.hostInspect(), c.hostRemove())
}

func (c *cli) hostList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List hosts", Args: exactly(0),
		Long: `List the hosts of the cluster. This host is marked with *; what hosts have to say stands below the table. A host is alive, detached (its
session with the store has ended, and it answers), lost (it does not answer either), or unknown (the store is away from here).`,
		Example: `  weft host ls
  weft host ls --format '{{.Name}} {{.State}} {{.Notes}}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := call(cmd.Context(), c, (*client).ListHosts, &weftv1.ListHostsRequest{})
			if err != nil {
				return err
			}
			list := table.List{
				Default: "{{.ID}}{{.Self}}\t{{.Name}}\t{{.Advertise}}\t{{.VTEP}}\t{{.State}}\t{{.Version}}",
				Titles:  map[string]string{"ID": "HOST ID", "Self": ""},
			}
			for _, h := range out.Hosts {
				list.Rows = append(list.Rows, hostRow(h, &l))
			}
			if err := l.show(c, list); err != nil || l.quiet || l.format != "" {
				return err
			}
			return c.notes(out.Hosts)
		},
	}
	l.add(cmd, "host IDs")
	return cmd
}

func (c *cli) hostInspect() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] [HOST...]", Short: "Display detailed information on one or more hosts", Args: atLeast(0),
		Long: `Display detailed information on hosts, by name, ID or the beginning of one; without any, on this one: how it reaches the others, its endpoints, the
routes that it has told the cluster of, the certificate that it shows now, and what it has to say.`,
		Example: `  weft host inspect
  weft host inspect -f '{{range .Paths}}{{.Host}} {{.State}}; {{end}}' h2`,
		ValidArgsFunction: c.completeArgs(-1, c.hostNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{""}
			}
			return c.inspect(args, format, func(ref string) (any, error) {
				r, err := call(cmd.Context(), c, (*client).InspectHost, &weftv1.InspectHostRequest{Ref: ref})
				if err != nil {
					return nil, err
				}
				c.warnUnknown(r.UnknownNetworks)
				return hostView(r), nil
			})
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Go template")
	return cmd
}

// removeTimeout is for the removal of one host: its endpoints go one by one, and there may be thousands.
const removeTimeout = 10 * time.Minute

func (c *cli) hostRemove() *cobra.Command {
	var live bool
	cmd := &cobra.Command{
		Use: "rm [OPTIONS] HOST [HOST...]", Aliases: []string{"remove"}, Short: "Remove one or more hosts that are gone", Args: atLeast(1),
		Long: `Take hosts that are gone out of the cluster, by name, ID or the beginning of one, from any host: their endpoints are cleared, their names and addresses
are free, and their certificates are not accepted any more. One that is alive or detached is refused without --live. A host that was removed
and comes back finds its sandboxes without these endpoints, and needs a token to join again.`,
		Example: `  weft host rm h2
  weft host rm --live h3   # also while it runs`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.each(args, func(ref string) error {
				_, err := callWithin(cmd.Context(), c, removeTimeout, (*client).RemoveHost, &weftv1.RemoveHostRequest{Ref: ref, Live: live})
				return c.done(ref, err)
			})
		},
	}
	cmd.ValidArgsFunction = c.completeArgs(-1, func(ctx context.Context) []string {
		return c.hostsThat(ctx, func(h *weftv1.Host) bool { return !h.Self && (live || h.State == "lost") })
	})
	cmd.Flags().BoolVar(&live, "live", false, "Also a host that is alive")
	foreign{"force": "a host that is alive is removed with --live"}.add(cmd, map[string]string{"force": "f"}, "force")
	return cmd
}

func hostRow(h *weftv1.Host, l *listing) table.Row {
	self := ""
	if h.Self {
		self = " *"
	}
	return table.Row{
		"ID": l.id(h.Id), "Self": self, "Name": h.Name, "Advertise": h.Advertise, "VTEP": h.Vtep, "State": h.State, "Version": h.Version,
		"Incarnation": fmt.Sprint(h.Incarnation), "MTU": fmt.Sprint(h.Mtu), "StartedAt": stamp(h.Started), "Notes": strings.Join(h.Notes, "; "),
	}
}

func (c *cli) notes(hosts []*weftv1.Host) error {
	var b strings.Builder
	for _, h := range hosts {
		for _, n := range h.Notes {
			fmt.Fprintf(&b, "%s: %s\n", h.Name, n)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	_, err := fmt.Fprint(c.env.Out, "\n"+b.String())
	return err
}
