package agent

import (
	"maps"
	"net/netip"
	"slices"

	"weft/agent/api"
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
	if len(r.DriverOpts) > 0 {
		return api.Refuse(api.Unsupported, "driver option %s is unknown to the overlay driver", slices.Sorted(maps.Keys(r.DriverOpts))[0])
	}
	if r.MAC != "" {
		return api.Refuse(api.Unsupported, "--mac-address %s: this version derives the address from the IP address", r.MAC)
	}
	return nil
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
