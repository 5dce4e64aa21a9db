package registry

import (
	"net/netip"
	"slices"
	"strings"

	"weft/ipam"
	"weft/store/record"
)

// maxLinkName is the longest name of an interface (IFNAMSIZ less the terminating zero).
const maxLinkName = 15

func checkBridgeName(_ *plan, k, v string) error {
	return checkLinkName(k, v, maxLinkName)
}

// checkIfPrefix leaves room for the number of three digits.
func checkIfPrefix(_ *plan, k, v string) error {
	return checkLinkName(k, v, maxLinkName-3)
}

// checkLinkName refuses what the kernel does not take as an interface's name (dev_valid_name in net/core/dev.c).
func checkLinkName(k, v string, most int) error {
	bad := func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == '%' || r > '~' }
	if v == "" || v == "." || v == ".." || len(v) > most || strings.ContainsFunc(v, bad) {
		return refuse(Invalid, "invalid option %s=%s: it names an interface, with 1 to %d letters, digits or other signs than '/', ':' and '%%'", k, v, most)
	}
	return nil
}

func checkHostBinding(_ *plan, k, v string) error {
	if a, err := netip.ParseAddr(v); err != nil || !a.Is4() {
		return refuse(Invalid, "invalid option %s=%s: it must be an IPv4 address of this host, or 0.0.0.0 for all", k, v)
	}
	return nil
}

// checkBridge refuses a name of a bridge that another network has.
func checkBridge(n *record.Network, view *record.Snapshot) error {
	mine := n.Bridge()
	for o := range view.Networks() {
		if o.ID != n.ID && o.IsLocal() && o.Bridge() == mine {
			return refuse(Exists, "bridge name %s (option %s) is taken by network %s", mine, OptBridgeName, o.Name)
		}
	}
	return nil
}

// localBases is where Docker takes the subnets of bridge networks from.
func localBases() []ipam.Base {
	out := make([]ipam.Base, 0, 16)
	for i := 17; i <= 31; i++ {
		out = append(out, ipam.Base{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i)}), 16), Size: 16})
	}
	return append(out, ipam.Base{Prefix: netip.MustParsePrefix("192.168.0.0/16"), Size: 20})
}

// defaultMTU is that of a bridge, as Docker's.
const defaultMTU = 1500

// localMTU is not more than this host's way out carries: what is larger would be lost where a router on the way tells nobody.
func (r *Registry) localMTU() int {
	if r.cfg.Underlay != nil {
		if mtu := r.cfg.Underlay(); mtu > 0 {
			return min(mtu, defaultMTU)
		}
	}
	return defaultMTU
}

// configuration is a network that holds settings for others as they were given: it takes no pool from anyone, and its pools have the gateways that
// were asked for alone.
func (r *Registry) configuration(spec NetworkSpec, p plan, id record.NetworkID) *record.Network {
	n := &record.Network{
		ID: id, Name: spec.Name, Driver: spec.driver(), Scope: "local", Created: r.created(nil), ConfigOnly: true, IPv6: spec.IPv6, MTU: p.mtu,
		Options: spec.Options, Labels: spec.Labels, IPAMOpts: spec.IPAMOpts, IPAMDriver: spec.IPAMDriver, State: record.Active,
	}
	for _, x := range p.pools {
		pool := record.Pool{Subnet: x.Subnet, IPRange: x.Range, Aux: x.Aux}
		if slices.Contains(spec.Gateways, x.Gateway.String()) {
			pool.Gateway = x.Gateway
		}
		n.Pools = append(n.Pools, pool)
	}
	return n
}

// poolsIn are pools of a record as ipam has them.
func poolsIn(ps []record.Pool) []ipam.Pool {
	out := make([]ipam.Pool, len(ps))
	for i, p := range ps {
		out[i] = ipam.Pool{Subnet: p.Subnet, Gateway: p.Gateway, Range: p.IPRange, Aux: p.Aux}
	}
	return out
}
