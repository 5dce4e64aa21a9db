package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) endpointCommand() *cobra.Command {
	return group("endpoint", "Look at the endpoints of all hosts", "  weft endpoint ls -f network=web\n  weft endpoint ls --stale", c.endpointList())
}

func (c *cli) endpointList() *cobra.Command {
	var l listing
	var stale bool
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List endpoints", Args: exactly(0),
		Long: `List the endpoints that sandboxes and containers have in networks, on all hosts. With --stale only those whose sandbox or host is gone, after
their hosts were asked: they go by themselves, and at once with weft network disconnect -f NETWORK NAME.`,
		Example: `  weft endpoint ls
  weft endpoint ls -f network=web --format '{{.Name}} {{.Address}}'
  weft endpoint ls --stale`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := call(cmd.Context(), c, (*client).ListEndpoints, &weftv1.ListEndpointsRequest{Filters: l.filters.list, Stale: stale})
			if err != nil {
				return err
			}
			list := table.List{
				Default: "{{.ID}}\t{{.Name}}\t{{.Network}}\t{{.Host}}\t{{.Address}}\t{{.State}}",
				Titles:  map[string]string{"ID": "ENDPOINT ID", "SandboxID": "SANDBOX ID", "MacAddress": "MAC ADDRESS"},
			}
			if stale {
				list.Default = "{{.ID}}\t{{.Name}}\t{{.Network}}\t{{.Host}}\t{{.Why}}"
			}
			for _, e := range out.Endpoints {
				list.Rows = append(list.Rows, endpointRow(e, &l))
			}
			if err := l.show(c, list); err != nil {
				return err
			}
			c.warnUnknown(out.UnknownNetworks)
			return nil
		},
	}
	l.add(cmd, "endpoint IDs", "id", "name", "network", "host", "sandbox", "state")
	cmd.Flags().BoolVar(&stale, "stale", false, "Only those whose sandbox or host is gone, and why")
	return cmd
}

// warnUnknown says of which networks the endpoints are not among those that were shown.
func (c *cli) warnUnknown(networks []string) {
	if len(networks) > 0 {
		fmt.Fprintf(c.env.Err, "WARNING: the endpoints of %s are not known now: the cluster store is not reachable\n", strings.Join(networks, ", "))
	}
}

func endpointRow(e *weftv1.Endpoint, l *listing) table.Row {
	addrs := make([]string, 0, len(e.Addresses))
	for _, a := range e.Addresses {
		addr, _, _ := strings.Cut(a, "/")
		addrs = append(addrs, addr)
	}
	host, network := e.Host, e.NetworkName
	if host == "" {
		host = l.id(e.HostId)
	}
	if network == "" {
		network = l.id(e.NetworkId)
	}
	return table.Row{
		"ID": l.id(e.Id), "Name": e.Name, "Network": network, "Host": host, "Address": strings.Join(addrs, ","), "State": e.State,
		"SandboxID": l.id(e.SandboxId), "MacAddress": e.MacAddress, "Aliases": strings.Join(e.Aliases, ","), "Hostname": e.Hostname,
		"Why": e.Stale,
	}
}
