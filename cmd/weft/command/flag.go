package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

// pairs is a repeatable flag of KEY=VALUE. Without "=" the value is empty.
type pairs map[string]string

func (p pairs) Type() string { return "map" }
func (p pairs) String() string {
	if len(p) == 0 {
		return ""
	}
	return table.Labels(p).String()
}

func (p pairs) Set(s string) error {
	k, v, _ := strings.Cut(s, "=")
	if k == "" {
		return fmt.Errorf("%q has no key: write KEY=VALUE", s)
	}
	p[k] = v
	return nil
}

// addresses is a repeatable flag of NAME=IP, where each name comes once.
type addresses struct{ pairs }

func (a addresses) Set(s string) error {
	name, addr, _ := strings.Cut(s, "=")
	if other, twice := a.pairs[name]; twice {
		return fmt.Errorf("%s is given twice: %s and %s", name, other, addr)
	}
	if name == "" || addr == "" {
		return fmt.Errorf("%q is no NAME=IP", s)
	}
	return a.pairs.Set(s)
}

// filters is a repeatable flag of KEY=VALUE, where a key may come again.
type filters struct {
	list []*weftv1.Filter
	keys []string // that there are
}

func (f *filters) Type() string   { return "filter" }
func (f *filters) String() string { return "" }
func (f *filters) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("bad format of filter (expected name=value)")
	}
	f.list = append(f.list, &weftv1.Filter{Key: strings.ToLower(strings.TrimSpace(k)), Value: strings.TrimSpace(v)})
	return nil
}

// listing are the flags of the commands that list. Without keys there is no --filter.
type listing struct {
	quiet, noTrunc bool
	format         string
	filters        filters
}

func (l *listing) add(cmd *cobra.Command, ids string, keys ...string) {
	f := cmd.Flags()
	f.BoolVarP(&l.quiet, "quiet", "q", false, "Only display "+ids)
	f.BoolVar(&l.noTrunc, "no-trunc", false, "Do not truncate the output")
	f.StringVar(&l.format, "format", "", "Go template, \"table TEMPLATE\", or \"json\"")
	if len(keys) == 0 {
		return
	}
	f.VarP(&l.filters, "filter", "f", "Filter output (KEY=VALUE with "+strings.Join(keys, ", ")+")")
	l.filters.keys = keys
}

// id is an ID as it is to be shown.
func (l *listing) id(id string) string {
	if l.noTrunc {
		return id
	}
	return table.ShortID(id)
}

// show writes the list, or its IDs alone.
func (l *listing) show(c *cli, list table.List) error {
	if !l.quiet || l.format != "" {
		return list.Write(c.env.Out, l.format)
	}
	return list.Write(c.env.Out, "{{.ID}}")
}

// envFlags are -e and --env-file: K=V, or K for the value that K has here. What -e says wins.
type envFlags struct{ vars, files []string }

func (e *envFlags) add(f *pflag.FlagSet) {
	f.StringArrayVarP(&e.vars, "env", "e", nil, "Set environment variables (K=V, or K to pass on the one of this shell)")
	f.StringArrayVar(&e.files, "env-file", nil, "Read in a file of environment variables")
}

func (e *envFlags) resolve(lookup func(string) (string, bool)) ([]string, error) {
	var lines []string
	for _, name := range e.files {
		more, err := readLines("--env-file", name)
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	lines = append(lines, e.vars...)
	var out []string
	at := map[string]int{}
	for _, l := range lines {
		k, _, hasValue := strings.Cut(l, "=")
		if k == "" {
			return nil, fmt.Errorf("invalid environment variable: %s", l)
		}
		if !hasValue {
			v, ok := lookup(k)
			if !ok {
				continue // as docker: one that is not set here is not set there
			}
			l = k + "=" + v
		}
		if i, again := at[k]; again {
			out[i] = l
			continue
		}
		at[k] = len(out)
		out = append(out, l)
	}
	return out, nil
}

// readLines reads a file of K=V or K, one a line, as docker does: without comments.
func readLines(flag, name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", flag, err)
	}
	defer f.Close()
	var out []string
	r := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := r.ReadString('\n')
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("read %s %s: %w", flag, name, err)
		}
		text := strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t")
		k, _, _ := strings.Cut(text, "=")
		switch {
		case text == "" || text[0] == '#':
		case k == "" || strings.ContainsAny(k, " \t"):
			return nil, fmt.Errorf("%s, line %d: variable '%s' is not a valid name", name, n, k)
		default:
			out = append(out, text)
		}
		if err == io.EOF {
			return out, nil
		}
	}
}

// foreign are docker's flags that weft does not have, by name, with the reason. They are there to be refused in plain words.
type foreign map[string]string

func (f foreign) add(cmd *cobra.Command, shorthands map[string]string, boolean ...string) {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		cmd.Flags().VarPF(&refusal{cmd: cmd, name: name, why: f[name]}, name, shorthands[name], "").Hidden = true
	}
	for _, name := range boolean {
		cmd.Flags().Lookup(name).NoOptDefVal = "true"
	}
}

type refusal struct {
	cmd       *cobra.Command
	name, why string
}

func (r *refusal) Type() string   { return "unsupported" }
func (r *refusal) String() string { return "" }
func (r *refusal) Set(string) error {
	return &refused{fmt.Sprintf("--%s is not supported yet: %s", r.name, r.why)}
}

// refused is told apart from a value that is wrong, so that pflag's words around it can be left out.
type refused struct{ text string }

func (r *refused) Error() string { return r.text }

// flagError is what cobra is to say about a flag.
func flagError(cmd *cobra.Command, err error) error {
	var r *refused
	if errors.As(err, &r) {
		return usage(cmd, codeAgent, "weft: %s", r.text)
	}
	return usage(cmd, codeAgent, "%s", err)
}
