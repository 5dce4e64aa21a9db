package record

import "strconv"

// OptMulticast makes an overlay network carry multicast and broadcast between its hosts.
const OptMulticast = "weft.multicast"

// Multicast tells whether the network carries multicast and broadcast to its other hosts.
func (n *Network) Multicast() bool {
	yes, err := strconv.ParseBool(n.Options[OptMulticast])
	return err == nil && yes
}
