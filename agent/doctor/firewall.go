package doctor

import "strings"

// Firewalls has a check for each chain of others that drops what weft's own rules let pass: a note in words, that ends with what to do
// after a colon.
func Firewalls(obstacles []string) []Check {
	if len(obstacles) == 0 {
		return []Check{{Name: "firewall", Status: OK, Finding: "no chain of others drops all that weft's rules let pass"}}
	}
	var out []Check
	for _, o := range obstacles {
		finding, remedy := o, "let what has weft's mark pass there"
		if at := strings.LastIndex(o, ": "); at >= 0 {
			finding, remedy = o[:at], o[at+2:]
		}
		out = append(out, Check{Name: "firewall", Status: Error, Finding: finding, Remedy: remedy})
	}
	return out
}
