package agent

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/store/record"
)

// A configuration network holds settings and nothing else: it is of this host, has no bridge and no address, and nothing joins it. A network that
// is made from it gets a copy, so that one does not change with the other.

// checkConfigRequest refuses what a configuration network cannot hold, and what one that is copied from leaves no room for.
func checkConfigRequest(r *api.NetworkRequest) error {
	s := &r.Spec
	switch {
	case r.ConfigOnly && r.ConfigFrom != "":
		return api.Refuse(api.Invalid, "a configuration network cannot depend on another configuration network")
	case r.ConfigOnly && (r.Ingress || s.Internal || r.Attachable || r.Scope != ""):
		return api.Refuse(api.Invalid, "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.")
	case r.ConfigFrom == "":
		return nil
	case s.IPv6 || len(s.Subnets)+len(s.Gateways)+len(s.IPRanges)+len(s.Aux)+len(s.Labels)+len(s.IPAMOpts) > 0 || r.IPAMDriver != "" && r.IPAMDriver != "default":
		return api.Refuse(api.Invalid, "user specified configurations are not supported if the network depends on a configuration network: leave out --subnet, --gateway, --ip-range, --aux-address, --ipv6, --label, --ipam-driver and --ipam-opt, or --config-from")
	case len(s.Options) > 0:
		return api.Refuse(api.Invalid, "network driver options are not supported if the network depends on a configuration network: leave out -o, or --config-from")
	}
	return nil
}

// copyConfig fills a request with the settings of the configuration network that it names.
func (a *Agent) copyConfig(r *api.NetworkRequest) error {
	if r.ConfigFrom == "" {
		return nil
	}
	conf, err := a.local.follower.Picture().FindNetwork(r.ConfigFrom)
	if err != nil || !conf.ConfigOnly {
		return api.Refuse(api.NotFound, "configuration network %q does not exist on this host: make it with weft network create --config-only", r.ConfigFrom)
	}
	s := &r.Spec
	s.ConfigFrom, s.Options, s.Labels, s.IPAMOpts = conf.Name, maps.Clone(conf.Options), maps.Clone(conf.Labels), maps.Clone(conf.IPAMOpts)
	s.IPv6, r.IPAMDriver = conf.IPv6, conf.IPAMDriver
	for _, p := range conf.Pools {
		s.Subnets = append(s.Subnets, p.Subnet.String())
		if p.Gateway.IsValid() {
			s.Gateways = append(s.Gateways, p.Gateway.String())
		}
		if p.IPRange.IsValid() {
			s.IPRanges = append(s.IPRanges, p.IPRange.String())
		}
		for name, at := range p.Aux {
			if s.Aux == nil {
				s.Aux = map[string]string{}
			}
			s.Aux[name] = at.String()
		}
	}
	return nil
}

// createConfig makes a configuration network.
func (a *Agent) createConfig(ctx context.Context, spec registry.NetworkSpec) (*record.Network, error) {
	spec.ConfigOnly = true
	return a.recordLocal(ctx, spec)
}

// configUsers refuses the removal of a configuration network that others were made from.
func (a *Agent) configUsers(n *record.Network) error {
	var users []string
	for o := range a.picture().Networks() {
		if n.ConfigOnly && o.ConfigFrom == n.Name {
			users = append(users, o.Name)
		}
	}
	if len(users) == 0 {
		return nil
	}
	return api.Refuse(api.InUse, "configuration network %q is in use: by network %s", n.Name, fmt.Sprint(strings.Join(users, ", ")))
}
