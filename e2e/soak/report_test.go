package main

import (
	"strings"
	"testing"
	"time"
)

// Given what was measured, then what is left over, or lost where nothing may be, makes the verdict; what faults may lose does not.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*Report)
		want   string // "": all is well
	}{
		"all is well":                 {func(*Report) {}, ""},
		"a link is left":              {func(r *Report) { r.take("host1", values{"links": 6}) }, "host1 began with 5 links and ended with 6"},
		"a link is missing":           {func(r *Report) { r.take("host1", values{"links": 4}) }, "host1 began with 5 links and ended with 4"},
		"one came and went":           {func(r *Report) { r.take("host1", values{"links": 9}); r.take("host1", values{"links": 5}) }, ""},
		"a key is left":               {func(r *Report) { r.take("store", values{"keys": 31}) }, "store began with 30 keys and ended with 31"},
		"a few goroutines more":       {func(r *Report) { r.take("host1", values{"goroutines": 105}) }, ""},
		"many goroutines more":        {func(r *Report) { r.take("host1", values{"goroutines": 150}) }, "host1 began with 100 goroutines and ended with 150"},
		"packets lost":                {func(r *Report) { r.flows[0].lost = 2 }, "a → b: 2 of 100 were lost where none may be"},
		"packets lost to a cut cable": {func(r *Report) { r.flows[0].excused = 50 }, ""},
		"no packets at all":           {func(r *Report) { r.flows[0].sent = 0 }, "a → b: nothing was sent"},
	} {
		r := newReport()
		r.take("host1", values{"links": 5, "goroutines": 100})
		r.take("store", values{"keys": 30})
		r.flows = []tally{{name: "a → b", sent: 100}}
		tt.change(r)
		got := ""
		if err := r.verdict(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		var b strings.Builder
		if err := r.print(&b); err != nil {
			t.Fatal(err)
		}
		if bad := strings.Contains(b.String(), "LEAK") || strings.Contains(b.String(), "LOST\n"); bad != (tt.want != "") && !strings.Contains(tt.want, "nothing") {
			t.Errorf("%s: the table says otherwise:\n%s", name, b.String())
		}
	}
}

// A packet that was sent in a fault that may lose some is excused, and no other one.
func TestWhichLossesAreExcused(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	var e excuses
	e.begin(at(10))
	for s, want := range map[int]bool{9: false, 10: true, 100: true} {
		if got := e.cover(at(s)); got != want {
			t.Errorf("while it lasts, at %d: %v", s, got)
		}
	}
	e.end(at(20))
	e.begin(at(30))
	e.end(at(31))
	for s, want := range map[int]bool{9: false, 10: true, 20: true, 21: false, 29: false, 30: true, 32: false} {
		if got := e.cover(at(s)); got != want {
			t.Errorf("afterwards, at %d: %v", s, got)
		}
	}
}
