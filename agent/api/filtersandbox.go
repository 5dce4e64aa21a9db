package api

import (
	"slices"
	"strconv"
	"strings"

	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// sandboxStates are docker's; those that a sandbox never has find nothing.
var sandboxStates = []string{"created", "restarting", "running", "removing", "paused", "exited", "dead"}

// sandboxFilter is for the sandboxes all, to which before and since refer.
func sandboxFilter(fs []*weftv1.Filter, all []SandboxView) (func(SandboxView) bool, error) {
	beside := map[string]SandboxView{}
	for _, f := range fs {
		if err := checkSandboxFilter(f, all, beside); err != nil {
			return nil, err
		}
	}
	patterns := namePatterns(fs)
	check := map[string]func(v SandboxView, value string) bool{
		"id":     func(v SandboxView, s string) bool { return strings.HasPrefix(string(v.ID), s) },
		"name":   func(v SandboxView, s string) bool { return patterns.match(s, v.Name) },
		"status": func(v SandboxView, s string) bool { return string(v.Status) == s },
		"exited": func(v SandboxView, s string) bool {
			return v.Status == record.SandboxExited && strconv.Itoa(v.ExitCode) == s
		},
		"label":   func(v SandboxView, s string) bool { return hasLabel(v.Labels, s) },
		"before":  func(v SandboxView, s string) bool { return v.Created.Before(beside[s].Created) },
		"since":   func(v SandboxView, s string) bool { return v.Created.After(beside[s].Created) },
		"publish": func(v SandboxView, s string) bool { return hasPort(v.Ports, s) },
		"expose":  func(v SandboxView, s string) bool { return hasPort(v.Expose, s) || hasPort(v.Ports, s) },
		"network": func(v SandboxView, s string) bool {
			for _, n := range v.Networks {
				if n != nil && (n.Name == s || strings.HasPrefix(string(n.ID), s)) {
					return true
				}
			}
			return false
		},
	}
	for _, f := range fs {
		if check[f.Key] == nil {
			return nil, Refuse(Invalid, "invalid filter '%s'", f.Key)
		}
	}
	return matcher(fs, check), nil
}

// checkSandboxFilter refuses values that mean nothing, and finds what before and since name.
func checkSandboxFilter(f *weftv1.Filter, all []SandboxView, beside map[string]SandboxView) error {
	switch f.Key {
	case "status":
		if !slices.Contains(sandboxStates, f.Value) {
			return Refuse(Invalid, "invalid filter 'status=%s': it is one of %s", f.Value, strings.Join(sandboxStates, ", "))
		}
	case "exited":
		if _, err := strconv.Atoi(f.Value); err != nil {
			return Refuse(Invalid, "invalid filter 'exited=%s': it is an exit code", f.Value)
		}
	case "before", "since":
		i := slices.IndexFunc(all, func(v SandboxView) bool {
			return v.Name == f.Value || f.Value != "" && strings.HasPrefix(string(v.ID), f.Value)
		})
		if i < 0 {
			return Refuse(Invalid, "invalid filter '%s=%s': No such sandbox: %s", f.Key, f.Value, f.Value)
		}
		beside[f.Value] = all[i]
	case "publish", "expose":
		if _, _, ok := portFilter(f.Value); !ok {
			return Refuse(Invalid, "invalid filter '%s=%s': it is PORT[/PROTO]", f.Key, f.Value)
		}
	}
	return nil
}

// portFilter reads PORT[/PROTO].
func portFilter(s string) (port uint16, proto string, ok bool) {
	number, proto, given := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if !given {
		proto = "tcp"
	}
	return uint16(n), proto, err == nil && n > 0
}

func hasPort(ps []record.PortSpec, want string) bool {
	port, proto, _ := portFilter(want)
	return slices.ContainsFunc(ps, func(p record.PortSpec) bool { return p.Proto == proto && p.First <= port && port <= p.Last })
}
