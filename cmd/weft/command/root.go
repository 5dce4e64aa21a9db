// Package command is the weft command line: it turns words into calls of the agent's admin API and answers into lines, tables and exit
// codes. Names, flags, texts and codes are docker's where docker has them. It decides nothing about networks; the agent does.
package command

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/agent/about"
)

// Environment is what a command line has of the world around it.
type Environment struct {
	In       io.Reader
	Out, Err io.Writer
	// Lookup reads an environment variable.
	Lookup func(key string) (value string, ok bool)
}

// cli is one run of the command.
type cli struct {
	env  Environment
	host string        // -H
	once *client       // made when it is first needed
	give time.Duration // how long a lost agent may take to come back
}

// reconnectFor is how long a foreground command waits for an agent that went away: an upgrade takes a second or two.
const reconnectFor = 30 * time.Second

// Run does what args ask for and returns the exit code. Errors have been printed to env.Err.
func Run(ctx context.Context, args []string, env Environment) int {
	c := &cli{env: env, give: reconnectFor}
	return c.run(ctx, args)
}

func (c *cli) run(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(args)
	root.SetIn(c.env.In)
	root.SetOut(c.env.Out)
	root.SetErr(c.env.Err)
	err := root.ExecuteContext(ctx)
	if c.once != nil {
		c.once.close()
	}
	return report(c.env.Err, err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "weft [OPTIONS] COMMAND",
		Short: "Networks that span hosts, for containers and plain processes",
		Example: `  weft network create -d overlay web
  weft run -d --name db --network web -- postgres -D /srv/db
  weft run --rm --network web -- curl http://db:5432`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Version:           about.Version,
		Args:              unknownCommand,
		RunE:              showHelp,
	}
	root.SetVersionTemplate("weft version {{.Version}}\n")
	root.PersistentFlags().StringVarP(&c.host, "host", "H", "", "Socket of the agent (default $WEFT_HOST, then "+defaultHost+")")
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpFunc(help)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		c.networkCommand(), c.endpointCommand(), c.hostCommand(), c.clusterCommand(), c.storeCommand(), c.doctorCommand(), c.backupCommand(), c.restoreCommand(), c.importCommand(),
		c.runCommand(), c.execCommand(), c.attachCommand(), c.logsCommand(), c.psCommand(), c.inspectCommand(),
		c.portCommand(), c.stopCommand(), c.startCommand(), c.restartCommand(), c.killCommand(), c.waitCommand(), c.renameCommand(), c.removeCommand(),
		c.eventsCommand(), c.versionCommand(), completionCommand(), c.demoCommand(),
	)
	plainUseLines(root)
	c.completeAll(root)
	return root
}

// plainUseLines leaves the word for options to each command's Use, which has docker's.
func plainUseLines(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	for _, sub := range cmd.Commands() {
		plainUseLines(sub)
	}
}

const usageTemplate = `Usage:  {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}
{{if .Aliases}}
Aliases:
  {{.NameAndAliases}}
{{end}}{{if .HasExample}}
Examples:
{{.Example}}
{{end}}{{if .HasAvailableSubCommands}}
Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
Options:
{{.LocalFlags.FlagUsagesWrapped 80 | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableInheritedFlags}}
Global Options:
{{.InheritedFlags.FlagUsagesWrapped 80 | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableSubCommands}}
Run '{{.CommandPath}} COMMAND --help' for more information on a command.
{{end}}`

func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// group is a command that only has commands.
func group(use, short, example string, sub ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Example: example, Args: unknownCommand, RunE: showHelp}
	g.AddCommand(sub...)
	return g
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	text := "weft: '" + strings.TrimPrefix(cmd.CommandPath()+" "+args[0], "weft ") + "' is not a weft command."
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		text += "\nDid you mean: " + strings.Join(s, ", ") + "?"
	}
	return usage(cmd, codeFailure, "%s", text)
}

// exactly, atLeast and between are docker's words on the number of arguments.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == n:
			return nil
		case n == 0:
			return usage(cmd, codeFailure, "%q accepts no arguments.", cmd.CommandPath())
		}
		return usage(cmd, codeFailure, "%q requires exactly %d %s.", cmd.CommandPath(), n, plural("argument", n))
	}
}

func atLeast(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return usage(cmd, codeFailure, "%q requires at least %d %s.", cmd.CommandPath(), n, plural("argument", n))
	}
}

func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if least <= len(args) && len(args) <= most {
			return nil
		}
		return usage(cmd, codeFailure, "%q requires at least %d and at most %d %s.", cmd.CommandPath(), least, most, plural("argument", most))
	}
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// counted is a number of things in words.
func counted[N int | uint32 | uint64](n N, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
