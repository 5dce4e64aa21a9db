package table

import (
	"strings"
	"testing"
	"time"
)

func list() List {
	return List{
		Default: "{{.ID}}\t{{.Name}}",
		Titles:  map[string]string{"ID": "THING ID"},
		Rows: []Row{
			{"ID": "1", "Name": "a <b>", "Labels": Labels{"z": "1", "com.example.my-team": "x"}},
			{"ID": "222222222222", "Name": "ünï", "Labels": Labels(nil)},
		},
	}
}

func TestWrite(t *testing.T) {
	tests := []struct{ format, want string }{
		{"", "THING ID       NAME\n1              a <b>\n222222222222   ünï\n"},
		{"table", "THING ID       NAME\n1              a <b>\n222222222222   ünï\n"},
		{"table {{.Name}}", "NAME\na <b>\nünï\n"},
		{`table {{.Name}}\t{{.Label "com.example.my-team"}}`, "NAME      my team\na <b>     x\nünï       \n"},
		{`table {{truncate (upper .Name) 2}}` + "\t" + `{{.Labels}}`, "NAME      LABELS\nA         com.example.my-team=x,z=1\nÜN        \n"},
		{"{{.Name}}", "a <b>\nünï\n"},
		{`{{.ID}}\n{{.Name}}`, "1\na <b>\n222222222222\nünï\n"},
		{"tables are fine: {{.ID}}", "tables are fine: 1\ntables are fine: 222222222222\n"},
		{"json", `{"ID":"1","Labels":"com.example.my-team=x,z=1","Name":"a <b>"}` + "\n" + `{"ID":"222222222222","Labels":"","Name":"ünï"}` + "\n"},
		{"{{json .Labels}}", `"com.example.my-team=x,z=1"` + "\n" + `""` + "\n"},
		{"{{pad .ID 1 1}}|{{pad \"\" 3 3}}|{{title .Name}}|{{println .ID}}", " 1 ||A <b>|1\n\n 222222222222 ||Ünï|222222222222\n\n"},
	}
	for _, tt := range tests {
		var b strings.Builder
		if err := list().Write(&b, tt.format); err != nil {
			t.Errorf("%s: %v", tt.format, err)
		}
		if b.String() != tt.want {
			t.Errorf("%s:\n%q, want\n%q", tt.format, b.String(), tt.want)
		}
	}
}

func TestWriteNothingWhenTheTemplateIsWrong(t *testing.T) {
	for _, format := range []string{"{{", "{{.Nope}}", "table {{.Nope}}", "{{nope .ID}}", "table {{nope .ID}}", "{{.ID.Deep}}"} {
		var b strings.Builder
		err := list().Write(&b, format)
		if err == nil || !strings.HasPrefix(err.Error(), "template parsing error: template: ") || b.Len() > 0 {
			t.Errorf("%s: %v, and %q was written", format, err, b.String())
		}
	}
}

func TestEmptyListHasTitles(t *testing.T) {
	l := list()
	l.Rows = nil
	var b strings.Builder
	if err := l.Write(&b, ""); err != nil || b.String() != "THING ID   NAME\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	b.Reset()
	if err := l.Write(&b, "json"); err != nil || b.String() != "" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func TestAgo(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		d    time.Duration
		want string
	}{
		{-time.Second, "Less than a second"}, {0, "Less than a second"}, {time.Second, "1 second"}, {59 * time.Second, "59 seconds"},
		{time.Minute, "About a minute"}, {2 * time.Minute, "2 minutes"}, {59 * time.Minute, "59 minutes"}, {time.Hour, "About an hour"},
		{89 * time.Minute, "About an hour"}, {90 * time.Minute, "2 hours"}, {47 * time.Hour, "47 hours"}, {2 * day, "2 days"}, {13 * day, "13 days"},
		{14 * day, "2 weeks"}, {59 * day, "8 weeks"}, {60 * day, "2 months"}, {700 * day, "23 months"}, {730 * day, "2 years"},
	}
	for _, tt := range tests {
		if got := Ago(tt.d); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.d, got, tt.want)
		}
	}
}

func TestShorten(t *testing.T) {
	for in, want := range map[string]string{"abc": "abc", "abcd": "abcd", "abcde": "abc…", "äöüßé": "äöü…"} {
		if got := Shorten(in, 4); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	if got := ShortID("0123456789abcdef"); got != "0123456789ab" {
		t.Error(got)
	}
}
