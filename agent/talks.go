package agent

import (
	"net/netip"

	"weft/bridge"
	"weft/store/record"
)

// talks lists what the links of one network lead to: where sandboxes do not reach each other otherwise, a linking one reaches its target at the
// ports that this publishes or exposes. Only sandboxes that are up count. It is pure.
func talks(all map[record.SandboxID]*record.Sandbox, network record.NetworkID) []bridge.Talk {
	var out []bridge.Talk
	for _, s := range all {
		at, ok := s.Attachment(network)
		if !ok || !s.Up {
			continue
		}
		for _, l := range at.Links {
			t := linkTarget(all, l)
			if t == nil || !t.Up {
				continue
			}
			if to, ok := t.Attachment(network); ok {
				out = append(out, talksBetween(at.Addrs, to.Addrs, exposed(t))...)
			}
		}
	}
	return out
}

func talksBetween(from, to []netip.Addr, ports []exposedPort) []bridge.Talk {
	var out []bridge.Talk
	for _, f := range from {
		for _, t := range to {
			for _, p := range ports {
				if f.Is4() == t.Is4() {
					out = append(out, bridge.Talk{From: f, To: t, Proto: p.proto, Port: uint16(p.port)})
				}
			}
		}
	}
	return out
}

// linkTarget is the sandbox of this host that a link means: the one that it was bound to, or else the one of its name or ID.
func linkTarget(all map[record.SandboxID]*record.Sandbox, l record.Link) *record.Sandbox {
	if l.Sandbox != "" {
		return all[l.Sandbox]
	}
	for _, s := range all {
		if record.Fold(s.Name) == record.Fold(l.Target) || string(s.ID) == l.Target || record.ShortID(s.ID) == l.Target {
			return s
		}
	}
	return nil
}
