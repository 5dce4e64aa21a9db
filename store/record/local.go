package record

// OptBridgeName is the option that names a local network's bridge in the host.
const OptBridgeName = "com.docker.network.bridge.name"

// Bridge is the name of a local network's bridge in the host: the user's, or one that follows from the network's ID, as Docker's do.
func (n *Network) Bridge() string {
	if name := n.Options[OptBridgeName]; name != "" {
		return name
	}
	return "br-" + ShortID(n.ID)
}

// IsLocal tells a network of one host alone, which has a bridge there whether or not it has endpoints.
func (n *Network) IsLocal() bool { return n.Driver == "bridge" && !n.ConfigOnly }
