package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// show writes the demo's pages: at most 80 columns, colours only where they are wanted.
type show struct {
	out    io.Writer
	colour bool
	gone   func(error) // told that nobody reads any more
	steps  int
}

const width = 80

const (
	bold  = "\x1b[1m"
	faint = "\x1b[2m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

func (s *show) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return code + text + plain
}

func (s *show) say(text string) {
	if _, err := fmt.Fprintln(s.out, text); err != nil {
		s.gone(err)
	}
}

func (s *show) title(text string) { s.say(s.paint(bold, text)) }

// slow is what a step may take before its time is worth a word.
const slow = time.Second / 10

// step begins a part; the function that it returns ends it, and says how long it took where that was noticeable.
func (s *show) step(text string) func() {
	s.steps++
	began := time.Now()
	s.say("\n" + s.paint(bold, fmt.Sprintf("%d. %s", s.steps, text)))
	return func() {
		if took := time.Since(began); took >= slow {
			s.note("took " + shown(took))
		}
	}
}

// command shows a command line as it would be typed on a host.
func (s *show) command(host, program string, args []string) {
	words := []string{program}
	for _, a := range args {
		words = append(words, quoted(a))
	}
	for i, line := range wrapped(words, width-len(host)-2) {
		if i == 0 {
			s.say(s.paint(green, host+"$ ") + line)
		} else {
			s.say(strings.Repeat(" ", len(host)+2) + line)
		}
	}
}

func quoted(a string) string {
	if strings.ContainsAny(a, " \t'\"") && !strings.HasPrefix(a, " #") {
		return "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return a
}

// wrapped breaks a command line as a shell would take it.
func wrapped(words []string, width int) []string {
	var out []string
	line := words[0]
	for _, w := range words[1:] {
		if len(line)+1+len(w)+2 > width {
			out = append(out, line+` \`)
			line = "  " + w
			continue
		}
		line += " " + w
	}
	return append(out, line)
}

// output shows what a command printed.
func (s *show) output(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if r := []rune(line); len(r) > width {
			line = string(r[:width-1]) + "…"
		}
		s.say(line)
	}
}

// note is the demo's own word on what happened.
func (s *show) note(text string) { s.say(s.paint(faint, "   "+text)) }

// shown is a time as people say it.
func shown(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
