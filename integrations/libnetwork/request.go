package libnetwork

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

// Candidate is a network as the agent is to be asked for it.
type Candidate struct {
	Network  *weftv1.ForeignNetwork
	Obstacle string   // why it is not to be asked for, "" if it is
	Notes    []string // what weft's network will not have of Docker's
}

// Options of Docker's overlay driver that weft has too; the VNIs come with the network, and its others are about Docker alone.
const (
	optMTU      = "com.docker.network.driver.mtu"
	optVNIs     = "com.docker.network.driver.overlay.vxlanid_list"
	optReserved = "com.docker."
)

// Candidates says of each network what weft can make of it. It is pure.
func (m Model) Candidates() []Candidate {
	out := make([]Candidate, len(m.Networks))
	for i := range m.Networks {
		out[i] = m.Networks[i].candidate()
	}
	return out
}

func (n *Network) candidate() Candidate {
	c := Candidate{Obstacle: n.obstacle(), Network: &weftv1.ForeignNetwork{
		Id: n.ID, Name: n.Name, Vni: n.VNI(), Internal: n.Internal, Options: map[string]string{}, Labels: n.Labels, IpamOptions: n.IPAMOptions,
	}}
	if !n.Created.IsZero() {
		c.Network.Created = timestamppb.New(n.Created)
	}
	for _, k := range slices.Sorted(maps.Keys(n.Options)) {
		if strings.HasPrefix(k, optReserved) && k != optMTU && k != optVNIs {
			c.note("option %s is left out: it is for Docker's driver alone", k)
			continue
		}
		c.Network.Options[k] = n.Options[k]
	}
	for _, p := range n.Pools {
		c.pool(p)
	}
	for _, ep := range n.Endpoints {
		c.endpoint(ep)
	}
	return c
}

// obstacle says why weft cannot have such a network at all.
func (n *Network) obstacle() string {
	switch {
	case n.Removing:
		return "Docker had begun to remove it"
	case n.Ingress:
		return "it is swarm's ingress network"
	case n.ConfigOnly:
		return "it is a configuration for other networks (--config-only)"
	case n.Driver != "overlay":
		return fmt.Sprintf("its driver is %s, not overlay", n.Driver)
	case n.Scope != "" && n.Scope != "global": // versions before 1.10 wrote none
		return fmt.Sprintf("its scope is %s, not global", n.Scope)
	case n.IPAM != "" && n.IPAM != "default":
		return fmt.Sprintf("its addresses are given out by the IPAM driver %s", n.IPAM)
	case n.Encrypted:
		return "it is encrypted, which this version of weft cannot do; without encryption its traffic would be in the clear"
	}
	return ""
}

// pool takes over an IPv4 pool. IPv6 is left out: Docker's overlay gave such addresses out, and carried no packet of them to another host.
func (c *Candidate) pool(p Pool) {
	if p.Subnet.Addr().Is6() {
		c.note("IPv6 subnet %s is left out: Docker's overlay never carried IPv6 to another host; make a network with --ipv6 where you want it", p.Subnet)
		return
	}
	if p.VNI != 0 && p.VNI != c.Network.Vni {
		c.note("subnet %s had VNI %d for itself: weft has one for the whole network", p.Subnet, p.VNI)
	}
	out := &weftv1.Pool{Subnet: p.Subnet.String(), AuxAddresses: map[string]string{}}
	if p.Gateway.IsValid() {
		out.Gateway = p.Gateway.String()
	}
	if p.Range.IsValid() {
		out.IpRange = p.Range.String()
	}
	for name, a := range p.Aux {
		out.AuxAddresses[name] = a.String()
	}
	c.Network.Pools = append(c.Network.Pools, out)
}

func (c *Candidate) endpoint(ep Endpoint) {
	out := &weftv1.ForeignEndpoint{Id: ep.ID, Name: ep.Name, MacAddress: ep.MAC, Host: ep.Host}
	if ep.Addr.IsValid() {
		out.Address = ep.Addr.String()
	}
	c.Network.Endpoints = append(c.Network.Endpoints, out)
}

func (c *Candidate) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}
