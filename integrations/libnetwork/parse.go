package libnetwork

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Parse reads the networks and endpoints of a tree whose paths begin below docker/network/v1.0. A record that is not what Docker writes is
// a problem of its own and spoils no other.
func Parse(t Tree) Model {
	var m Model
	found := map[string]*Network{}
	for _, id := range t.below("network") {
		key := "network/" + id
		n, err := parseNetwork(t[key])
		if err == nil && n.ID != id {
			err = fmt.Errorf("it names itself %q", n.ID)
		}
		if err != nil {
			m.Problems = append(m.Problems, Problem{key, err})
			continue
		}
		if raw, ok := t["overlay/"+key]; ok {
			if err := n.takeSubnets(raw); err != nil {
				m.Problems = append(m.Problems, Problem{"overlay/" + key, err})
			}
		}
		found[id] = n
	}
	m.Problems = append(m.Problems, takeEndpoints(t, found)...)
	for _, id := range slices.Sorted(maps.Keys(found)) {
		n := found[id]
		slices.SortFunc(n.Endpoints, func(a, b Endpoint) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
		m.Networks = append(m.Networks, *n)
	}
	slices.SortStableFunc(m.Networks, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	return m
}

// takeEndpoints gives each endpoint to its network.
func takeEndpoints(t Tree, found map[string]*Network) []Problem {
	var problems []Problem
	for _, path := range t.below("endpoint") {
		key := "endpoint/" + path
		network, id, ok := strings.Cut(path, "/")
		if !ok || strings.Contains(id, "/") {
			problems = append(problems, Problem{key, errors.New("it is no endpoint's key")})
			continue
		}
		ep, err := parseEndpoint(t[key])
		if err == nil && ep.ID != id {
			err = fmt.Errorf("it names itself %q", ep.ID)
		}
		n := found[network]
		if err == nil && n == nil {
			err = fmt.Errorf("endpoint %s is in a network that has no record", ep.Name)
		}
		if err != nil {
			problems = append(problems, Problem{key, err})
			continue
		}
		n.Endpoints = append(n.Endpoints, ep)
	}
	return problems
}
