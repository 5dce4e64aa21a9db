package command

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) clusterCommand() *cobra.Command {
	return group("cluster", "Let hosts join the cluster", "  weft cluster token", c.clusterToken())
}

// peerPort is weftd's where --cluster-advertise names no other.
const peerPort = 2376

func (c *cli) clusterToken() *cobra.Command {
	var ttl time.Duration
	var whole bool
	var format string
	cmd := &cobra.Command{
		Use: "token [OPTIONS]", Short: "Make a token with which hosts can join", Args: exactly(0),
		Long: `Make a token with which hosts can join the cluster: weftd --join HOST --token TOKEN gets the host a certificate by which the
others know it. It is made on the host that has the cluster's authority, which is the first one of the cluster, and any number of hosts
can use it until it expires. It is a secret: who has it can become a host of the cluster.`,
		Example: `  weft cluster token --ttl 1h
  weft cluster token --command
  weft cluster token | ssh beta 'cat >/etc/weft/token'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, (*client).CreateToken, &weftv1.CreateTokenRequest{Ttl: durationpb.New(ttl)})
			if err != nil {
				return err
			}
			line := "weftd --join " + joinAt(r.Join) + " --token " + r.Token
			switch {
			case format != "":
				row := table.Row{"Token": r.Token, "ExpiresAt": stamp(r.Expires), "Join": r.Join, "Command": line}
				return table.List{Default: "{{.Token}}", Rows: []table.Row{row}}.Write(c.env.Out, format)
			case whole:
				_, err = fmt.Fprintln(c.env.Out, line)
			default:
				_, err = fmt.Fprintln(c.env.Out, r.Token)
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "How long it lets hosts in")
	cmd.Flags().BoolVar(&whole, "command", false, "Print the whole command for the next host")
	cmd.Flags().StringVar(&format, "format", "", "Go template, or \"json\"")
	return cmd
}

// joinAt leaves the usual port out.
func joinAt(addr string) string {
	if host, port, err := net.SplitHostPort(addr); err == nil && port == strconv.Itoa(peerPort) {
		return host
	}
	return addr
}
