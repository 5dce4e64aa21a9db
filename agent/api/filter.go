package api

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	weftv1 "weft/proto/weft/v1"
)

// Filters are Docker's: values of one key are alternatives (labels: all must hold), keys are combined.

func networkFilter(fs []*weftv1.Filter) (func(NetworkView) bool, error) {
	patterns := namePatterns(fs)
	check := map[string]func(v NetworkView, value string) bool{
		"id":     func(v NetworkView, s string) bool { return strings.HasPrefix(string(v.ID), s) },
		"name":   func(v NetworkView, s string) bool { return patterns.match(s, v.Name) },
		"driver": func(v NetworkView, s string) bool { return v.Driver == s },
		"scope":  func(v NetworkView, s string) bool { return v.Scope == s },
		"type":   func(v NetworkView, s string) bool { return v.Builtin == (s == "builtin") },
		"label":  func(v NetworkView, s string) bool { return hasLabel(v.Labels, s) },
		"dangling": func(v NetworkView, s string) bool {
			dangling, _ := strconv.ParseBool(s)
			return isDangling(v) == dangling
		},
	}
	for _, f := range fs {
		switch {
		case check[f.Key] == nil:
			return nil, Refuse(Invalid, "invalid filter '%s'", f.Key)
		case f.Key == "type" && f.Value != "builtin" && f.Value != "custom":
			return nil, Refuse(Invalid, "invalid filter: 'type'='%s': it is builtin or custom", f.Value)
		case f.Key == "scope" && f.Value != "local" && f.Value != "global" && f.Value != "swarm":
			return nil, Refuse(Invalid, "invalid filter: 'scope'='%s': it is local or global", f.Value)
		case f.Key == "dangling":
			if _, err := strconv.ParseBool(f.Value); err != nil {
				return nil, Refuse(Invalid, "invalid filter: 'dangling'='%s': it is true or false", f.Value)
			}
		}
	}
	return matcher(fs, check), nil
}

// asks tells whether one of the filters is of a key.
func asks(fs []*weftv1.Filter, key string) bool {
	return slices.ContainsFunc(fs, func(f *weftv1.Filter) bool { return f.Key == key })
}

// patternSet holds the values of name filters as regular expressions, as far as they are some.
type patternSet map[string]*regexp.Regexp

func namePatterns(fs []*weftv1.Filter) patternSet {
	out := patternSet{}
	for _, f := range fs {
		if f.Key == "name" && len(f.Value) <= maxPattern {
			out[f.Value], _ = regexp.Compile(f.Value) // one that is none is a text
		}
	}
	return out
}

// maxPattern bounds a pattern, in bytes: no name is longer.
const maxPattern = 253

// match is Docker's: the name contains the text, or matches it.
func (p patternSet) match(text, name string) bool {
	return strings.Contains(name, text) || p[text] != nil && p[text].MatchString(name)
}

// isDangling tells a network that nothing uses. One whose endpoints are not known is not said to be.
func isDangling(v NetworkView) bool {
	return v.Known && !v.Builtin && !v.ConfigOnly && !v.Used && len(v.Endpoints) == 0
}

func endpointFilter(fs []*weftv1.Filter) (func(EndpointView) bool, error) {
	check := map[string]func(v EndpointView, value string) bool{
		"id":      func(v EndpointView, s string) bool { return strings.HasPrefix(string(v.ID), s) },
		"name":    func(v EndpointView, s string) bool { return strings.Contains(v.Name, s) },
		"sandbox": func(v EndpointView, s string) bool { return strings.HasPrefix(string(v.Sandbox), s) || v.Name == s },
		"network": func(v EndpointView, s string) bool {
			return v.Network != nil && v.Network.Name == s || strings.HasPrefix(string(v.Endpoint.Network), s)
		},
		"host":  func(v EndpointView, s string) bool { return v.HostName == s || strings.HasPrefix(string(v.Host), s) },
		"state": func(v EndpointView, s string) bool { return v.State == s },
	}
	for _, f := range fs {
		if check[f.Key] == nil {
			return nil, Refuse(Invalid, "invalid filter '%s'", f.Key)
		}
	}
	return matcher(fs, check), nil
}

func matcher[V any](fs []*weftv1.Filter, check map[string]func(V, string) bool) func(V) bool {
	return func(v V) bool {
		held := map[string]bool{}
		for _, f := range fs {
			ok, seen := check[f.Key](v, f.Value), false
			if _, seen = held[f.Key]; !seen {
				held[f.Key] = ok
				continue
			}
			if f.Key == "label" {
				held[f.Key] = held[f.Key] && ok
			} else {
				held[f.Key] = held[f.Key] || ok
			}
		}
		for _, ok := range held {
			if !ok {
				return false
			}
		}
		return true
	}
}

func hasLabel(labels map[string]string, want string) bool {
	k, v, withValue := strings.Cut(want, "=")
	have, ok := labels[k]
	return ok && (!withValue || have == v)
}
