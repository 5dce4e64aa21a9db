package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) networkPrune() *cobra.Command {
	var force bool
	f := filters{keys: []string{"label", "label!", "until"}}
	cmd := &cobra.Command{
		Use: "prune [OPTIONS]", Short: "Remove all networks without endpoints", Args: exactly(0),
		Long: "Remove all networks that have no endpoint on any host, not even a stopped sandbox's",
		Example: `  weft network prune
  weft network prune -f --filter until=24h --filter label=tier=test`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			choose, err := pruneFilter(f.list, time.Now())
			if err != nil {
				return err
			}
			if !force && !c.confirm("WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue? [y/N] ") {
				return nil
			}
			return c.prune(cmd.Context(), f.list, choose)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not ask")
	cmd.Flags().Var(&f, "filter", "Only remove some (until=DURATION|TIME, label=KEY[=VALUE], label!=KEY[=VALUE])")
	return cmd
}

// prune leaves the decision whether a network is in use to the agent, twice: in the list, and with each removal.
func (c *cli) prune(ctx context.Context, asked []*weftv1.Filter, choose func(*weftv1.Network) bool) error {
	r := &weftv1.ListNetworksRequest{Filters: []*weftv1.Filter{{Key: "dangling", Value: "true"}, {Key: "type", Value: "custom"}}}
	for _, f := range asked {
		if f.Key == "label" {
			r.Filters = append(r.Filters, f)
		}
	}
	out, err := call(ctx, c, (*client).ListNetworks, r)
	if err != nil {
		return err
	}
	if err := c.sayUnknown(ctx); err != nil {
		return err
	}
	var ids []string
	names := map[string]string{}
	for _, n := range out.Networks {
		if choose(n) {
			ids, names[n.Id] = append(ids, n.Id), n.Name
		}
	}
	var deleted []string
	err = c.each(ids, func(id string) error {
		_, err := call(ctx, c, (*client).RemoveNetwork, &weftv1.RemoveNetworkRequest{Ref: id})
		if err == nil {
			deleted = append(deleted, names[id])
		}
		return err
	})
	if len(deleted) > 0 {
		_, writeErr := fmt.Fprintf(c.env.Out, "Deleted Networks:\n%s\n\n", strings.Join(deleted, "\n"))
		err = errors.Join(err, writeErr)
	}
	return err
}

// sayUnknown names the networks that are left alone because nobody can tell now whether they are used.
func (c *cli) sayUnknown(ctx context.Context) error {
	out, err := call(ctx, c, (*client).ListEndpoints, &weftv1.ListEndpointsRequest{})
	if err == nil && len(out.UnknownNetworks) > 0 {
		fmt.Fprintf(c.env.Err, "WARNING: %s: not looked at, since the cluster store is not reachable\n", strings.Join(out.UnknownNetworks, ", "))
	}
	return err
}

// pruneFilter is the part of the filters that the agent does not know.
func pruneFilter(fs []*weftv1.Filter, now time.Time) (func(*weftv1.Network) bool, error) {
	before := time.Time{}
	without := []*weftv1.Filter{}
	for _, f := range fs {
		switch f.Key {
		case "label":
		case "label!":
			without = append(without, f)
		case "until":
			t, err := parseUntil(f.Value, now)
			if err != nil {
				return nil, err
			}
			before = t
		default:
			return nil, fmt.Errorf("invalid filter '%s': prune takes label, label! and until", f.Key)
		}
	}
	return func(n *weftv1.Network) bool {
		for _, f := range without {
			k, v, hasValue := strings.Cut(f.Value, "=")
			if have, ok := n.Labels[k]; ok && (!hasValue || have == v) {
				return false
			}
		}
		return before.IsZero() || n.Created != nil && n.Created.AsTime().Before(before)
	}, nil
}

// parseUntil reads a duration before now, seconds since 1970, or a time.
func parseUntil(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("invalid filter: 'until'='%s': it is a duration (24h), a time (2026-01-02T15:04:05) or seconds since 1970", s)
}

// confirm asks on stdout and reads stdin. The end of stdin is a no. What is said after a no begins on a line of its own: only a terminal
// shows the end of an answer's line.
func (c *cli) confirm(question string) bool {
	fmt.Fprint(c.env.Out, question)
	line, err := bufio.NewReader(c.env.In).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	if (err == nil || errors.Is(err, io.EOF)) && (answer == "y" || answer == "yes") {
		return true
	}
	if _, shown := terminal(c.env.In); !shown || err != nil {
		fmt.Fprintln(c.env.Out)
	}
	return false
}
