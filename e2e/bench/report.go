package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"weft/store/storetest/server"
)

// Row is one line of the report: weft beside its floor, and the bar that was set for it.
type Row struct {
	Store string    `json:"store"` // that it was measured on
	Name  string    `json:"name"`
	Unit  string    `json:"unit"`
	Weft  *Summary  `json:"weft"`
	Peer  string    `json:"peer,omitempty"` // what stands beside it
	Floor *Summary  `json:"floor,omitempty"`
	Ratio *Interval `json:"ratio,omitempty"` // weft / floor
	Bar   string    `json:"bar,omitempty"`
	Met   string    `json:"met,omitempty"` // yes or no
}

// bar is what a row has to reach.
type bar struct {
	text string
	ok   func(Row) bool
}

func atMost(limit float64, unit string) bar {
	return bar{fmt.Sprintf("≤ %s %s", number(limit), unit), func(r Row) bool { return r.Weft.Median <= limit }}
}

func atLeast(limit float64, unit string) bar {
	return bar{fmt.Sprintf("≥ %s %s", number(limit), unit), func(r Row) bool { return r.Weft.Median >= limit }}
}

func ratioAtMost(limit float64) bar {
	return bar{"ratio ≤ " + number(limit), func(r Row) bool { return r.Ratio.Median <= limit }}
}

func ratioAtLeast(limit float64) bar {
	return bar{"ratio ≥ " + number(limit), func(r Row) bool { return r.Ratio.Median >= limit }}
}

// Report is everything that was found.
type Report struct {
	Machine Machine           `json:"machine"`
	Rows    []Row             `json:"rows"`
	Failed  map[string]string `json:"failed,omitempty"` // by part: why it has no, or not all, rows

	store server.Kind // of the rows to come
}

// on tells which store the rows to come were measured on.
func (r *Report) on(kind server.Kind) { r.store = kind }

// pair adds a row with a floor beside it.
func (r *Report) pair(name, unit, peer string, p pairs, b ...bar) {
	if len(p.weft) == 0 {
		return
	}
	ratio := p.ratio()
	r.add(Row{Name: name, Unit: unit, Weft: p.weft.summary(), Peer: peer, Floor: p.floor.summary(), Ratio: &ratio}, b)
}

// single adds a row without one.
func (r *Report) single(name, unit string, s sample, b ...bar) {
	if len(s) > 0 {
		r.add(Row{Name: name, Unit: unit, Weft: s.summary()}, b)
	}
}

func (r *Report) add(row Row, bars []bar) {
	for _, b := range bars {
		row.Bar, row.Met = b.text, "no"
		if b.ok(row) {
			row.Met = "yes"
		}
	}
	row.Store = string(r.store)
	r.Rows = append(r.Rows, row)
}

// Widths of the table's columns; together they stay within 100.
const tableFormat = "%-37s %10s %10s  %-18s %-12s %s\n"

// print writes the table. A second, indented line says what stands beside weft.
func (r *Report) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, r.Machine)
	fmt.Fprintf(&b, "\n"+tableFormat, "what (medians)", "weft", "floor", "ratio [95 %]", "bar", "met?")
	b.WriteString(strings.Repeat("─", 97) + "\n")
	on := ""
	for _, row := range r.Rows {
		if row.Store != on {
			on = row.Store
			fmt.Fprintf(&b, "── on %s\n", on)
		}
		floor, ratio := "", ""
		if row.Floor != nil {
			floor = quantity(row.Floor.Median, row.Unit)
		}
		if i := row.Ratio; i != nil {
			ratio = fmt.Sprintf("%s [%s, %s]", number(i.Median), number(i.Low), number(i.High))
		}
		fmt.Fprint(&b, strings.TrimRight(fmt.Sprintf(tableFormat, row.Name, quantity(row.Weft.Median, row.Unit), floor, ratio, row.Bar, row.Met), " \n")+"\n")
		if row.Peer != "" {
			fmt.Fprintf(&b, "  beside: %s\n", row.Peer)
		}
	}
	for part, why := range r.Failed {
		fmt.Fprintf(&b, "\n%s could not be measured: %s\n", part, why)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// save writes the JSON.
func (r *Report) save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func quantity(v float64, unit string) string {
	if unit == "/s" && v >= 100 {
		return thousands(v) + unit
	}
	return number(v) + " " + unit
}

// number shows three digits that count.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || a == math.Trunc(a):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func thousands(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
