package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) networkCommand() *cobra.Command {
	return group("network", "Manage networks", `  weft network create -d overlay --subnet 10.5.0.0/24 web
  weft network ls
  weft network connect --alias db web pg1`,
		c.networkCreate(), c.networkList(), c.networkInspect(), c.networkRemove(), c.networkPrune(), c.networkConnect(), c.networkDisconnect())
}

func (c *cli) networkCreate() *cobra.Command {
	aux, opts, ipamOpts, labels := pairs{}, pairs{}, pairs{}, pairs{}
	var r weftv1.CreateNetworkRequest
	cmd := &cobra.Command{
		Use: "create [OPTIONS] NETWORK", Short: "Create a network", Args: exactly(1),
		Long: "Create a network: of this host (-d bridge, the default), or one that spans all hosts of the cluster (-d overlay)",
		Example: `  weft network create -d overlay web
  weft network create -d overlay --subnet 10.5.0.0/24 --ip-range 10.5.0.128/25 \
    --aux-address router=10.5.0.2 web`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name, r.AuxAddresses, r.Options, r.IpamOptions, r.Labels = args[0], aux, opts, ipamOpts, labels
			out, err := call(cmd.Context(), c, (*client).CreateNetwork, &r)
			if err != nil {
				return err
			}
			for _, w := range out.Warnings {
				fmt.Fprintln(c.env.Err, "WARNING: "+w)
			}
			_, err = fmt.Fprintln(c.env.Out, out.Id)
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&r.Attachable, "attachable", false, "Accepted as docker's: every weft network is attachable")
	f.Var(addresses{aux}, "aux-address", "Addresses that are never given out (NAME=IP)")
	f.StringVar(&r.ConfigFrom, "config-from", "", "The network from which to copy the configuration")
	f.BoolVar(&r.ConfigOnly, "config-only", false, "Create a configuration only network")
	f.StringVarP(&r.Driver, "driver", "d", "bridge", "Driver of the network: bridge (this host) or overlay (all hosts)")
	f.StringSliceVar(&r.Gateways, "gateway", nil, "IPv4 or IPv6 gateway of a subnet")
	f.BoolVar(&r.Ingress, "ingress", false, "Refused: weft has no swarm mode")
	f.BoolVar(&r.Internal, "internal", false, "No way out of the network, and none in")
	f.StringSliceVar(&r.IpRanges, "ip-range", nil, "Give addresses out of this part of a subnet only")
	f.StringVar(&r.IpamDriver, "ipam-driver", "default", "IP address management driver")
	f.Var(ipamOpts, "ipam-opt", "Options of the IPAM driver")
	f.BoolVar(&r.Ipv6, "ipv6", false, "Enable IPv6 networking")
	f.Var(labels, "label", "Set metadata on the network (KEY=VALUE)")
	f.VarP(opts, "opt", "o", "Options of the driver (KEY=VALUE)")
	f.StringVar(&r.Scope, "scope", "", "Scope of the network: local or global")
	f.StringSliceVar(&r.Subnets, "subnet", nil, "A subnet, as CIDR; may be given several times with -d overlay")
	complete(cmd, "driver", "bridge", "overlay")
	complete(cmd, "scope", "local", "global")
	return cmd
}

func (c *cli) networkList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List networks", Args: exactly(0),
		Example: `  weft network ls
  weft network ls -f driver=overlay --format '{{.Name}}: {{.Label "owner"}}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := call(cmd.Context(), c, (*client).ListNetworks, &weftv1.ListNetworksRequest{Filters: l.filters.list})
			if err != nil {
				return err
			}
			list := table.List{
				Default: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
				Titles:  map[string]string{"ID": "NETWORK ID", "CreatedAt": "CREATED AT"},
			}
			for _, n := range out.Networks {
				list.Rows = append(list.Rows, networkRow(n, &l))
			}
			return l.show(c, list)
		},
	}
	l.add(cmd, "network IDs", "id", "name", "driver", "scope", "type", "label", "dangling")
	return cmd
}

func networkRow(n *weftv1.Network, l *listing) table.Row {
	return table.Row{
		"ID": l.id(n.Id), "Name": n.Name, "Driver": n.Driver, "Scope": n.Scope, "IPv4": fmt.Sprint(n.EnableIpv4), "IPv6": fmt.Sprint(n.EnableIpv6),
		"Internal": fmt.Sprint(n.Internal), "Labels": table.Labels(n.Labels), "CreatedAt": stamp(n.Created),
	}
}

func (c *cli) networkRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm [OPTIONS] NETWORK [NETWORK...]", Aliases: []string{"remove"}, Short: "Remove one or more networks", Args: atLeast(1),
		Example:           "  weft network rm web db",
		ValidArgsFunction: c.completeArgs(-1, c.customNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.each(args, func(name string) error {
				_, err := call(cmd.Context(), c, (*client).RemoveNetwork, &weftv1.RemoveNetworkRequest{Ref: name})
				if force && status.Code(err) == codes.NotFound {
					return nil
				}
				return c.done(name, err)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not fail for a network that does not exist")
	return cmd
}

func (c *cli) networkConnect() *cobra.Command {
	a := weftv1.Attachment{}
	var links, aliases []string
	opts := pairs{}
	cmd := &cobra.Command{
		Use: "connect [OPTIONS] NETWORK TARGET", Short: "Connect a sandbox to a network", Args: exactly(2),
		Long: "Connect a sandbox to a network. One that is stopped joins when it starts.",
		Example: `  weft network connect web c1
  weft network connect --ip 10.5.0.9 --alias db web c1`,
		ValidArgsFunction: c.completeTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			a.Network, a.DriverOptions = args[0], opts
			if err := errors.Join(addAliases(&a, aliases), addLinks(&a, links)); err != nil {
				return err
			}
			_, err := call(cmd.Context(), c, (*client).Connect, &weftv1.ConnectRequest{Target: args[1], Attachment: &a})
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&aliases, "alias", nil, "Another name for the sandbox in this network; NAME,mode=vip gives it one virtual address, balanced over all that have the name")
	f.Var(opts, "driver-opt", "Driver options of the endpoint (KEY=VALUE)")
	f.Int32Var(&a.GwPriority, "gw-priority", 0, "The network with the highest priority has the default route")
	f.StringVar(&a.Ip, "ip", "", "IPv4 address (for example 10.5.0.9)")
	f.StringVar(&a.Ip6, "ip6", "", "IPv6 address (for example 2001:db8::9)")
	f.StringArrayVar(&links, "link", nil, "Give another sandbox a name here (NAME[:ALIAS])")
	f.StringVar(&a.MacAddress, "mac-address", "", "MAC address (for example 92:d0:c6:0a:29:33)")
	foreign{"link-local-ip": notInWeft["link-local-ip"]}.add(cmd, nil)
	return cmd
}

func (c *cli) networkDisconnect() *cobra.Command {
	var force, live bool
	cmd := &cobra.Command{
		Use: "disconnect [OPTIONS] NETWORK TARGET", Short: "Disconnect a sandbox from a network", Args: exactly(2),
		Long: `Disconnect a sandbox from a network, by the sandbox's name or ID. With -f also take away a record whose sandbox or host is gone, from any host, by
name, sandbox ID, endpoint ID or the beginning of one; its host is told when it comes back. weft endpoint ls --stale lists such records.`,
		Example: `  weft network disconnect web c1
  weft network disconnect -f web c1          # also where its host is gone
  weft network disconnect -f --live web c1   # also where another host runs it`,
		ValidArgsFunction: c.completeMember,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := call(cmd.Context(), c, (*client).Disconnect, &weftv1.DisconnectRequest{Network: args[0], Target: args[1], Force: force, Live: live})
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Also remove the record of a sandbox whose host is gone")
	cmd.Flags().BoolVar(&live, "live", false, "With --force: also take out a sandbox of another host that is alive")
	return cmd
}
