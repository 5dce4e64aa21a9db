package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weft/e2e/lab"
)

// compare says how what weft did differs from what Docker did: of JSON, for the command as such; of all else, for this line.
func compare(l line, docker, weft lab.Result) (out []string) {
	say := func(format string, args ...any) { out = append(out, l.text+": "+fmt.Sprintf(format, args...)) }
	if docker.Code != 0 && !strings.Contains(docker.Stderr, l.says) {
		say("docker does not say %q", l.says)
	}
	if weft.Code != 0 && !strings.Contains(weft.Stderr, l.says) {
		say("does not say %q", l.says)
	}
	if docker.Code != weft.Code {
		say("exit code %d, docker's is %d", weft.Code, docker.Code)
		return out
	}
	theirs, ours := plainText(docker.Stdout), plainText(weft.Stdout)
	if theirs == ours {
		return out
	}
	a, errA := members(docker.Stdout)
	b, errB := members(weft.Stdout)
	if errA != nil || errB != nil {
		compareLines(l.text, theirs, ours, say)
		return out
	}
	for _, d := range compareMembers(a, b) {
		out = append(out, verb(l.text)+": "+d)
	}
	return out
}

// verb is what a line does: its words up to the first that is no command.
func verb(text string) string {
	ws := words(text)
	if len(ws) > 1 && ws[0] == "network" {
		return strings.Join(ws[:2], " ")
	}
	return ws[0]
}

// What cannot be the same in two runs, and what stands for it.
var unlike = []struct {
	form *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "<id>"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "<short id>"},
	{regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+ ?(Z|[-+][0-9:]+( [A-Z]+)?)?`), "<time>"},
	{regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "<mac>"},
}

// plainText is text without what cannot be the same in two runs, and with one blank for several.
func plainText(text string) string {
	for _, u := range unlike {
		text = u.form.ReplaceAllString(text, u.as)
	}
	var out []string
	for line := range strings.Lines(text) {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(out, "\n")
}

// compareLines finds the lines that only one of them has, and where they have the same, that their order differs.
func compareLines(line, theirs, ours string, say func(string, ...any)) {
	a, b := strings.Split(theirs, "\n"), strings.Split(ours, "\n")
	same := true
	for _, l := range a {
		if !slices.Contains(b, l) {
			say("no line %q", l)
			same = false
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			say("a line %q of its own", l)
			same = false
		}
	}
	if same && verb(line) != "network prune" { // which Docker does in no order
		say("lines in the order %q, docker's is %q", b, a)
	}
}

// member is a value of a JSON text, at its place.
type member struct{ path, kind, value string }

// document is a JSON text: all its values in their order, and which keys of one object stand before which.
type document struct {
	list   []member
	before map[[2]string]bool
}

func members(text string) (document, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	out := document{before: map[[2]string]bool{}}
	for i := 0; ; i++ {
		err := listMembers(d, "", &out)
		if errors.Is(err, io.EOF) && i > 0 {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

func listMembers(d *json.Decoder, path string, out *document) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	at := len(out.list)
	out.list = append(out.list, member{path: path})
	this := &out.list[at]
	switch v := t.(type) {
	case json.Delim:
		this.kind = map[json.Delim]string{'{': "object", '[': "list"}[v]
		var earlier []string
		for d.More() {
			inner := path + "[]"
			if v == '{' {
				key, err := d.Token()
				if err != nil {
					return err
				}
				inner = path + "." + plainText(key.(string))
				for _, e := range earlier {
					out.before[[2]string{e, inner}] = true
				}
				earlier = append(earlier, inner)
			}
			if err := listMembers(d, inner, out); err != nil {
				return err
			}
		}
		_, err = d.Token()
		return err
	case string:
		this.kind, this.value = "string", plainText(v)
	case json.Number:
		this.kind, this.value = "number", v.String()
	case bool:
		this.kind, this.value = "boolean", fmt.Sprint(v)
	case nil:
		this.kind = "null"
	}
	return nil
}

// compareMembers finds keys that only one has, another order, other types, and other values.
func compareMembers(theirs, ours document) (out []string) {
	seen := map[string]bool{}
	say := func(format string, args ...any) {
		if s := fmt.Sprintf(format, args...); !seen[s] {
			seen[s], out = true, append(out, s)
		}
	}
	paths := func(ms []member) (out []string) {
		for _, m := range ms {
			if !slices.Contains(out, m.path) {
				out = append(out, m.path)
			}
		}
		return out
	}
	a, b := paths(theirs.list), paths(ours.list)
	for _, p := range a {
		if !slices.Contains(b, p) {
			say("no %s", p)
		}
	}
	for _, p := range b {
		if !slices.Contains(a, p) {
			say("%s of its own", p)
		}
	}
	for _, x := range a {
		for _, y := range a {
			if theirs.before[[2]string{x, y}] && !theirs.before[[2]string{y, x}] && ours.before[[2]string{y, x}] {
				say("%s stands before %s", y, x)
			}
		}
	}
	for _, p := range a {
		if !slices.Contains(b, p) {
			continue
		}
		x, y := at(theirs.list, p), at(ours.list, p)
		switch {
		case x[0].kind != y[0].kind:
			say("%s is %s, docker's is %s", p, y[0].kind, x[0].kind)
		case !slices.Equal(x, y):
			say("%s is %s, docker's is %s", p, values(y), values(x))
		}
	}
	return out
}

// at lists the values of a path, sorted: Docker's lists come out of maps.
func at(ms []member, path string) (out []member) {
	for _, m := range ms {
		if m.path == path {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b member) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.value, b.value)) })
	return out
}

func values(ms []member) string {
	var b bytes.Buffer
	for i, m := range ms {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", m.value)
	}
	return b.String()
}

// What the comparison is to find, and what it is not to take for a difference.
func TestTheOracleSees(t *testing.T) {
	t.Parallel()
	id, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	ok := func(out string) lab.Result { return lab.Result{Stdout: out} }
	for _, tt := range []struct {
		name         string
		docker, weft lab.Result
		want         []string
	}{
		{"the same", ok("x\n"), ok("x\n"), nil},
		{"IDs and blanks", ok(id + "  web\n"), ok(other + "   web\n"), nil},
		{"codes", lab.Result{Code: 1, Stderr: "not found"}, lab.Result{Code: 2, Stderr: "not found"}, []string{"exit code 2, docker's is 1"}},
		{"words", lab.Result{Code: 1, Stderr: "not found"}, lab.Result{Code: 1, Stderr: "gone"}, []string{`does not say "not found"`}},
		{"its words", lab.Result{Code: 1, Stderr: "gone"}, lab.Result{Code: 1, Stderr: "not found"}, []string{`docker does not say "not found"`}},
		{"lines", ok("A B\na\n"), ok("A C\na\n"), []string{`no line "A B"`, `a line "A C" of its own`}},
		{"order of lines", ok("a\nb\n"), ok("b\na\n"), []string{`lines in the order ["b" "a"], docker's is ["a" "b"]`}},
		{"keys", ok(`[{"A":1,"B":2}]`), ok(`[{"A":1,"C":2}]`), []string{"no [].B", "[].C of its own"}},
		{"keys that are IDs", ok(`{"` + id + `":{"A":1}}`), ok(`{"` + other + `":{"A":1}}`), nil},
		{"order of keys", ok(`{"A":1,"B":2}`), ok(`{"B":2,"A":1}`), []string{".B stands before .A"}},
		{"types", ok(`{"A":{}}`), ok(`{"A":null}`), []string{".A is null, docker's is object"}},
		{"values", ok(`{"A":"x","T":"2026-01-02T03:04:05.6Z"}`), ok(`{"A":"y","T":"2026-01-02T03:04:05Z"}`), []string{`.A is "y", docker's is "x"`}},
		{"JSON lines", ok("{\"A\":\"x\"}\n{\"A\":\"y\"}\n"), ok("{\"A\":\"x\"}\n"), []string{`.A is "x", docker's is "x", "y"`}},
	} {
		got := compare(line{text: "ls", says: "not found"}, tt.docker, tt.weft)
		for i := range tt.want {
			tt.want[i] = "ls: " + tt.want[i]
		}
		if tt.name == "JSON lines" {
			got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "ls:  is") })
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
