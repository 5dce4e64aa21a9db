package agent

import (
	"cmp"

	"weft/agent/api"
)

// Drivers that weft has, and those that stand for the built-in networks alone.
const (
	bridgeDriver  = "bridge"
	overlayDriver = "overlay"
)

// checkNetworkRequest fills in what is meant where nothing is said, and refuses what no scope can make.
func checkNetworkRequest(r *api.NetworkRequest) error {
	r.Spec.Driver, r.Spec.Attachable = cmp.Or(r.Spec.Driver, bridgeDriver), r.Attachable
	switch {
	case r.Spec.Driver == "host" || r.Spec.Driver == "null":
		return api.Refuse(api.Invalid, "only one instance of %q network is allowed", r.Spec.Driver)
	case r.Spec.Driver != bridgeDriver && r.Spec.Driver != overlayDriver:
		return api.Refuse(api.Invalid, "could not resolve driver %q: weft has bridge and overlay", r.Spec.Driver)
	case r.Ingress:
		return api.Refuse(api.Unsupported, "--ingress: this node is not in swarm mode; weft has no ingress network: publish the ports of the sandboxes instead (weft run -p), on each host that is to take connections")
	}
	if err := checkConfigRequest(r); err != nil {
		return err
	}
	return checkScope(r)
}

// checkScope: a driver has one scope, which can be said and not changed.
func checkScope(r *api.NetworkRequest) error {
	of := map[string]string{bridgeDriver: localScope, overlayDriver: globalScope}[r.Spec.Driver]
	switch r.Scope {
	case "", of:
		return nil
	case localScope, globalScope:
		return api.Refuse(api.Invalid, "a network of driver %s has scope %s, and not %s: leave --scope out", r.Spec.Driver, of, r.Scope)
	case "swarm":
		return api.Refuse(api.Unsupported, "--scope swarm: this node is not in swarm mode; a network that all hosts see is made with -d overlay, and has scope global")
	}
	return api.Refuse(api.Invalid, "invalid scope %q: it is local or global", r.Scope)
}
