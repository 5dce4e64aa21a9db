package registry

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"weft/store/record"
)

// Options that weft knows.
const (
	OptMTU          = "com.docker.network.driver.mtu"
	OptIfPrefix     = "com.docker.network.container_iface_prefix"
	OptBridgeName   = record.OptBridgeName
	OptMasquerade   = record.OptMasquerade
	OptICC          = record.OptICC
	OptHostBinding  = "com.docker.network.bridge.host_binding_ipv4"
	OptDefault      = "com.docker.network.bridge.default_bridge"
	OptRouteOverlap = "weft.allow_route_overlap"
	OptMulticast    = record.OptMulticast
	// OptVNIs is how Docker's users asked for VNIs. It is kept with a network that brings its own; nobody else may ask.
	OptVNIs = "com.docker.network.driver.overlay.vxlanid_list"
)

// option is one that weft knows: of which drivers, and what its value must be.
type option struct {
	drivers string // "" is all
	why     string // others do not have it
	check   func(p *plan, key, value string) error
}

var options = map[string]option{
	OptMTU:          {check: checkMTU},
	OptIfPrefix:     {check: checkIfPrefix},
	OptBridgeName:   {drivers: "bridge", check: checkBridgeName},
	OptMasquerade:   {drivers: "bridge", check: isBool(nil)},
	OptICC:          {drivers: "bridge", check: isBool(nil)},
	OptHostBinding:  {drivers: "bridge", check: checkHostBinding},
	OptAliasMode:    {check: checkAliasMode},
	OptMulticast:    {drivers: "overlay", why: ": a bridge delivers multicast and broadcast to all its sandboxes anyway", check: isBool(nil)},
	OptRouteOverlap: {check: isBool(func(p *plan, yes bool) { p.allowOverlap = yes })},
}

// checkOptions refuses what weft does not know of its own and of Docker's namespace: nothing that is asked for is silently ignored. Other keys
// are kept as they are.
func (p *plan) checkOptions(driver string, given map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(given)) {
		o, known := options[k]
		switch {
		case known && (o.drivers == "" || o.drivers == driver || driver == "null"): // a configuration is for either driver
			if err := o.check(p, k, given[k]); err != nil {
				return err
			}
		case known:
			return refuse(Invalid, "option %s is for networks of driver %s%s; the network was not created", k, o.drivers, o.why)
		case k == OptVNIs && p.given, k == OptDefault && p.builtin:
		case k == "encrypted" && driver == "overlay":
			return refuse(Unsupported, "option %s: encryption is not supported yet; the network was not created", k)
		case strings.HasPrefix(k, "com.docker.") || strings.HasPrefix(k, "weft.") || k == "encrypted":
			return refuse(Unsupported, "option %s is unknown or not supported yet by the %s driver; the network was not created", k, driver)
		}
	}
	return nil
}

func checkMTU(p *plan, k, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 576 || n > 65535-50 {
		return refuse(Invalid, "invalid option %s=%s: it must be a number of bytes from 576 to 65485", k, v)
	}
	p.mtu = n
	return nil
}

// isBool takes what strconv.ParseBool takes, as Docker does.
func isBool(set func(*plan, bool)) func(*plan, string, string) error {
	return func(p *plan, k, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return refuse(Invalid, "invalid option %s=%s: it must be true or false", k, v)
		}
		if set != nil {
			set(p, b)
		}
		return nil
	}
}

// checkAliasMode is for OptAliasMode.
func checkAliasMode(_ *plan, k, v string) error {
	if v != AliasVIP && v != AliasDNS {
		return refuse(Invalid, "invalid option %s=%s: it is %s (an alias has one address, and connections are balanced over its members) or %s (it has the addresses of its members)", k, v, AliasVIP, AliasDNS)
	}
	return nil
}

// OptionNames lists the options that networks of a driver can have, sorted.
func OptionNames(driver string) []string {
	var out []string
	for k, o := range options {
		if o.drivers == "" || strings.Contains(o.drivers, driver) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}
