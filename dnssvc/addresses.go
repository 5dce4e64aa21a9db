package dnssvc

import (
	"net/netip"
	"slices"

	"weft/store/record"
)

// Addresses returns what a sandbox would be answered with when it asks for the IPv4 addresses of a name now; nothing where the name is not
// answered from the picture. It opens no socket, for those who compare what is answered with what there is.
func Addresses(cfg Config, sb Sandbox, name string) []netip.Addr {
	usable := cfg.Usable
	if usable == nil {
		usable = func(*record.Endpoint) bool { return true }
	}
	l := locals{picture: cfg.Picture, usable: usable, known: newKnowledge(sb), q: question{qtype: typeA}}
	if !l.exists(&entry{found: lookup(cfg.Picture(), sb.Networks, record.Fold(name))}) {
		return nil
	}
	return slices.Clone(l.addrs)
}
