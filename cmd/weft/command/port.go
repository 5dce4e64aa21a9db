package command

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) portCommand() *cobra.Command {
	return &cobra.Command{
		Use: "port SANDBOX [PRIVATE_PORT[/PROTO]]", Short: "List the published ports of a sandbox, or one of them", Args: between(1, 2),
		Example: `  weft port web
  weft port web 80/tcp`,
		ValidArgsFunction: c.completeSandboxes(1, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, (*client).InspectSandbox, &weftv1.InspectSandboxRequest{Ref: args[0]})
			if err != nil {
				return err
			}
			lines, err := portLines(r.Sandbox, args)
			if err != nil || len(lines) == 0 {
				return err
			}
			_, err = fmt.Fprintln(c.env.Out, strings.Join(lines, "\n"))
			return err
		},
	}
}

// portLines are the lines of docker port: of all ports, or of the one that the second argument names.
func portLines(s *weftv1.Sandbox, args []string) ([]string, error) {
	bs := slices.Clone(s.Published)
	slices.SortFunc(bs, func(a, b *weftv1.PortBinding) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.HostIp, b.HostIp), cmp.Compare(a.HostPort, b.HostPort))
	})
	if len(args) < 2 {
		var out []string
		for _, b := range bs {
			out = append(out, portKey(b.Port, b.Protocol)+" -> "+hostEnd(b))
		}
		return out, nil
	}
	port, proto, _ := strings.Cut(args[1], "/")
	proto = cmp.Or(proto, "tcp")
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		var why *strconv.NumError
		errors.As(err, &why)
		return nil, fmt.Errorf("invalid port (%s): %w", port, why.Err)
	}
	var out []string
	for _, b := range bs {
		if fmt.Sprint(b.Port) == port && b.Protocol == proto {
			out = append(out, hostEnd(b))
		}
	}
	if len(out) == 0 {
		//lint:ignore ST1005 docker's words
		return nil, fmt.Errorf("No public port '%s' published for %s", args[1], args[0])
	}
	return out, nil
}

func hostEnd(b *weftv1.PortBinding) string { return net.JoinHostPort(b.HostIp, fmt.Sprint(b.HostPort)) }
