package kernel

import (
	"cmp"
	"context"
	"strings"
)

// OwnAlias begins the alias of a bridge that weft has made in the host's namespace: "weft " and the network's ID. Such a bridge may have any name.
const OwnAlias = "weft "

// HostLink is an interface of the host.
type HostLink struct {
	Kind string // bridge, veth, …; "physical" where the kernel has no word for it
	Ours bool   // weft made it
}

// HostLink returns the host's interface of a name.
func (k *Kernel) HostLink(name string) (l HostLink, ok bool, err error) {
	err = k.with(HostNS, func(c *conn) error {
		links, err := readLinks(context.Background(), c)
		if err != nil {
			return err
		}
		var i linkInfo
		if i, ok = links.byName[name]; ok {
			l = HostLink{Kind: cmp.Or(i.kind, "physical"), Ours: isOwnLink(i)}
		}
		return nil
	})
	return l, ok, err
}

// isOwnLink tells a link of the host that weft has made from others': bridges by their alias, uplinks by their name.
func isOwnLink(l linkInfo) bool {
	return strings.HasPrefix(l.alias, OwnAlias) || l.kind == "veth" && strings.HasPrefix(l.name, "weft")
}
