package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// span is how something began and ended, and its largest value between.
type span struct {
	begin, end, max int64
	known           bool
}

func (s *span) add(v int64) {
	if !s.known {
		s.begin, s.known = v, true
	}
	s.end, s.max = v, max(s.max, v)
}

// Report is what a soak has come to.
type Report struct {
	Took    time.Duration
	Actions int
	Faults  map[faultKind]int
	Checks  int
	spans   map[string]map[string]*span // by whose it is, and measure
	whose   []string                    // in order
	flows   []tally
}

// tally is what became of the packets, or questions, of one way.
type tally struct {
	name                string
	sent, lost, excused int64 // excused: lost in a fault that may lose some
	longest             time.Duration
}

func newReport() *Report {
	return &Report{Faults: map[faultKind]int{}, spans: map[string]map[string]*span{}}
}

// take takes a sample in.
func (r *Report) take(whose string, v values) {
	if r.spans[whose] == nil {
		r.spans[whose] = map[string]*span{}
		r.whose = append(r.whose, whose)
	}
	for name, n := range v {
		if r.spans[whose][name] == nil {
			r.spans[whose][name] = &span{}
		}
		r.spans[whose][name].add(n)
	}
}

// leak tells whether something is left of what came and went.
func (m measure) leak(s span) bool {
	if m.exact {
		return s.end != s.begin
	}
	return s.end > m.grown(s.begin)
}

func (r *Report) print(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d actions, %d checks of all that must agree; faults:", r.Took.Round(time.Second), r.Actions, r.Checks)
	for _, k := range faultKinds {
		fmt.Fprintf(w, " %d× %s", r.Faults[k], k)
	}
	fmt.Fprint(w, "\n\n")
	tw := tabwriter.NewWriter(w, 0, 1, 3, ' ', 0)
	fmt.Fprintln(tw, "WHOSE\tMEASURE\tBEGIN\tEND\tMAX\tVERDICT")
	for _, whose := range r.whose {
		for _, m := range append(append([]measure(nil), measures...), storeMeasure) {
			if s := r.spans[whose][m.name]; s != nil {
				fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%d\t%s\n", whose, m.name, s.begin, s.end, s.max, word(m.leak(*s), "leak"))
			}
		}
	}
	fmt.Fprintln(tw, "\nWAY\tSENT\tLOST\tIN FAULTS THAT MAY\tLONGEST GAP\tVERDICT")
	for _, f := range r.flows {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%s\t%s\n", f.name, f.sent, f.lost, f.excused, f.longest.Round(time.Millisecond), word(f.lost > 0, "lost"))
	}
	return tw.Flush()
}

func word(bad bool, s string) string {
	if bad {
		return strings.ToUpper(s)
	}
	return "ok"
}

// verdict is an error for each thing that should not be.
func (r *Report) verdict() error {
	var errs []error
	for _, whose := range r.whose {
		for _, m := range append(append([]measure(nil), measures...), storeMeasure) {
			if s := r.spans[whose][m.name]; s != nil && m.leak(*s) {
				errs = append(errs, fmt.Errorf("%s began with %d %s and ended with %d", whose, s.begin, m.name, s.end))
			}
		}
	}
	for _, f := range r.flows {
		switch {
		case f.lost > 0:
			errs = append(errs, fmt.Errorf("%s: %d of %d were lost where none may be", f.name, f.lost, f.sent))
		case f.sent == 0:
			errs = append(errs, fmt.Errorf("%s: nothing was sent", f.name))
		}
	}
	return errors.Join(errs...)
}
