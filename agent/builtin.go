package agent

import (
	"context"
	"strings"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/store/record"
)

// defaultName is the network of sandboxes that name none: a local one that an agent makes at its first start, without names.
const defaultName = "bridge"

// defaultBridge is its bridge in the host. Docker's is docker0, and may be there as well.
const defaultBridge = "weft0"

// builtin returns the record that stands for a network that is none: "host" or "none".
func builtin(name string) *record.Network {
	switch name {
	case "host":
		return &record.Network{ID: "5ccb84048df26b652a5cb10ea96616fe3a6ff43ae6dbb192942035b8e42912dd", Name: "host", Driver: "host", Scope: "local", State: record.Active}
	case "none":
		return &record.Network{ID: "97491fe5baee80b1b82bd266ca596d7750a402baaf113e79fb5031f42c975253", Name: "none", Driver: "null", Scope: "local", State: record.Active}
	}
	return nil
}

// findBuiltin returns a network that is none by its name, its ID, or the twelve digits of it that tables show.
func findBuiltin(ref string) *record.Network {
	for _, name := range []string{"host", "none"} {
		if n := builtin(name); ref == name || len(ref) >= 12 && strings.HasPrefix(string(n.ID), ref) {
			return n
		}
	}
	return nil
}

// asOld gives a network that is none the age of the default network, which was there from the first moment on as well.
func (a *Agent) asOld(n *record.Network) *record.Network {
	if d, ok := a.local.follower.Picture().NetworkByName(defaultName); ok {
		n.Created = d.Created
	}
	return n
}

// isDefault tells the default network from those that users make: nobody else may have its name.
func isDefault(n *record.Network) bool { return n.Scope == localScope && n.Name == defaultName }

// isBuiltin tells a network that users neither make nor remove.
func isBuiltin(n *record.Network) bool { return isDefault(n) || builtin(n.Name) != nil }

// ensureDefault makes the default network where there is none yet.
func (a *Agent) ensureDefault(ctx context.Context) error {
	if _, there := a.local.follower.Picture().NetworkByName(defaultName); there {
		return nil
	}
	_, err := a.recordLocal(ctx, registry.NetworkSpec{
		Name: defaultName, Driver: bridgeDriver, Builtin: true,
		Options: map[string]string{
			registry.OptBridgeName: defaultBridge, registry.OptDefault: "true", registry.OptICC: "true", registry.OptMasquerade: "true",
			registry.OptHostBinding: "0.0.0.0",
		},
	})
	return err
}

// orDefault adds the default network where none was asked for.
func (a *Agent) orDefault(ctx context.Context, s *record.Sandbox, as []api.AttachmentRequest) ([]api.AttachmentRequest, error) {
	if s.NetworkMode != "" || len(as) > 0 {
		return as, nil
	}
	if err := a.ensureDefault(ctx); err != nil {
		return nil, api.Refuse(api.InUse, "there is no default network on this host, and none can be made: %w; add --network NAME, or --network none or host", err)
	}
	return []api.AttachmentRequest{{Network: defaultName}}, nil
}

// joinable returns the network that an attachment asks for; it refuses those that no sandbox joins so.
func (a *Agent) joinable(ctx context.Context, r api.AttachmentRequest) (*record.Network, error) {
	ref := r.Network
	if n := findBuiltin(ref); n != nil {
		ref = n.Name
	}
	switch ref {
	case "host":
		return nil, api.Refuse(api.Invalid, "container cannot be disconnected from host network or connected to host network")
	case "none":
		return nil, api.Refuse(api.Invalid, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	n, err := a.network(ctx, r.Network)
	switch {
	case err != nil:
		return nil, err
	case n.ConfigOnly:
		return nil, api.Refuse(api.Invalid, "cannot create endpoint on configuration-only network: %s holds settings for others (weft network create --config-from %s)", n.Name, n.Name)
	case isDefault(n) && len(r.Aliases)+len(r.VIPAliases) > 0:
		return nil, api.Refuse(api.Invalid, "Network-scoped alias is supported only for containers in user defined networks: give sandboxes that call each other by name a network of their own (weft network create)")
	}
	return n, nil
}

// leaveBuiltin says why a sandbox cannot leave a network that is none.
func (a *Agent) leaveBuiltin(n *record.Network, target string) error {
	s, err := a.boxes.find(target)
	switch {
	case err != nil:
		return err
	case s.NetworkMode != n.Name:
		return api.Refuse(api.InUse, "container %s is not connected to network %s", target, n.Name)
	case n.Name == "host":
		return api.Refuse(api.Invalid, "container cannot be disconnected from host network or connected to host network")
	}
	return api.Refuse(api.Unsupported, "sandbox %s was made without a network for good (--network none): make it again with --network NAME", s.Name)
}
