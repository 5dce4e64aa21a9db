package record

import "strconv"

// Options of local networks.
const (
	OptBridgeName = "com.docker.network.bridge.name"                 // of the bridge in the host
	OptMasquerade = "com.docker.network.bridge.enable_ip_masquerade" // false: what leaves the host keeps its source address
	OptICC        = "com.docker.network.bridge.enable_icc"           // false: sandboxes reach each other by links alone
)

// Bridge is the name of a local network's bridge in the host: the user's, or one that follows from the network's ID, as Docker's do.
func (n *Network) Bridge() string {
	if name := n.Options[OptBridgeName]; name != "" {
		return name
	}
	return "br-" + ShortID(n.ID)
}

// IsLocal tells a network of one host alone, which has a bridge there whether or not it has endpoints.
func (n *Network) IsLocal() bool { return n.Driver == "bridge" && !n.ConfigOnly }

// Masquerades tells whether what leaves the network gets the host's address. Every overlay network does.
func (n *Network) Masquerades() bool { return n.enabled(OptMasquerade) }

// Open tells whether the network's sandboxes reach each other without a link.
func (n *Network) Open() bool { return n.enabled(OptICC) }

// enabled reads an option that is on unless it is switched off, as strconv.ParseBool has it.
func (n *Network) enabled(option string) bool {
	on, err := strconv.ParseBool(n.Options[option])
	return on || err != nil
}
