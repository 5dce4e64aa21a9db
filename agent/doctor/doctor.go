// Package doctor judges what an agent has found out about its host and its cluster: each file has the facts of one subject, and a pure function
// from them to checks, each with what was seen and what to do. The agent gathers the facts (agent/doctor*.go).
package doctor

import (
	"fmt"
	"strings"
)

// Status is how a check has ended.
type Status string

// The ends of a check.
const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, and somebody should know
	Error   Status = "error"
	Skipped Status = "skipped" // it could not be looked at, or there was nothing to look at
)

// Check is one thing that was looked at.
type Check struct {
	Name    string // a word for scripts: store, records, kernel, names, tunnel, …
	Subject string // what it is about: a host, a network, …; "" for this host
	Status  Status
	Finding string // what was seen
	Remedy  string // what to do; "" where all is well
}

// shown is how many of many things a finding names.
const shown = 3

// some names a few of many things.
func some(of []string) string {
	if len(of) <= shown {
		return strings.Join(of, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(of[:shown], "; "), len(of)-shown)
}

// counted says how many of something there are.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
