package kernel

import (
	"cmp"
	"context"
)

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
			l = HostLink{Kind: cmp.Or(i.kind, "physical"), Ours: i.madeHere()}
		}
		return nil
	})
	return l, ok, err
}
