package agent

import (
	"net/netip"
	"os"
	"slices"
	"strings"

	"weft/store/record"
)

// resolvConf is what a resolv.conf(5) says.
type resolvConf struct {
	servers         []string
	search, options []string
}

// maxResolvConf is how much of a file is read.
const maxResolvConf = 64 << 10

func parseResolvConf(text string) resolvConf {
	var c resolvConf
	for line := range strings.Lines(text[:min(len(text), maxResolvConf)]) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			c.servers = append(c.servers, f[1])
		case "search", "domain": // the last one counts
			c.search = f[1:]
		case "options":
			c.options = append(c.options, f[1:]...)
		}
	}
	return c
}

func (c resolvConf) String() string {
	var b strings.Builder
	for _, s := range c.servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(c.search) > 0 {
		b.WriteString("search " + strings.Join(c.search, " ") + "\n")
	}
	if len(c.options) > 0 {
		b.WriteString("options " + strings.Join(c.options, " ") + "\n")
	}
	return b.String()
}

// fallbackServers are Docker's, for sandboxes without a resolver of weft's whose host names no server that they could reach.
var fallbackServers = []string{"8.8.8.8", "8.8.4.4"}

// own is the file of a sandbox that is in the default network alone, and asks its host's servers itself: those on the host's loopback are left
// out, which would be the sandbox's own; IPv6 ones too where it has no such address.
func (c resolvConf) own(s *record.Sandbox) resolvConf {
	c.servers = slices.DeleteFunc(slices.Clone(c.servers), func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err != nil || a.IsLoopback() || a.Is6() && !hasIPv6(s)
	})
	if len(c.servers) == 0 {
		c.servers = fallbackServers
	}
	if len(s.DNS) > 0 {
		c.servers = nil
		for _, a := range s.DNS {
			c.servers = append(c.servers, a.String())
		}
	}
	if len(s.DNSSearch) > 0 {
		c.search = s.DNSSearch
	}
	if slices.Equal(c.search, []string{"."}) { // none
		c.search = nil
	}
	if len(s.DNSOptions) > 0 {
		c.options = s.DNSOptions
	}
	return c
}

func hasIPv6(s *record.Sandbox) bool {
	return slices.ContainsFunc(s.Attachments, func(at record.Attachment) bool {
		return slices.ContainsFunc(at.Addrs, netip.Addr.Is6)
	})
}

// Where the host's servers stand; the second is what stands behind systemd-resolved's stub, which listens on loopback.
const (
	hostResolvConf    = "/etc/resolv.conf"
	systemdResolvConf = "/run/systemd/resolve/resolv.conf"
	systemdStub       = "127.0.0.53"
)

// hostResolv is what the host itself uses now.
func hostResolv(read func(string) ([]byte, error)) resolvConf {
	b, _ := read(hostResolvConf) // no file: no server
	c := parseResolvConf(string(b))
	if slices.Equal(c.servers, []string{systemdStub}) {
		if b, err := read(systemdResolvConf); err == nil {
			return parseResolvConf(string(b))
		}
	}
	return c
}

// resolvFile is the sandbox's /etc/resolv.conf; empty leaves the host's, as for a sandbox in the host's network.
func (a *Agent) resolvFile(s *record.Sandbox) string {
	switch {
	case s.NetworkMode != "":
		return ""
	case !a.hasNames(s):
		return hostResolv(os.ReadFile).own(s).String()
	}
	options := s.DNSOptions
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) { // some resolvers take the first
		options = append([]string{"ndots:0"}, options...)
	}
	return resolvConf{servers: []string{"127.0.0.11"}, search: s.DNSSearch, options: options}.String()
}

// hasNames tells whether a sandbox has a resolver of weft's: one in the default network alone has not.
func (a *Agent) hasNames(s *record.Sandbox) bool {
	return len(s.Attachments) == 0 || slices.ContainsFunc(s.Attachments, func(at record.Attachment) bool { return !a.isDefaultNet(at.Network) })
}

func (a *Agent) isDefaultNet(id record.NetworkID) bool {
	n, ok := a.picture().Network(id)
	return ok && isDefault(n)
}
