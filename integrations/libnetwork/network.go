package libnetwork

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// networkJSON is network/<id>, as libnetwork's (*network).MarshalJSON writes it.
type networkJSON struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Created    string            `json:"created"`
	Driver     string            `json:"networkType"`
	Scope      string            `json:"scope"`
	Labels     map[string]string `json:"labels"`
	IPAM       string            `json:"ipamType"`
	IPAMOpts   map[string]string `json:"ipamOptions"`
	IPv6       bool              `json:"enableIPv6"`
	Generic    genericJSON       `json:"generic"`
	V4Config   string            `json:"ipamV4Config"` // JSON: []poolConfigJSON
	V4Info     string            `json:"ipamV4Info"`   // JSON: []poolInfoJSON
	V6Config   string            `json:"ipamV6Config"`
	V6Info     string            `json:"ipamV6Info"`
	Internal   bool              `json:"internal"`
	Ingress    bool              `json:"ingress"`
	ConfigOnly bool              `json:"configOnly"`
	InDelete   bool              `json:"inDelete"`
}

type genericJSON struct {
	Options map[string]any `json:"com.docker.network.generic"` // the user's -o
}

// poolConfigJSON is what the user asked for.
type poolConfigJSON struct {
	PreferredPool, SubPool, Gateway string
	AuxAddresses                    map[string]string
}

// poolInfoJSON is what IPAM gave.
type poolInfoJSON struct {
	IPAMData string // JSON: ipamDataJSON
	PoolID   string // SPACE/SUBNET[/RANGE]
}

type ipamDataJSON struct {
	Pool, Gateway string            // with prefix lengths
	AuxAddresses  map[string]string // the same
}

const optEncrypted = "encrypted"

func parseNetwork(raw []byte) (*Network, error) {
	var j networkJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, fmt.Errorf("read a network: %w", err)
	}
	if j.ID == "" || j.Name == "" || j.Driver == "" {
		return nil, errors.New("a network without an ID, a name or a driver")
	}
	n := &Network{
		ID: j.ID, Name: j.Name, Driver: j.Driver, Scope: j.Scope, IPAM: j.IPAM, Internal: j.Internal, IPv6: j.IPv6, Ingress: j.Ingress,
		ConfigOnly: j.ConfigOnly, Removing: j.InDelete, Labels: j.Labels, IPAMOptions: j.IPAMOpts,
	}
	if j.Created != "" { // versions before 1.12 have none
		var err error
		if n.Created, err = time.Parse(time.RFC3339, j.Created); err != nil {
			return nil, fmt.Errorf("read network %s: when it was made: %w", j.Name, err)
		}
	}
	for k, v := range j.Generic.Options {
		if n.Options == nil {
			n.Options = map[string]string{}
		}
		n.Options[k] = fmt.Sprint(v)
	}
	_, n.Encrypted = n.Options[optEncrypted]
	for _, p := range []struct{ what, info, config string }{{"IPv4 pools", j.V4Info, j.V4Config}, {"IPv6 pools", j.V6Info, j.V6Config}} {
		pools, err := parsePools(p.info, p.config)
		if err != nil {
			return nil, fmt.Errorf("read network %s: its %s: %w", j.Name, p.what, err)
		}
		n.Pools = append(n.Pools, pools...)
	}
	return n, nil
}

// parsePools takes the pools as IPAM gave them. A range is in the pool's ID and in what the user asked for; the latter is easier to read.
func parsePools(info, config string) ([]Pool, error) {
	if info == "" {
		return nil, nil
	}
	var given []poolInfoJSON
	if err := json.Unmarshal([]byte(info), &given); err != nil {
		return nil, err
	}
	var asked []poolConfigJSON
	if config != "" {
		if err := json.Unmarshal([]byte(config), &asked); err != nil {
			return nil, err
		}
	}
	var pools []Pool
	for i, g := range given {
		p, err := parsePool(g)
		if err != nil {
			return nil, err
		}
		if i < len(asked) && asked[i].SubPool != "" {
			if p.Range, err = parsePrefix(asked[i].SubPool); err != nil {
				return nil, fmt.Errorf("the range of %s: %w", p.Subnet, err)
			}
		}
		pools = append(pools, p)
	}
	return pools, nil
}

func parsePool(g poolInfoJSON) (Pool, error) {
	var p Pool
	var d ipamDataJSON
	err := json.Unmarshal([]byte(g.IPAMData), &d)
	if err != nil {
		return p, err
	}
	if p.Subnet, err = parsePrefix(d.Pool); err != nil {
		return p, fmt.Errorf("subnet: %w", err)
	}
	if d.Gateway != "" {
		if p.Gateway, err = parseHost(d.Gateway); err != nil {
			return p, fmt.Errorf("the gateway of %s: %w", p.Subnet, err)
		}
	}
	for name, a := range d.AuxAddresses {
		addr, err := parseHost(a)
		if err != nil {
			return p, fmt.Errorf("the auxiliary address %s of %s: %w", name, p.Subnet, err)
		}
		if p.Aux == nil {
			p.Aux = map[string]netip.Addr{}
		}
		p.Aux[name] = addr
	}
	return p, nil
}

// parsePrefix reads a subnet; Docker may write an address within it.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// parseHost reads an address, which may have a prefix length.
func parseHost(s string) (netip.Addr, error) {
	host, _, _ := strings.Cut(s, "/")
	a, err := netip.ParseAddr(host)
	return a.Unmap(), err
}

// overlayJSON is overlay/network/<id>; the first versions wrote the subnets alone.
type overlayJSON struct {
	Secure  bool         `json:"secure"`
	Subnets []subnetJSON `json:"subnets"`
}

type subnetJSON struct {
	SubnetIP string
	Vni      uint32
}

// takeSubnets gives the pools the VNIs that the overlay driver chose for them.
func (n *Network) takeSubnets(raw []byte) error {
	var o overlayJSON
	if err := json.Unmarshal(raw, &o); err != nil {
		if err := json.Unmarshal(raw, &o.Subnets); err != nil {
			return fmt.Errorf("read the VNIs of network %s: %w", n.Name, err)
		}
	}
	n.Encrypted = n.Encrypted || o.Secure
	for _, s := range o.Subnets {
		subnet, err := parsePrefix(s.SubnetIP)
		if err != nil {
			return fmt.Errorf("read the VNIs of network %s: %w", n.Name, err)
		}
		i := slices.IndexFunc(n.Pools, func(p Pool) bool { return p.Subnet == subnet })
		if i < 0 {
			return fmt.Errorf("read the VNIs of network %s: it has no subnet %s", n.Name, subnet)
		}
		n.Pools[i].VNI = s.Vni
	}
	return nil
}
