package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) endpointCommand() *cobra.Command {
	return group("endpoint", "Look at the endpoints of all hosts", "  weft endpoint ls -f network=web", c.endpointList())
}

func (c *cli) endpointList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List endpoints", Args: exactly(0),
		Long: "List the endpoints that sandboxes and containers have in networks, on all hosts",
		Example: `  weft endpoint ls
  weft endpoint ls -f network=web --format '{{.Name}} {{.Address}}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := call(cmd.Context(), c, (*client).ListEndpoints, &weftv1.ListEndpointsRequest{Filters: l.filters.list})
			if err != nil {
				return err
			}
			list := table.List{
				Default: "{{.ID}}\t{{.Name}}\t{{.Network}}\t{{.Host}}\t{{.Address}}\t{{.State}}",
				Titles:  map[string]string{"ID": "ENDPOINT ID", "SandboxID": "SANDBOX ID", "MacAddress": "MAC ADDRESS"},
			}
			for _, e := range out.Endpoints {
				list.Rows = append(list.Rows, endpointRow(e, &l))
			}
			if err := l.show(c, list); err != nil {
				return err
			}
			if len(out.UnknownNetworks) > 0 {
				fmt.Fprintf(c.env.Err, "WARNING: the endpoints of %s are not known now: the cluster store is not reachable\n", strings.Join(out.UnknownNetworks, ", "))
			}
			return nil
		},
	}
	l.add(cmd, "endpoint IDs", "id", "name", "network", "host", "sandbox", "state")
	foreign{"stale": "records that nobody owns are cleared by the agents; a single one goes with `weft network disconnect -f NETWORK NAME`"}.add(cmd, nil, "stale")
	return cmd
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
	}
}

func (c *cli) hostCommand() *cobra.Command {
	return group("host", "Look at the hosts of the cluster", "  weft host ls", c.hostList())
}

func (c *cli) hostList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List hosts", Args: exactly(0),
		Long: "List the hosts of the cluster. This host is marked with *; what hosts have to say stands below the table.",
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
