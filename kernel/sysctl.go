package kernel

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// ownSysctls are those whose values are read back in a network's namespace; hostSysctls, in the host's.
var (
	ownSysctls = []string{
		"net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter", "net/ipv4/conf/all/send_redirects",
		"net/ipv4/conf/default/send_redirects", "net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6", "net/ipv6/conf/all/forwarding",
		"net/ipv6/conf/default/accept_dad", "net/ipv6/conf/default/accept_ra",
		"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables", "net/bridge/bridge-nf-call-arptables",
	}
	hostSysctls = []string{"net/ipv4/ip_forward"}
)

// absent tells a sysctl whose module is not loaded: bridge netfilter is off then, and IPv6 too.
func absent(name string, err error) bool {
	return errors.Is(err, os.ErrNotExist) && (strings.HasPrefix(name, "net/bridge/") || strings.HasPrefix(name, "net/ipv6/"))
}

func readSysctls(c *conn, ns string, names []string, out State) error {
	return inside(c.ns, func() error {
		for _, name := range names {
			b, err := os.ReadFile("/proc/sys/" + name)
			value := strings.TrimSpace(string(b))
			if absent(name, err) {
				if value, err = "0", nil; strings.HasSuffix(name, "disable_ipv6") {
					value = "1"
				}
			}
			if err != nil {
				return fmt.Errorf("read sysctl: %w", err)
			}
			out.Add(Object{Key: Key{Kind: KindSysctl, NS: ns, Link: name}, Spec: Sysctl{Value: value}})
		}
		return nil
	})
}

// writeSysctls sets values as the namespace sees them.
func writeSysctls(c *conn, ops []Op) []error {
	errs := make([]error, len(ops))
	err := inside(c.ns, func() error {
		for i, o := range ops {
			name, value := o.Obj.Link, o.Obj.Spec.(Sysctl).Value
			err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
			if err != nil && !absent(name, err) {
				errs[i] = fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
			}
		}
		return nil
	})
	if err != nil {
		return each(ops, err)
	}
	return errs
}
