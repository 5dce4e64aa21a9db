package command

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	weftv1 "weft/proto/weft/v1"
)

// completeTimeout is how long a shell may wait for names after TAB.
const completeTimeout = 2 * time.Second

type completer = func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective)

// complete gives a flag's value a fixed choice.
func complete(cmd *cobra.Command, flag string, values ...string) {
	completeWith(cmd, flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func completeWith(cmd *cobra.Command, flag string, f completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(fmt.Sprintf("complete --%s of %s: %v", flag, cmd.Name(), err)) // a flag that this program itself does not have
	}
}

// completeNetworks completes the first n arguments (-1: all) with the names of networks.
func (c *cli) completeNetworks(n int) completer {
	return c.completeArgs(n, c.networkNames)
}

// completeSandboxes completes the first n arguments (-1: all) with the names of sandboxes.
func (c *cli) completeSandboxes(n int, all bool) completer {
	return c.completeArgs(n, func(ctx context.Context) []string { return c.sandboxNames(ctx, all) })
}

func (c *cli) completeArgs(n int, names func(context.Context) []string) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if n >= 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		out := slices.DeleteFunc(names(ctx), func(s string) bool { return slices.Contains(args, s) })
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// An agent that does not answer has no names to offer; a shell's completion is no place to say why.

func (c *cli) networkNames(ctx context.Context) []string {
	r, err := call(ctx, c, (*client).ListNetworks, &weftv1.ListNetworksRequest{})
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range r.Networks {
		out = append(out, n.Name)
	}
	return out
}

func (c *cli) sandboxNames(ctx context.Context, all bool) []string {
	r, err := call(ctx, c, (*client).ListSandboxes, &weftv1.ListSandboxesRequest{All: all})
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range r.Sandboxes {
		out = append(out, s.Name)
	}
	return out
}

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "Print a shell's completion script", Args: exactly(1),
		Example: `  source <(weft completion bash)
  weft completion fish > ~/.config/fish/completions/weft.fish`,
		ValidArgsFunction: cobra.FixedCompletions([]cobra.Completion{"bash", "zsh", "fish"}, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return usage(cmd, codeFailure, "weft: there is no completion for the shell %q: it is bash, zsh or fish", args[0])
		},
	}
}
