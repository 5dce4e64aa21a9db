package command

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	if cmd.Hidden {
		return
	}
	visit(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, visit)
	}
}

// What a person reads who asks for help: an example that uses the command, words for each option, and lines that fit a terminal.
func TestEveryCommandHelps(t *testing.T) {
	seen := 0
	walk(Tree(), func(cmd *cobra.Command) {
		seen++
		path := cmd.CommandPath()
		last := path[strings.LastIndex(path, " ")+1:]
		if !strings.Contains(cmd.Example, "weft") || !strings.Contains(cmd.Example, last) {
			t.Errorf("%s: the example %q does not use it", path, cmd.Example)
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || utf8.RuneCountInString(cmd.Short) > 60 {
			t.Errorf("%s: the short text %q is to be a few words, without a full stop", path, cmd.Short)
		}
		for line := range strings.Lines(cmd.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the line %q of the example is not indented by two spaces", path, line)
			}
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" && !f.Hidden {
				t.Errorf("%s: --%s has no words", path, f.Name)
			}
		})
		s := newShell(t)
		r := s.run(append(strings.Fields(path)[1:], "--help")...)
		if r.code != 0 || r.err != "" || !strings.HasPrefix(r.out, "Usage:  "+path) {
			t.Errorf("%s --help: exit %d: %s%s", path, r.code, r.out, r.err)
		}
		for line := range strings.Lines(r.out) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > helpWidth {
				t.Errorf("%s --help: %d columns: %s", path, n, line)
			}
		}
	})
	if seen < 30 {
		t.Errorf("%d commands were seen", seen)
	}
}

func TestWrap(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"one two three", "one two\nthree"},
		{"one\ntwo three", "one two\nthree"},
		{"one two\n\nthree\n  as it is, whatever it is\nfour", "one two\n\nthree\n  as it is, whatever it is\nfour"},
		{"incomprehensible a", "incomprehensible\na"},
		{"äöü äöü äöü", "äöü äöü\näöü"},
	} {
		if got := Wrap(tt.in, 8); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
}
