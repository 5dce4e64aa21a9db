package command

import (
	"net/netip"
	"time"

	weftv1 "weft/proto/weft/v1"
)

// inspectedNetwork is what `network inspect` shows: docker's fields in docker's order, then weft's.
type inspectedNetwork struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       ipamView
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigFrom struct{ Network string }
	ConfigOnly bool
	Containers map[string]containerView
	Options    map[string]string
	Labels     map[string]string
	*verboseNetwork
}

// verboseNetwork is what -v adds.
type verboseNetwork struct {
	VNI       uint32
	MTU       int32
	State     string
	Peers     []peerView
	Endpoints []endpointView
	// VirtualAddresses are those of aliases, with the endpoints that answer behind them.
	VirtualAddresses []virtualView `json:",omitempty"`
}

type virtualView struct {
	Alias     string
	Addresses []string
	Members   []string
}

type ipamView struct {
	Driver  string
	Options map[string]string
	Config  []poolView
}

type poolView struct {
	Subnet             string            `json:",omitempty"`
	IPRange            string            `json:",omitempty"`
	Gateway            string            `json:",omitempty"`
	AuxiliaryAddresses map[string]string `json:",omitempty"`
}

type containerView struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
	Host        string
}

type peerView struct {
	Name      string
	ID        string `json:"Id"`
	Advertise string
	VTEP      string
	State     string
}

type endpointView struct {
	ID        string `json:"Id"`
	Name      string
	SandboxID string
	Host      string
	State     string
	Addresses []string
	Aliases   []string
}

func networkView(r *weftv1.InspectNetworkResponse, verbose bool) inspectedNetwork {
	n := r.Network
	v := inspectedNetwork{
		Name: n.Name, ID: n.Id, Created: moment(n.Created), Scope: n.Scope, Driver: n.Driver, EnableIPv4: n.EnableIpv4, EnableIPv6: n.EnableIpv6,
		IPAM:     ipamView{Driver: n.IpamDriver, Options: n.IpamOptions, Config: []poolView{}},
		Internal: n.Internal, Attachable: n.Attachable, ConfigOnly: n.ConfigOnly, Containers: map[string]containerView{},
		Options: filled(n.Options), Labels: filled(n.Labels),
	}
	v.ConfigFrom.Network = n.ConfigFrom
	if !n.Builtin { // as docker, which asks nobody about those
		v.IPAM.Options = filled(n.IpamOptions)
	}
	for _, p := range n.Pools {
		v.IPAM.Config = append(v.IPAM.Config, poolView{Subnet: p.Subnet, IPRange: p.IpRange, Gateway: p.Gateway, AuxiliaryAddresses: p.AuxAddresses})
	}
	for _, e := range r.Endpoints {
		if !e.Running {
			continue
		}
		v4, v6 := families(e.Addresses)
		v.Containers[e.SandboxId] = containerView{
			Name: e.Name, EndpointID: e.Id, MacAddress: e.MacAddress, IPv4Address: v4, IPv6Address: v6, Host: e.Host,
		}
	}
	if verbose {
		v.verboseNetwork = verboseView(r)
	}
	return v
}

func verboseView(r *weftv1.InspectNetworkResponse) *verboseNetwork {
	v := &verboseNetwork{VNI: r.Network.Vni, MTU: r.Network.Mtu, State: r.Network.State, Peers: []peerView{}, Endpoints: []endpointView{}}
	for _, h := range r.Peers {
		v.Peers = append(v.Peers, peerView{Name: h.Name, ID: h.Id, Advertise: h.Advertise, VTEP: h.Vtep, State: h.State})
	}
	for _, a := range r.VirtualAddresses {
		v.VirtualAddresses = append(v.VirtualAddresses, virtualView{Alias: a.Alias, Addresses: a.Addresses, Members: listed(a.Members)})
	}
	for _, e := range r.Endpoints {
		v.Endpoints = append(v.Endpoints, endpointOf(e))
	}
	return v
}

func endpointOf(e *weftv1.Endpoint) endpointView {
	return endpointView{ID: e.Id, Name: e.Name, SandboxID: e.SandboxId, Host: e.Host, State: e.State, Addresses: e.Addresses, Aliases: e.Aliases}
}

// families finds the first address of each family among CIDRs.
func families(addrs []string) (v4, v6 string) {
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a)
		switch {
		case err != nil:
		case p.Addr().Is4() && v4 == "":
			v4 = a
		case p.Addr().Is6() && v6 == "":
			v6 = a
		}
	}
	return v4, v6
}

// filled is m, and where that is nil an empty map: docker's JSON has {} there.
func filled(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
