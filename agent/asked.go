package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"weft/agent/api"
	"weft/ipam"
	"weft/kernel"
	"weft/store/record"
)

// askFor puts into an attachment what a user asks of it: addresses, hardware address, and options.
func askFor(n *record.Network, r api.AttachmentRequest, at *record.Attachment) error {
	var err error
	if at.IP, err = askAddr(n, r.IP, "IPv4"); err != nil {
		return err
	}
	if at.IP6, err = askAddr(n, r.IP6, "IPv6"); err != nil {
		return err
	}
	if at.MAC, err = askMAC(n, r.MAC, at.IP); err != nil {
		return err
	}
	return askOptions(r.DriverOpts, at)
}

// askMAC reads a hardware address that is asked for. One that follows from an address of the network is that address's.
func askMAC(n *record.Network, s string, ip netip.Addr) (record.MAC, error) {
	if s == "" {
		return "", nil
	}
	m, ok := record.ParseMAC(s)
	if !ok {
		return "", api.Refuse(api.Invalid, "%s is not a valid mac address: it has six bytes, as 02:42:0a:00:09:02, is not zero, and not a group's (the first byte is even)", s)
	}
	a, follows := ipam.AddrOf(string(m))
	if _, ours := n.PoolOf(a); !follows || !ours {
		return m, nil
	}
	if a != ip {
		return "", api.Refuse(api.Invalid, "hardware address %s goes with the address %s of network %s: choose another, or add --ip %s", m, a, n.Name, a)
	}
	return "", nil // it has it anyway
}

// Options of an endpoint, as Docker's.
const (
	optIfName  = "com.docker.network.endpoint.ifname"
	optSysctls = "com.docker.network.endpoint.sysctls"
)

// askOptions checks the driver options of an attachment, and takes what they say.
func askOptions(opts map[string]string, at *record.Attachment) error {
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		switch k {
		case optIfName:
			if err := checkIfName(opts[k]); err != nil {
				return err
			}
			at.IfName = opts[k]
		case optSysctls:
			if _, err := settings(opts[k]); err != nil {
				return api.Refuse(api.Invalid, "driver option %s: %w", k, err)
			}
		default:
			return api.Refuse(api.Unsupported, "driver option %s is unknown or not supported: there are %s and %s", k, optIfName, optSysctls)
		}
	}
	return nil
}

// checkIfName refuses what Linux would (dev_valid_name; IFNAMSIZ is 16 with its end), and lo.
func checkIfName(s string) error {
	if s == "" || len(s) > 15 || s == "." || s == ".." || s == "lo" || s == "all" || s == "default" || strings.ContainsAny(s, "/: \t\n\v\f\r\x00%") {
		return api.Refuse(api.Invalid, "driver option %s: %q cannot be an interface's name: it has 1 to 15 bytes, without spaces, '/', ':' and '%%'", optIfName, s)
	}
	return nil
}

// nameInterface gives an attachment's interface the lowest free name, unless one was asked for, which no other of the sandbox's may have.
func nameInterface(s *record.Sandbox, n *record.Network, at *record.Attachment) error {
	if at.IfName == "" {
		at.IfName = freeIfName(s, n)
	}
	for _, o := range s.Attachments {
		if o.IfName == at.IfName && o.Network != at.Network {
			return api.Refuse(api.Exists, "driver option %s: sandbox %s has an interface %s already", optIfName, s.Name, at.IfName)
		}
	}
	return nil
}

// maxSettings is more than any interface needs.
const maxSettings = 64

// settings reads Docker's list of an interface's sysctls, net.ipv4.conf.IFNAME.log_martians=1,…, as kernel.Conf has them.
func settings(s string) (map[string]string, error) {
	out := map[string]string{}
	for _, one := range strings.Split(s, ",") {
		if strings.TrimSpace(one) == "" {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSpace(one), "=")
		f := strings.Split(name, ".")
		if !ok || len(f) != 5 || f[0] != "net" || f[3] != "IFNAME" || strings.ContainsAny(value, "\n\x00") {
			return nil, fmt.Errorf("%q is none of an interface: it looks like net.ipv4.conf.IFNAME.log_martians=1, with the word IFNAME", one)
		}
		dst := f[1] + "/" + f[2] + "/" + f[4]
		if _, err := kernel.ConfPath("eth0", dst); err != nil {
			return nil, err
		}
		if out[dst] = value; len(out) > maxSettings {
			return nil, fmt.Errorf("there are more than %d", maxSettings)
		}
	}
	return out, nil
}

// askAddr reads an address that is asked for; the zero Addr where none is.
func askAddr(n *record.Network, s, version string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4() != (version == "IPv4") || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, api.Refuse(api.Invalid, "invalid %s address: %s", version, s)
	}
	return a, checkIP(n, a)
}
