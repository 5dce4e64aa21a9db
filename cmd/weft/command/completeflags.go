package command

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/agent/event"
	"weft/agent/registry"
	weftv1 "weft/proto/weft/v1"
)

// What TAB offers for the values of options, by their names: these mean the same wherever they are.

// fileFlags take the name of a file, which the shell knows best.
var fileFlags = map[string]bool{"env-file": true, "output": true, "input": true}

// completeAll gives every option of root and below it, and every command that has none yet, what TAB is to offer: at the least not files.
func (c *cli) completeAll(root *cobra.Command) {
	named := c.valuesByFlag()
	visit(root, func(cmd *cobra.Command) {
		if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if _, has := cmd.GetFlagCompletionFunc(f.Name); has || f.NoOptDefVal != "" || fileFlags[f.Name] {
				return
			}
			if v, isFilter := f.Value.(*filters); isFilter {
				completeWith(cmd, f.Name, c.completeFilter(v.keys))
				return
			}
			if values := named[f.Name]; values != nil {
				completeWith(cmd, f.Name, values)
				return
			}
			completeWith(cmd, f.Name, cobra.NoFileCompletions)
		})
	})
}

func visit(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		visit(sub, f)
	}
}

func (c *cli) valuesByFlag() map[string]completer {
	return map[string]completer{
		"network":     c.live(func(ctx context.Context) []string { return append(c.networkNames(ctx), "host", "none") }),
		"link":        c.live(func(ctx context.Context) []string { return c.sandboxNames(ctx, true) }),
		"config-from": c.live(c.configNames),
		"ipam-driver": c.live(func(context.Context) []string { return ipamDrivers() }),
		"opt":         completeOptions,
		"format":      completeFormat,
		"signal": cobra.FixedCompletions([]cobra.Completion{"TERM", "KILL", "HUP", "INT", "QUIT", "USR1", "USR2", "STOP", "CONT"},
			cobra.ShellCompDirectiveNoFileComp),
		"host": cobra.FixedCompletions([]cobra.Completion{"unix://"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace),
	}
}

// live offers names that are asked for now.
func (c *cli) live(names func(context.Context) []string) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		return names(ctx), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeOptions offers the options of the driver that the command line names.
func completeOptions(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	driver, _ := cmd.Flags().GetString("driver") // its default where there is none
	var out []cobra.Completion
	for _, k := range registry.OptionNames(driver) {
		out = append(out, k+"=")
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// placeholders of the lists, by command.
var placeholders = map[string][]string{
	"weft network ls":  {"ID", "Name", "Driver", "Scope", "IPv4", "IPv6", "Internal", "Labels", "CreatedAt"},
	"weft ps":          {"ID", "Names", "Command", "CreatedAt", "RunningFor", "Status", "State", "Networks", "Ports", "Labels"},
	"weft endpoint ls": {"ID", "Name", "Network", "Address", "Host", "State", "Why"},
	"weft host ls":     {"ID", "Name", "Advertise", "State", "Version"},
	"weft events":      {"Type", "Action", "Actor.ID", "Time", "TimeNano"},
	"weft import ls":   {"Network", "Name", "Address", "Host"},
}

// completeFormat offers the forms of a format, and the placeholders of the command's list.
func completeFormat(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	out := []cobra.Completion{"json", "{{json .}}"}
	fields, isList := placeholders[cmd.CommandPath()]
	if isList {
		out = append(out, "table")
	}
	for _, f := range fields {
		out = append(out, "{{."+f+"}}")
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeFilter offers the keys of a filter, and after a key its values.
func (c *cli) completeFilter(keys []string) completer {
	return func(cmd *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		key, _, chosen := strings.Cut(toComplete, "=")
		if !chosen {
			out := make([]cobra.Completion, 0, len(keys))
			for _, k := range keys {
				out = append(out, k+"=")
			}
			return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		var out []cobra.Completion
		for _, v := range c.filterValues(ctx, cmd, key) {
			out = append(out, key+"="+v)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func (c *cli) filterValues(ctx context.Context, cmd *cobra.Command, key string) []string {
	switch key {
	case "driver":
		return []string{"bridge", "host", "null", "overlay"}
	case "scope":
		return []string{"local", "global"}
	case "type":
		if cmd.CommandPath() == "weft events" {
			return event.Types
		}
		return []string{"custom", "builtin"}
	case "event":
		return event.Actions
	case "dangling":
		return []string{"true", "false"}
	case "status":
		return []string{"created", "running", "restarting", "exited"}
	case "state":
		return []string{"running", "stopped", "detached", "lost", "unknown"}
	case "network":
		return c.networkNames(ctx)
	case "host":
		return c.hostNames(ctx)
	case "sandbox", "container", "before", "since":
		return c.sandboxNames(ctx, true)
	case "name":
		if strings.HasPrefix(cmd.CommandPath(), "weft network") {
			return c.networkNames(ctx)
		}
		return c.sandboxNames(ctx, true)
	}
	return nil
}

func (c *cli) hostNames(ctx context.Context) []string {
	return c.hostsThat(ctx, func(*weftv1.Host) bool { return true })
}

func (c *cli) hostsThat(ctx context.Context, is func(*weftv1.Host) bool) []string {
	r, err := call(ctx, c, (*client).ListHosts, &weftv1.ListHostsRequest{})
	if err != nil {
		return nil
	}
	var out []string
	for _, h := range r.Hosts {
		if is(h) {
			out = append(out, h.Name)
		}
	}
	return out
}

// customNames are the networks that users have made; config, of those, the ones that hold settings.
func (c *cli) customNames(ctx context.Context) []string { return c.networksThat(ctx, isCustom) }
func (c *cli) configNames(ctx context.Context) []string {
	return c.networksThat(ctx, (*weftv1.Network).GetConfigOnly)
}

func isCustom(n *weftv1.Network) bool { return !n.Builtin }

func (c *cli) networksThat(ctx context.Context, is func(*weftv1.Network) bool) []string {
	r, err := call(ctx, c, (*client).ListNetworks, &weftv1.ListNetworksRequest{})
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range r.Networks {
		if is(n) {
			out = append(out, n.Name)
		}
	}
	return out
}

// members are the sandboxes that have an endpoint in a network.
func (c *cli) members(ctx context.Context, network string) []string {
	r, err := call(ctx, c, (*client).InspectNetwork, &weftv1.InspectNetworkRequest{Ref: network})
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range r.Endpoints {
		out = append(out, e.Name)
	}
	return out
}

// keptNames are those for whom a network keeps addresses.
func (c *cli) keptNames(ctx context.Context, network string) []string {
	r, err := call(ctx, c, (*client).ListKept, &weftv1.ListKeptRequest{Network: network})
	if err != nil {
		return nil
	}
	var out []string
	for _, k := range r.Kept {
		if !slices.Contains(out, k.Name) {
			out = append(out, k.Name)
		}
	}
	return out
}

// ipamDrivers are weft's own and the plugins that are there now.
func ipamDrivers() []string {
	out := []string{"default"}
	for _, pattern := range []string{"/run/docker/plugins/*.sock", "/etc/docker/plugins/*.spec", "/etc/docker/plugins/*.json", "/usr/lib/docker/plugins/*.spec", "/usr/lib/docker/plugins/*.json"} {
		found, _ := filepath.Glob(pattern) // the patterns are good ones
		for _, f := range found {
			base := filepath.Base(f)
			out = append(out, strings.TrimSuffix(base, filepath.Ext(base)))
		}
	}
	return out
}

// completeTarget offers networks, and then what can be connected: sandboxes that are not in it, and namespaces that others made.
func (c *cli) completeTarget(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none, more = cobra.ShellCompDirectiveNoFileComp, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	switch {
	case len(args) == 0:
		return c.networkNames(ctx), none
	case len(args) > 1:
		return nil, none
	case strings.HasPrefix(toComplete, "netns:"):
		found, _ := filepath.Glob("/run/netns/*") // the pattern is a good one
		for i := range found {
			found[i] = "netns:" + found[i]
		}
		return found, none
	}
	in := c.members(ctx, args[0])
	names := slices.DeleteFunc(c.sandboxNames(ctx, true), func(s string) bool { return slices.Contains(in, s) })
	for _, kind := range []string{"docker:", "netns:", "pid:"} {
		if toComplete != "" && strings.HasPrefix(kind, toComplete) {
			return append(names, kind), more
		}
	}
	return names, none
}

// completeMember offers networks, and then who is in it.
func (c *cli) completeMember(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return c.afterNetwork(cmd, args, 2, c.members)
}

// completeKept offers networks, and then those for whom it keeps addresses.
func (c *cli) completeKept(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return c.afterNetwork(cmd, args, -1, c.keptNames)
}

// afterNetwork offers networks as the first argument, and what goes with it as the others, of which there are at most most-1 (-1: any number).
func (c *cli) afterNetwork(cmd *cobra.Command, args []string, most int, names func(context.Context, string) []string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	switch {
	case len(args) == 0:
		return c.networkNames(ctx), cobra.ShellCompDirectiveNoFileComp
	case most >= 0 && len(args) >= most:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	out := slices.DeleteFunc(names(ctx, args[0]), func(s string) bool { return slices.Contains(args[1:], s) })
	return out, cobra.ShellCompDirectiveNoFileComp
}
