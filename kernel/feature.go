package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Lacks names what weft needs and this kernel cannot do, each with its reason. It tries each in a network namespace that nobody else is in, and
// that ends with it.
func Lacks() (out []string, err error) {
	err = elsewhere(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		for _, f := range []struct {
			name string
			try  func() error
		}{
			{"bridges (CONFIG_BRIDGE)", func() error { return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "b"}}) }},
			{"pairs of interfaces (CONFIG_VETH)", func() error {
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v"}, PeerName: "w"})
			}},
			{"VXLAN (CONFIG_VXLAN)", func() error {
				return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "x"}, VxlanId: 1, Port: 4789})
			}},
			{"nftables in bridges (CONFIG_NF_TABLES_BRIDGE)", func() error {
				return tryChain(nftables.TableFamilyBridge, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nil)
			}},
			{"nftables of both families (CONFIG_NF_TABLES_INET)", func() error {
				return tryChain(nftables.TableFamilyINet, nftables.ChainTypeFilter, nftables.ChainHookForward, nil)
			}},
			{"masquerading (CONFIG_NFT_MASQ, CONFIG_NF_CONNTRACK)", func() error {
				return tryChain(nftables.TableFamilyINet, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, []expr.Any{&expr.Masq{}})
			}},
		} {
			if err := f.try(); err != nil {
				out = append(out, fmt.Sprintf("%s: %v", f.name, err))
			}
		}
		return nil
	})
	return out, err
}

// tryChain makes a table with one chain of a type.
func tryChain(family nftables.TableFamily, typ nftables.ChainType, hook *nftables.ChainHook, rule []expr.Any) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: family, Name: "try"})
	ch := c.AddChain(&nftables.Chain{Name: "try-" + string(typ), Table: t, Type: typ, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
	if rule != nil {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: rule})
	}
	return c.Flush()
}

// ForeignVXLAN is a VXLAN device of others in the host's namespace.
type ForeignVXLAN struct {
	Name string
	VNI  uint32
	Port uint16
}

// ForeignVXLANs lists the VXLAN devices of others in the host's namespace: weft's own are in namespaces of their own. A device of others that was moved
// into another namespace is not seen.
func (k *Kernel) ForeignVXLANs(ctx context.Context) ([]ForeignVXLAN, error) {
	var out []ForeignVXLAN
	err := k.with(HostNS, func(c *conn) error {
		links, err := readLinks(ctx, c)
		for _, l := range links.byIndex {
			if l.kind == "vxlan" {
				out = append(out, ForeignVXLAN{l.name, l.vxlan.VNI, l.vxlan.Port})
			}
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(errors.New("list the VXLAN devices of the host"), err)
	}
	return out, nil
}
