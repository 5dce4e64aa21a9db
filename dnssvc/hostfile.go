package dnssvc

import (
	"net/netip"
	"os"
	"strings"
)

// Where every sandbox finds its resolver.
const (
	resolverAddr = "127.0.0.11"
	resolverPort = 53
)

const hostResolvConf = "/etc/resolv.conf"

// HostUpstreams returns the servers that the host's own programs ask, in their order, as /etc/resolv.conf names them now.
func HostUpstreams() []netip.AddrPort {
	b, err := os.ReadFile(hostResolvConf)
	if err != nil {
		return nil // no file: no server
	}
	return parseResolvConf(string(b))
}

// maxUpstreams is how many servers of a file or a sandbox are used (resolv.conf(5) allows 3).
const maxUpstreams = 8

func parseResolvConf(text string) []netip.AddrPort {
	var addrs []netip.Addr
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			addrs = append(addrs, a)
		}
	}
	return serversAt(addrs)
}

// serversAt returns the servers at addresses, each once and never this resolver itself, which would ask itself for ever.
func serversAt(addrs []netip.Addr) []netip.AddrPort {
	var out []netip.AddrPort
	seen := map[netip.Addr]bool{netip.MustParseAddr(resolverAddr): true}
	for _, a := range addrs {
		if a = a.Unmap(); !a.IsValid() || seen[a] || len(out) == maxUpstreams {
			continue
		}
		seen[a] = true
		out = append(out, netip.AddrPortFrom(a, resolverPort))
	}
	return out
}
