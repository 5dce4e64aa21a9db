package port

import "weft/store/record"

// UplinkName is the host's end of an overlay network's uplink.
func UplinkName(id record.NetworkID) string { return "weft" + string(id[:min(10, len(id))]) }
