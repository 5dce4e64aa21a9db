// Package libnetwork reads the networks that Docker kept in a key-value store for `dockerd --cluster-store`, up to Docker 20.10. It stands
// beside the flow: the import command reads the old store with it, and asks the agent, by the admin contract, to make the same networks.
// It only ever reads.
//
//	store (etcd's v2 API, Consul, ZooKeeper) → Tree: path → value → Model: networks and endpoints
//
// What libnetwork wrote, below docker/network/v1.0, and below the path of the --cluster-store URL where that had one:
//
//	network/<id>                        name, driver, options, labels, and its pools as JSON within JSON within JSON
//	overlay/network/<id>                the driver's own part: each IPv4 subnet's VNI, which is 0 until the first container joins
//	endpoint/<network>/<id>             name, addresses, MAC, aliases, sandbox and host
//	endpoint_count/<id>, idm/…, ipam/…  counters and bitmaps, which say nothing that the records do not say better
package libnetwork

import (
	"net/netip"
	"time"
)

// Model is what a tree holds.
type Model struct {
	Networks []Network // by name and then ID, each with its endpoints
	Problems []Problem // records that could not be read, and what was left out with them
}

// Problem is a key whose value is not what Docker writes.
type Problem struct {
	Key string
	Err error
}

// Network is one of Docker's networks of scope global.
type Network struct {
	ID, Name, Driver, Scope string
	Created                 time.Time // zero where an old version did not write it
	IPAM                    string    // the IPAM driver
	Pools                   []Pool    // both families, as they were given; IPv4 first
	Internal, IPv6          bool
	Ingress, ConfigOnly     bool
	Removing                bool // Docker had begun to remove it
	Encrypted               bool
	Options, Labels         map[string]string
	IPAMOptions             map[string]string
	Endpoints               []Endpoint // by name and then ID
}

// Pool is a subnet of a network.
type Pool struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
	Range   netip.Prefix // zero: the whole subnet
	Aux     map[string]netip.Addr
	VNI     uint32 // 0: none yet
}

// Endpoint is one container's interface in one network.
type Endpoint struct {
	ID, Name    string
	Addr, Addr6 netip.Addr // zero where it has none
	MAC         string
	Aliases     []string // with the container's short ID, as Docker has it there
	Sandbox     string   // "" where no container is joined
	Host        string   // the address that its dockerd advertised
}

// VNI is the first that Docker gave to one of the network's subnets, 0 where it has none yet: weft has one for a network.
func (n *Network) VNI() uint32 {
	for _, p := range n.Pools {
		if p.VNI != 0 {
			return p.VNI
		}
	}
	return 0
}
