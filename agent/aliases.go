package agent

import (
	"slices"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/store/record"
)

// setAliases checks the aliases that a sandbox asks for in a network, and tells which of them have a virtual address.
func setAliases(at *record.Attachment, n *record.Network, r api.AttachmentRequest) error {
	at.Aliases = uniqueAliases(slices.Concat(r.Aliases, r.VIPAliases))
	at.VIPAliases = uniqueAliases(r.VIPAliases)
	if n.Options[registry.OptAliasMode] == registry.AliasVIP {
		at.VIPAliases = slices.Clone(at.Aliases)
	}
	if len(at.VIPAliases) > 0 && n.IPAMDriver != "" && n.IPAMDriver != "default" {
		return api.Refuse(api.Unsupported, "alias %s cannot have a virtual address: the addresses of network %s are given out by %s", at.VIPAliases[0], n.Name, n.IPAMDriver)
	}
	for _, alias := range at.Aliases {
		if err := registry.CheckName("alias", alias); err != nil {
			return kindOf(err)
		}
	}
	return nil
}

// aliasesFit refuses an alias that others use the other way: with a virtual address for some and without for others, nobody could say what it
// resolves to. Two that come at once may both be let in: then the virtual address has the name.
func aliasesFit(n *record.Network, net *record.Net, want record.Attachment) error {
	for _, alias := range want.Aliases {
		virtual := slices.ContainsFunc(want.VIPAliases, func(a string) bool { return record.Fold(a) == record.Fold(alias) })
		v, _ := net.VIP(alias)
		if v != nil && !virtual {
			return api.Refuse(api.Exists, "alias %s has a virtual address in network %s, and its members share it: give it as %s,mode=vip, or choose another alias", alias, n.Name, alias)
		}
		if !virtual || v != nil {
			continue
		}
		for _, ep := range net.ByLabel(alias) {
			if ep.ID != want.Endpoint && ep.HasAlias(alias) {
				return api.Refuse(api.Exists, "alias %s is one without a virtual address in network %s, of %s among others: give it without mode=vip, or choose another alias", alias, n.Name, ep.Name)
			}
		}
	}
	return nil
}
