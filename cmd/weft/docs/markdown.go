package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// markdown describes a command and all below it on one page.
func markdown(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(`# The commands of weft

This page is made from the commands themselves (` + "`make generate`" + `); ` + "`weft COMMAND --help`" + ` and ` + "`man weft-COMMAND`" + ` say the same.
Where Docker has a command or an option of the same name, it means the same.

| command | |
|---|---|
`)
	for _, cmd := range below(root) {
		if cmd.Runnable() && !cmd.HasAvailableSubCommands() {
			fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", cmd.CommandPath(), strings.ReplaceAll(cmd.CommandPath(), " ", "-"), cell(cmd.Short))
		}
	}
	b.WriteString("\nEvery command takes:\n\n")
	options(&b, root.PersistentFlags())
	for _, cmd := range below(root) {
		describe(&b, cmd)
	}
	return b.String()
}

// below lists the commands under cmd that are shown to users, each before those below it.
func below(cmd *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			out = append(append(out, sub), below(sub)...)
		}
	}
	return out
}

func describe(b *strings.Builder, cmd *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n", cmd.CommandPath())
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	b.WriteString(text + "\n")
	if cmd.HasAvailableSubCommands() {
		return // its examples are those of the commands below it
	}
	fmt.Fprintf(b, "\n    %s\n", cmd.UseLine())
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(b, "\nAlso: `%s`\n", strings.Join(cmd.Aliases, "`, `"))
	}
	if cmd.HasExample() {
		b.WriteString("\nFor example:\n\n")
		for line := range strings.Lines(cmd.Example) {
			b.WriteString("  " + strings.TrimRight(line, "\n") + "\n")
		}
	}
	if cmd.HasAvailableLocalFlags() {
		b.WriteString("\n")
		options(b, cmd.LocalFlags())
	}
}

func options(b *strings.Builder, flags *pflag.FlagSet) {
	b.WriteString("| option | default | |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, text := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + "`, `" + name
		}
		if kind != "" {
			name += " " + strings.ToUpper(kind)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, value(f), cell(text))
	})
}

// value is a flag's default where it says something.
func value(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "[]", "0", "0s":
		return ""
	}
	return "`" + f.DefValue + "`"
}

// cell makes text fit a cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(text)
}
