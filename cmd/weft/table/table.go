// Package table shows lists: as a table, as JSON lines, or through the user's Go template, with Docker's placeholders and functions.
// The commands give it rows; nothing here knows where they come from.
package table

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// Row is one thing of a list, by placeholder. Values are strings, as in Docker's JSON, or Labels.
type Row map[string]any

// Label is the placeholder `.Label "key"`.
func (r Row) Label(key string) string {
	l, _ := r["Labels"].(Labels)
	return l[key]
}

// Labels are shown as key=value,key=value, sorted.
type Labels map[string]string

func (l Labels) String() string {
	out := make([]string, 0, len(l))
	for _, k := range slices.Sorted(maps.Keys(l)) {
		out = append(out, k+"="+l[k])
	}
	return strings.Join(out, ",")
}

// MarshalJSON makes them one string, as in Docker's lists.
func (l Labels) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// header has a title for each placeholder.
type header map[string]string

// Label makes a title of a label's key: its last part.
func (header) Label(key string) string {
	return strings.NewReplacer("-", " ", "_", " ").Replace(key[strings.LastIndex(key, ".")+1:])
}

// List is a list and what there is to know for showing it.
type List struct {
	Titles  map[string]string // by placeholder; one that is missing here is its placeholder in upper case
	Default string            // the template of the table that is shown when the user asks for nothing else, without "table "
	Rows    []Row
}

// Write shows l as format asks: "" or "table" is the default table, "table TEMPLATE" a table with those columns, "json" one object a
// line, anything else a template that is executed for each row. Nothing is written when the template is wrong.
func (l List) Write(w io.Writer, format string) error {
	switch body, isTable := cutTable(format); {
	case format == "" || isTable && body == "":
		return l.table(w, l.Default)
	case isTable:
		return l.table(w, body)
	case format == "json":
		return l.template(w, "{{json .}}", "")
	default:
		return l.template(w, format, "")
	}
}

func cutTable(format string) (body string, ok bool) {
	body, ok = strings.CutPrefix(format, "table")
	if !ok || body != "" && body == strings.TrimLeft(body, " \t") {
		return "", false
	}
	return strings.TrimSpace(body), true
}

func (l List) table(w io.Writer, text string) error {
	titles, err := l.titles(text)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if err := l.template(tw, text, titles); err != nil {
		return err
	}
	return tw.Flush()
}

func (l List) titles(text string) (string, error) {
	t, err := Parse(text)
	if err != nil {
		return "", err
	}
	h := header{}
	for _, m := range regexp.MustCompile(`\.([A-Z][A-Za-z0-9]*)`).FindAllStringSubmatch(text, -1) {
		h[m[1]] = strings.ToUpper(m[1])
	}
	maps.Copy(h, l.Titles)
	var b strings.Builder
	if err := t.Funcs(headerFunctions()).Execute(&b, h); err != nil {
		return "", fmt.Errorf("template parsing error: %w", err)
	}
	return b.String() + "\n", nil
}

// template collects everything before it writes: a wrong placeholder must not leave half a list behind.
func (l List) template(w io.Writer, text, titles string) error {
	t, err := Parse(text)
	if err != nil {
		return err
	}
	b := bytes.NewBufferString(titles)
	for _, r := range l.Rows {
		if err := t.Execute(b, r); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		b.WriteByte('\n')
	}
	_, err = w.Write(b.Bytes())
	return err
}
