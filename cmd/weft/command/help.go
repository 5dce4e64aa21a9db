package command

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// helpWidth is how wide help is at most, in columns: a terminal as it opens.
const helpWidth = 80

// Tree returns all commands, for those who describe them. None of them can be run: there is no world around it.
func Tree() *cobra.Command {
	root := (&cli{}).root()
	root.InitDefaultVersionFlag()
	return root
}

// help is docker's: the usage first, and what a command does last, next to the prompt.
func help(cmd *cobra.Command, _ []string) {
	out := cmd.OutOrStdout()
	fmt.Fprint(out, cmd.UsageString())
	if cmd.HasAvailableSubCommands() {
		return
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	fmt.Fprintf(out, "\n%s\n", Wrap(text, helpWidth))
}

// Wrap breaks text into lines of at most width columns. Empty lines, and lines that are indented, stay as they are.
func Wrap(text string, width int) string {
	var out, words []string
	flush := func() {
		line, n := "", 0
		for _, w := range words {
			if n > 0 && n+1+utf8.RuneCountInString(w) > width {
				out, line, n = append(out, line), "", 0
			}
			if n > 0 {
				line += " "
			}
			line += w
			n = utf8.RuneCountInString(line)
		}
		if n > 0 {
			out = append(out, line)
		}
		words = nil
	}
	for _, line := range strings.Split(text, "\n") {
		if line == "" || line[0] == ' ' {
			flush()
			out = append(out, line)
			continue
		}
		words = append(words, strings.Fields(line)...)
	}
	flush()
	return strings.Join(out, "\n")
}
