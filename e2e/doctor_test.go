package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// check is one of `weft doctor`'s.
type check struct{ Name, Subject, Status, Finding, Remedy string }

// examined is what doctor says of a host, and its exit code.
func (h *host) examined(options ...string) ([]check, int) {
	h.c.t.Helper()
	r := h.try(append([]string{"doctor", "--format", "json"}, options...)...)
	var out []check
	for line := range strings.Lines(r.Stdout) {
		var c check
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			h.c.t.Fatalf("%s: doctor printed %q: %v", h.Name, line, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		h.c.t.Fatalf("%s: doctor said nothing, exit code %d: %s", h.Name, r.Code, r.Stderr)
	}
	return out, r.Code
}

// well requires that doctor finds nothing wrong on any host that runs.
func (c *cluster) well() {
	c.t.Helper()
	for _, h := range c.hosts {
		if !h.Running() {
			continue
		}
		if r := h.try("doctor"); r.Code != 0 {
			c.t.Errorf("%s is not well:\n%s%s", h.Name, r.Stdout, r.Stderr)
		}
	}
}

func TestDoctorFindsASoundClusterWell(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	h1.weft("network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.2.0.0/24", "db")
	h1.weft("network", "create", "one")
	h1.box("a", "web", "-p", "8080:80")
	h2.box("b", "web", "--network-alias", "v,mode=vip")
	h3.box("d", "db")
	h2.box("e", "db")
	h1.box("f", "one")
	h1.box("g", "bridge")
	c.well()
	t.Log(h1.weft("doctor"))
}
