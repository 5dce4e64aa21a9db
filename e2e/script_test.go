package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// step is a line of a script, as testdata/page.txt explains it: a command that is typed on a host, with what it is to print, or an action.
type step struct {
	at     string // file:line
	host   string
	line   string
	action bool
	later  bool // it may become true a moment later only
	out    []string
	errs   []string
	code   int
}

var (
	promptLine = regexp.MustCompile(`^([a-z]\w*)(~{0,2})([$!]) (.*)$`)
	modeLine   = regexp.MustCompile(`^\[(one host|three hosts|both)\]$`)
	exitLine   = regexp.MustCompile(`^\[exit (\d+)\]$`)
)

const oneHost, threeHosts = "one host", "three hosts" // modes

// readScript reads the steps that are for a mode.
func readScript(t *testing.T, path, mode string) (out []step) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	lines, number, section := bufio.NewScanner(f), 0, "both"
	for lines.Scan() {
		number++
		line := lines.Text()
		if m := modeLine.FindStringSubmatch(line); m != nil {
			section = m[1]
			continue
		}
		if section != "both" && section != mode || line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := promptLine.FindStringSubmatch(line)
		if m == nil {
			if len(out) == 0 {
				t.Fatalf("%s:%d: there is no command before this answer", path, number)
			}
			out[len(out)-1].answer(line)
			continue
		}
		s := step{at: fmt.Sprintf("%s:%d", path, number), host: m[1], later: m[2] == "~~" || m[2] == "~" && mode == threeHosts, action: m[3] == "!", line: m[4]}
		for strings.HasSuffix(s.line, `\`) && lines.Scan() {
			number++
			s.line += "\n" + lines.Text()
		}
		out = append(out, s)
	}
	must(t, lines.Err())
	return out
}

func (s *step) answer(line string) {
	if m := exitLine.FindStringSubmatch(line); m != nil {
		s.code, _ = strconv.Atoi(m[1]) // digits
	} else if text, ok := strings.CutPrefix(line, "! "); ok {
		s.errs = append(s.errs, text)
	} else {
		s.out = append(s.out, line)
	}
}

// shownValues are what a script has shown so far, by kind:name, and what the test knows, by name.
type shownValues map[string]string

// kinds are the values that a script may show, and what they look like.
var kinds = map[string]string{
	"id": `[0-9a-f]{64}`, "short": `[0-9a-f]{12}`, "ip": `\d+\.\d+\.\d+\.\d+`, "mac": `(?:[0-9a-f]{2}:){5}[0-9a-f]{2}`, "num": `\d+`, "word": `\S+`,
	"time": `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.?\d*(?:Z|[-+]\d\d:\d\d)`,
}

var placeholder = regexp.MustCompile(`<(?:([a-z]+):)?([\w-]+)>`)

// known is the value of a placeholder that was shown before.
func (v shownValues) known(kind, name string) (string, bool) {
	if kind == "short" {
		id, ok := v["id:"+name]
		return id[:min(len(id), 12)], ok
	}
	if kind != "" {
		name = kind + ":" + name
	}
	value, ok := v[name]
	return value, ok
}

// command puts the values into a command. What is no placeholder of the script's stays: it is the shell's.
func (v shownValues) command(line string) string {
	return placeholder.ReplaceAllStringFunc(line, func(p string) string {
		m := placeholder.FindStringSubmatch(p)
		if value, ok := v.known(m[1], m[2]); ok {
			return value
		}
		return p
	})
}

// expression makes one of a line of an answer. Values that it shows for the first time are its groups, whose names it returns.
func (v shownValues) expression(line string) (expr string, shows []string, err error) {
	words := strings.Fields(line)
	for i, w := range words {
		var b strings.Builder
		for {
			at := placeholder.FindStringSubmatchIndex(w)
			if at == nil {
				break
			}
			m := placeholder.FindStringSubmatch(w)
			b.WriteString(regexp.QuoteMeta(w[:at[0]]))
			w = w[at[1]:]
			value, known := v.known(m[1], m[2])
			key := m[1] + ":" + m[2]
			switch {
			case known:
				b.WriteString(regexp.QuoteMeta(value))
			case m[1] == "" && (m[2] == "p" || m[2] == "html"): // of a web page
				b.WriteString(regexp.QuoteMeta(m[0]))
			case kinds[m[1]] == "" || slices.Contains(shows, key):
				return "", nil, fmt.Errorf("nothing is known of %s", m[0])
			default:
				b.WriteString("(" + kinds[m[1]] + ")")
				shows = append(shows, key)
			}
		}
		words[i] = b.String() + regexp.QuoteMeta(w)
	}
	return strings.ReplaceAll(strings.Join(words, `\s+`), "…", ".*"), shows, nil
}

// text compares an answer line by line, blanks for blanks.
func (v shownValues) text(want []string, got string) error {
	var b strings.Builder
	var shows []string
	for _, line := range want {
		if line == "…" {
			b.WriteString(`(?:.*\n)*?`)
			continue
		}
		expr, more, err := v.expression(line)
		if err != nil {
			return err
		}
		b.WriteString(`\s*` + expr + `[ \t]*\n`)
		shows = append(shows, more...)
	}
	if got != "" && !strings.HasSuffix(got, "\n") {
		got += "\n"
	}
	plain := regexp.MustCompile(`\n\s*\n`).ReplaceAllString(strings.ReplaceAll(got, "\r\n", "\n"), "\n")
	m := regexp.MustCompile(`^` + b.String() + `$`).FindStringSubmatch(plain)
	if m == nil {
		return fmt.Errorf("it printed\n%swant\n%s", got, strings.Join(want, "\n"))
	}
	for i, key := range shows {
		v[key] = m[i+1]
	}
	return nil
}

// compare compares an answer: as JSON where it is to be that, and otherwise as text.
func (v shownValues) compare(want []string, got string) error {
	if len(want) < 2 || want[0] != "[" && want[0] != "{" {
		return v.text(want, got)
	}
	var w, g any
	if err := json.Unmarshal([]byte(v.command(strings.Join(want, "\n"))), &w); err != nil {
		return fmt.Errorf("the script has no good JSON: %w", err)
	}
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		return fmt.Errorf("it printed no JSON: %w\n%s", err, got)
	}
	if err := v.json(w, g, "."); err != nil {
		return fmt.Errorf("%w in\n%s", err, got)
	}
	return nil
}

// json compares decoded JSON. Strings are patterns; a key "…" stands for any other keys.
func (v shownValues) json(want, got any, at string) error {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %v, want an object", at, got)
		}
		return v.object(w, g, at)
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return fmt.Errorf("%s is %v, want %d elements", at, got, len(w))
		}
		for i := range w {
			if err := v.json(w[i], g[i], fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	case string:
		if g, ok := got.(string); ok {
			if w == "" || g == "" {
				if w != g {
					return fmt.Errorf("%s is %q, want %q", at, g, w)
				}
				return nil
			}
			if err := v.text([]string{w}, g); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			return nil
		}
	}
	if !reflect.DeepEqual(want, got) {
		return fmt.Errorf("%s is %v, want %v", at, got, want)
	}
	return nil
}

func (v shownValues) object(want, got map[string]any, at string) error {
	_, more := want["…"]
	seen := map[string]bool{}
	for k, w := range want {
		if k == "…" {
			continue
		}
		k = v.command(k)
		g, ok := got[k]
		if !ok {
			return fmt.Errorf("%s has no %q", at, k)
		}
		seen[k] = true
		if err := v.json(w, g, at+k+"."); err != nil {
			return err
		}
	}
	for k := range got {
		if !seen[k] && !more {
			return fmt.Errorf("%s has %q, which is not to be there", at, k)
		}
	}
	return nil
}

// What the scripts rely on: that a wrong answer is seen.
func TestAScriptSeesWhatIsWrong(t *testing.T) {
	t.Parallel()
	v := shownValues{"id:a": strings.Repeat("a", 64), "driver": "bridge"}
	for _, x := range []struct {
		want string
		got  string
		ok   bool
	}{
		{"a  b", "a b\n", true},
		{"a b", "a b c\n", false},
		{"a b", "a b\nc\n", false},
		{"a\n…", "a\nb\nc\n", true},
		{"a\n…\nc", "a\nb\n", false},
		{"<short:a> <driver>", strings.Repeat("a", 12) + "   bridge\n", true},
		{"<short:a> <driver>", strings.Repeat("b", 12) + "   bridge\n", false},
		{"", "x\n", false},
		{"…:8081", "1.2.3.4:8081\n", true},
		{"<ip:new>", "1.2.3.4\n", true},
		{"<ip:new>", "1.2.3.5\n", false}, // it was shown just before
		{"[\n1]", "[1]", true},
		{"{\n\"A\": \"<ip:new>\"}", `{"A":"1.2.3.4","B":1}`, false},
		{"{\n\"A\": \"<ip:new>\", \"…\": \"…\"}", `{"A":"1.2.3.4","B":1}`, true},
		{"{\n\"A\": \"\"}", `{"A":"1.2.3.4"}`, false},
		{"{\n\"A\": null}", `{"A":{}}`, false},
	} {
		var want []string
		if x.want != "" {
			want = strings.Split(x.want, "\n")
		}
		if err := v.compare(want, x.got); (err == nil) != x.ok {
			t.Errorf("want %q, got %q: %v", x.want, x.got, err)
		}
	}
}
