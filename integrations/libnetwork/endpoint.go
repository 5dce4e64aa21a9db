package libnetwork

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
)

// endpointJSON is endpoint/<network>/<id>, as libnetwork's (*endpoint).MarshalJSON writes it.
type endpointJSON struct {
	ID      string        `json:"id"`
	Name    string        `json:"name"`
	Iface   interfaceJSON `json:"ep_iface"`
	Sandbox string        `json:"sandbox"`
	Locator string        `json:"locator"`
	Aliases []string      `json:"myAliases"`
}

type interfaceJSON struct {
	Addr   string `json:"addr"` // with prefix length
	AddrV6 string `json:"addrv6"`
	MAC    string `json:"mac"`
}

func parseEndpoint(raw []byte) (Endpoint, error) {
	var j endpointJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return Endpoint{}, fmt.Errorf("read an endpoint: %w", err)
	}
	if j.ID == "" || j.Name == "" {
		return Endpoint{}, errors.New("an endpoint without an ID or a name")
	}
	ep := Endpoint{ID: j.ID, Name: j.Name, Aliases: j.Aliases, Sandbox: j.Sandbox, Host: j.Locator}
	var err error
	if j.Iface.Addr != "" {
		if ep.Addr, err = parseHost(j.Iface.Addr); err != nil {
			return Endpoint{}, fmt.Errorf("read endpoint %s: its address: %w", j.Name, err)
		}
	}
	if j.Iface.AddrV6 != "" {
		if ep.Addr6, err = parseHost(j.Iface.AddrV6); err != nil {
			return Endpoint{}, fmt.Errorf("read endpoint %s: its IPv6 address: %w", j.Name, err)
		}
	}
	if j.Iface.MAC != "" {
		mac, err := net.ParseMAC(j.Iface.MAC)
		if err != nil || len(mac) != 6 {
			return Endpoint{}, fmt.Errorf("read endpoint %s: its MAC address %q is none", j.Name, j.Iface.MAC)
		}
		ep.MAC = mac.String()
	}
	return ep, nil
}
