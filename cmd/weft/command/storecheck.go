package command

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) storeCheck() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "check [OPTIONS]", Short: "Check that the store holds what it must", Args: exactly(0),
		Long: `Check every rule that the records of the cluster must keep, over the whole store: no two pools overlap; every name, address, VNI and VTEP address
has one owner, whose record exists; endpoints are in networks and of hosts that exist, at addresses of their pools; nothing that was cleared
lives; every record can be read; no partition has a key of no known kind. Each key that breaks a rule is printed as PARTITION/NAME, with what is
wrong and what to do. The cluster may change meanwhile. The exit code is 1 where something was found.`,
		Example: `  weft store check
  weft store check --format '{{.Key}} {{.Rule}}'`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, (*client).CheckStore, &weftv1.CheckStoreRequest{})
			if err != nil {
				return err
			}
			if err := c.showFindings(r, &l); err != nil || len(r.Findings) == 0 {
				return err
			}
			return &fault{code: codeFailure, text: "Error: " + found(len(r.Findings), r.Keys)}
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&l.quiet, "quiet", "q", false, "Only display keys")
	f.StringVar(&l.format, "format", "", "Go template, \"table TEMPLATE\", or \"json\"")
	return cmd
}

func found(n int, keys uint64) string {
	if n == 1 {
		return fmt.Sprintf("one thing is wrong with the store's %s", counted(keys, "key"))
	}
	return fmt.Sprintf("%d things are wrong with the store's %s", n, counted(keys, "key"))
}

// showFindings prints the findings, or the one line of a store without any.
func (c *cli) showFindings(r *weftv1.CheckStoreResponse, l *listing) error {
	list := table.List{Default: "{{.Key}}\t{{.Rule}}\t{{.Wrong}}\t{{.Remedy}}"}
	for _, f := range r.Findings {
		list.Rows = append(list.Rows, table.Row{"Key": f.Key, "Rule": f.Rule, "Wrong": f.Wrong, "Remedy": f.Remedy, "Revision": strconv.FormatUint(f.Revision, 10)})
	}
	switch {
	case l.quiet:
		return list.Write(c.env.Out, "{{.Key}}")
	case l.format != "":
		return list.Write(c.env.Out, l.format)
	case len(r.Findings) == 0:
		_, err := fmt.Fprintf(c.env.Out, "Nothing is wrong: %s in %s at revision %d.\n", counted(r.Keys, "key"), counted(r.Partitions, "partition"), r.Revision)
		return err
	}
	return list.Write(c.env.Out, "{{.Key}}\n    {{.Wrong}}\n    → {{.Remedy}}")
}
